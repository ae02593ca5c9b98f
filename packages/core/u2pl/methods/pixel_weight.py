"""How much each pseudo-labelled pixel counts: an option of the methods with pseudo-labels.

A method owns a `PixelWeight`, asks its network for `looks`, and multiplies its loss on
pseudo-labels by the weights it is given; it does not know how they come about.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.pseudo_label import confident_label
from u2pl.losses.supervised import cross_entropy
from u2pl.maps import downsample, one_hot
from u2pl.memory.class_queue import ClassQueue, take_first
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import label_accuracy
from u2pl.methods.pixel_contrast import Pixels, all_rows
from u2pl.mixing.masks import inside_boxes
from u2pl.mixing.mixers import Mixed
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.notation import IGNORE
from u2pl.pseudo.rank_statistics import rank_weight, shared_channels


class PixelWeightConfig(BaseModel):
    """Weight of a pseudo-label by rank statistics; the defaults are Weighting-PL's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none", "rank_statistics"] = Field(
        "none",
        description="none: all pseudo-labels that are learned from count alike; rank_statistics: "
        "by the strongest channels that a pixel shares with its class (Weighting-PL sec. 3.4)",
    )
    rule: Literal["paper", "released"] = Field(
        "paper",
        description="weight s / K; or 1 + s / K, with the loss divided by the sum of the weights "
        "(released code)",
    )
    channels: int = Field(
        5, gt=0, description="strongest channels that are compared, K (Weighting-PL sec. 3.4)"
    )
    confidence: float = Field(
        0.95,
        ge=0,
        lt=1,
        description="probability that a pixel's class must exceed for the pixel to shape the "
        "class's prototype",
    )
    memory: int = Field(
        256,
        gt=0,
        description="features that a class's prototype is the mean of, of labelled pixels and as "
        "many of unlabelled ones inside boxes (Weighting-PL supp. Tab. 4)",
    )
    new: int = Field(
        16, gt=0, description="maximum new features of a class and step in each memory (ours)"
    )


class Looks(NamedTuple):
    """A network's outputs for a step's images."""

    labeled: SegOutput | None  # None if no weight asks for it
    clean: SegOutput  # of the unlabelled images


class Weights(NamedTuple):
    """The weight of each pseudo-label, and what to log."""

    weight_BHW: Tensor | None  # float32; None: all are 1
    scalars: dict[str, Tensor]


