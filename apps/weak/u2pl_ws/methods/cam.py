"""CAM: the classifier's refined activation maps supervise the segmentation head (the baseline)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.supervised import balance_counts, balanced_cross_entropy, connected_zero
from u2pl.maps import upsample
from u2pl.methods.method import Method, MethodConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.networks.parts import NORMS
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.schedules import Progress
from u2pl_ws.activation_maps import ActivationConfig, activation_maps
from u2pl_ws.batches import TagBatch
from u2pl_ws.map_labels import (
    BACKGROUND,
    TaggedMaps,
    refined_label,
    refined_maps_label,
    tagged_maps,
)
from u2pl_ws.pixel_refinement import Kernel, affinity_kernel, half_size


class CamConfig(MethodConfig):
    """Options of cam; the defaults are AFA's."""

    warm_start: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the steps with the classification loss only; 2 000 of 20 000 in AFA",
    )
    cam: ActivationConfig = Field(
        ActivationConfig(), description="activation maps and their pseudo-labels (U2PL+ Eqs 5, 8)"
    )
    lambda_seg: float = Field(0.1, ge=0, description="weight of the segmentation loss (U2PL+ Eq 7)")
    freeze_norms: bool = Field(
        False, description="freeze the weights of the encoder's normalisation layers"
    )


class Terms(NamedTuple):
    """What a step computes."""

    losses: dict[str, Tensor]
    output: SegOutput
    cam_BKHW: Tensor | None = None  # None during the warm start


class Cam(Method[TagBatch]):
    """L = L_tags + lambda_seg L_seg."""

    Config: ClassVar[type[MethodConfig]] = CamConfig
    uses_unlabeled = False
    warming = "on tags alone"
    joining = "the labels made from the activation maps join"
    config: CamConfig

    def __init__(self, config: CamConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        if config.freeze_norms:
            freeze_norms(student.encoder)

    def forward(self, batch: TagBatch, progress: Progress) -> StepResult:
        return weighted_sum(self.weights(), **self.terms(batch, progress).losses)

    def terms(self, batch: TagBatch, progress: Progress) -> Terms:
        """The losses of a step."""
        if self.warming_up(progress):
            return self.tags_alone(batch)

        # 1. classification loss on the tags
        output = self.student(batch.image, embed=self.uses_embedding)
        tags = self.tag_loss(output, batch)

        # 2. refined activation maps give pseudo-labels, 255 where uncertain
        cam = activation_maps(self.student, batch.image, batch.tags, self.config.cam.scales)
        maps, kernel = self.prepared(cam, batch)
        label = refined_label(maps, kernel, batch.valid, self.config.cam.levels)

        # 3. the segmentation head learns from the pseudo-labels
        return Terms({"tags": tags, "seg": self.segmentation_loss(output, label)}, output, cam)

    def tags_alone(self, batch: TagBatch) -> Terms:
        """A step of the warm start: runs the encoder and the image-level classifier only."""
        deep = self.student.encoder(self.student.prepare(batch.image))[-1]
        busy = ("student.encoder.", "student.tagger.")
        trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        idle = connected_zero(*(p for name, p in trained if not name.startswith(busy)))
        output = SegOutput(deep, None, deep)
        return Terms({"tags": self.tag_loss(output, batch) + idle}, output)

    def tag_loss(self, output: SegOutput, batch: TagBatch) -> Tensor:
        """L_tags: multi-label soft margin loss of the classifier (U2PL+ Eq 6)."""
        assert output.deep is not None
        logits = self.student.tag_logits(output.deep).float()
        return F.multilabel_soft_margin_loss(logits, batch.tags.float())

    def prepared(self, cam_BKHW: Tensor, batch: TagBatch) -> tuple[TaggedMaps, Kernel]:
        """The maps of the tagged classes, and the half-size image's kernel that refines them."""
        maps = tagged_maps(cam_BKHW, batch.tags, self.config.cam.most_tags or None)
        return maps, affinity_kernel(half_size(batch.image))

    def segmentation_loss(self, output: SegOutput, label_BHW: Tensor) -> Tensor:
        """L_seg: balanced cross entropy over the pixels of all processes (U2PL+ Eq 7)."""
        logits = upsample(output.logits, label_BHW.shape[-2:])
        counts = distributed.average(balance_counts(label_BHW))
        return balanced_cross_entropy(logits, label_BHW, counts)

    @torch.no_grad()
    def explain(
        self, image_B3HW: Tensor, valid_BHW: Tensor, tags_BK: Tensor | None, progress: Progress
    ) -> dict[str, Tensor]:
        assert tags_BK is not None
        cam, more = self.explained_maps(image_B3HW, tags_BK)
        maps = tagged_maps(cam, tags_BK)
        kernel, levels = affinity_kernel(half_size(image_B3HW)), self.config.cam.levels
        refined = refined_maps_label(maps, kernel, valid_BHW, BACKGROUND)
        label = refined_label(maps, kernel, valid_BHW, levels)
        shown = super().explain(image_B3HW, valid_BHW, tags_BK, progress)
        return {
            "activation": cam.amax(dim=1),
            "refined": refined.to(torch.uint8),
            "label": label.to(torch.uint8),
            **shown,
            **more,
        }

    def explained_maps(
        self, image_B3HW: Tensor, tags_BK: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The activation maps [B, K, H, W], and what else their computation has to show."""
        return activation_maps(self.student, image_B3HW, tags_BK, self.config.cam.scales), {}

    def weights(self) -> dict[str, float]:
        """Weights of the losses; that of L_tags is 1."""
        return {"seg": self.config.lambda_seg}


def freeze_norms(encoder: nn.Module) -> None:
    """Exclude the weights of normalisation layers from training."""
    for module in encoder.modules():
        if isinstance(module, NORMS):
            module.requires_grad_(False)