class PixelWeight(nn.Module):
    """Weights pseudo-labels, and keeps the features that the classes' prototypes are means of.

    Everything is that of the global batch: every process holds the same features.

    Args:
        config: kind and sizes.
        student: a network like those of `looks`; it is not kept.
        num_classes: C.
    """

    def __init__(self, config: PixelWeightConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.active = config.kind != "none"
        if self.active:
            lengths, width = [config.memory] * num_classes, student.feature_dim
            self.channels = min(config.channels, width)
            self.labeled, self.unlabeled = (ClassQueue(lengths, width) for _ in range(2))

    def looks(self, network: nn.Module, batch: PairBatch, **options: Any) -> Looks:
        """The network's outputs for the clean unlabelled images and, if needed, the labelled ones.

        Args:
            network: a student or a teacher.
            batch: the step's.
            options: of the network's forward.
        """
        if not self.active:
            return Looks(None, network(batch.image_u, **options))
        both: SegOutput = network(torch.cat([batch.image_l, batch.image_u]), **options)
        return Looks(*both.split(len(batch.image_l)))

    @torch.no_grad()
    def forward(
        self,
        looks: Looks,
        batch: PairBatch,
        label_BHW: Tensor,
        generator: torch.Generator,
    ) -> Weights:
        """Remember features of the step's sure pixels, then weight the pseudo-labels.

        Args:
            looks: from `looks`, or made by the method.
            batch: the step's.
            label_BHW: integer pseudo-labels of the clean unlabelled images.
            generator: the step's generator, equal on all processes, on the images' device.
        """
        if not self.active:
            return Weights(None, {})
        assert looks.labeled is not None
        feature_l, feature_u = looks.labeled.feature, looks.clean.feature
        assert feature_l is not None and feature_u is not None

        # 1. memory: labelled pixels that are surely right, unlabelled ones that a box agrees with
        right_l = self._sure(looks.labeled.logits, batch.label_l.long())
        self._remember(self.labeled, feature_l, right_l, generator)
        sure_u = self._sure(looks.clean.logits, torch.where(batch.valid_u, label_BHW, IGNORE))
        agreed_u = sure_u
        if batch.boxes_u.shape[1]:
            inside = downsample(inside_boxes(batch.boxes_u, label_BHW))
            agreed_u = torch.where(inside, sure_u, IGNORE)
            self._remember(self.unlabeled, feature_u, agreed_u, generator)

        # 2. weight: the strongest channels that a pixel shares with its class's prototype
        prototype_CD, known_C = self.prototypes()
        shared = shared_channels(feature_u, prototype_CD, label_BHW, self.channels)
        known = known_C[label_BHW]
        weight = rank_weight(shared, known, self.channels, self.config.rule)
        return Weights(weight, self._scalars(weight, label_BHW, batch, sure_u, agreed_u))

    def divisor(self, counted_BHW: Tensor, weight_BHW: Tensor | None) -> Tensor:
        """What a loss over the counted pixels is divided by: their number, or sum of weights.

        Args:
            counted_BHW: bool, or a float weight of the method's own.
            weight_BHW: as from `forward`, mixed like the labels.
        """
        if weight_BHW is not None and self.config.rule == "released":
            return distributed.average((counted_BHW * weight_BHW).sum())
        return distributed.average(counted_BHW.sum())

    def confident_loss(self, logits_BCHW: Tensor, view: Mixed, confidence: float) -> Tensor:
        """Cross entropy of the confident pixels, summed and divided by the number of valid ones.

            sum(weight[i] * CE(logits[i], label[i]) for i in valid if top[i] >= confidence) / valid

        Args:
            logits_BCHW: for a view of unlabelled images.
            view: its maps are pseudo-labels, their probabilities, and weights as from `forward`.
            confidence: probability from which a pixel is learned from.
        """
        label, top, weight = view.maps
        target = confident_label(label, top, view.valid_BHW, confidence)
        return cross_entropy(logits_BCHW, target, self.divisor(view.valid_BHW, weight), weight)

    def prototypes(self) -> tuple[Tensor, Tensor]:
        """Mean of each class's features, float32 [C, D], and which classes have labelled ones."""
        # rows that are not filled yet are 0
        sums_CD, others_CD = (
            queue.rows[:-1].unflatten(0, (self.num_classes, -1)).sum(dim=1)
            for queue in (self.labeled, self.unlabeled)
        )
        count_C = (self.labeled.filled + self.unlabeled.filled).clamp(min=1)
        return (sums_CD + others_CD) / count_C.unsqueeze(1), self.labeled.filled > 0

    def _sure(self, logits_BChw: Tensor, label_BHW: Tensor) -> Tensor:
        """The label at feature size, 255 where the network does not surely predict it."""
        label = downsample(label_BHW)
        top, predicted = logits_BChw.float().softmax(dim=1).max(dim=1)
        return torch.where((predicted == label) & (top > self.config.confidence), label, IGNORE)

    def _remember(
        self,
        queue: ClassQueue,
        feature_BDhw: Tensor,
        label_Bhw: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Enqueue the features of a few random pixels of each class."""
        pixels = Pixels.of(label_Bhw, 1)
        member_CN = one_hot(label_Bhw, self.num_classes).transpose(0, 1).flatten(1)
        member_CN = pixels.gather(member_CN)
        order = torch.randperm(member_CN.shape[1], generator=generator, device=member_CN.device)
        taken = take_first(member_CN, self.config.new, order)
        queue.push(taken, pixels.rows(all_rows(feature_BDhw)))

    def _scalars(
        self,
        weight_BHW: Tensor,
        label_BHW: Tensor,
        batch: PairBatch,
        sure_Bhw: Tensor,
        agreed_Bhw: Tensor,
    ) -> dict[str, Tensor]:
        """Mean weights, and how right the sure pixels are, those inside boxes too."""
        valid, truth = batch.valid_u, batch.truth_u
        right = (label_BHW == truth) & valid
        wrong = (label_BHW != truth) & valid & (truth != IGNORE)
        scalars = {
            "weight/all": distributed.share((weight_BHW * valid).sum(), valid.sum()),
            "weight/right": distributed.share((weight_BHW * right).sum(), right.sum()),
            "weight/wrong": distributed.share((weight_BHW * wrong).sum(), wrong.sum()),
            "memory_fill": self.labeled.filled.float().mean() / self.config.memory,
        }
        if batch.boxes_u.shape[1]:
            sure, agreed, small = sure_Bhw != IGNORE, agreed_Bhw != IGNORE, downsample(truth)
            scalars["agreeing_share"] = distributed.share(agreed.sum(), sure.sum())
            scalars["accuracy/sure"] = label_accuracy(sure_Bhw, small, sure)
            scalars["accuracy/in_boxes"] = label_accuracy(agreed_Bhw, small, agreed)
        return scalars
