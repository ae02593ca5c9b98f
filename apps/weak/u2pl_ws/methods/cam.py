"""CAM: the classifier's activation maps, refined by the image, are the labels of the segmentation head (the baseline)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.supervised import balance_counts, balanced_cross_entropy, connected_zero
from u2pl.maps import upsample
from u2pl.methods.method import Method, MethodConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.schedules import Progress
from u2pl_ws.activation_maps import ActivationConfig, activation_maps
from u2pl_ws.batches import TagBatch
from u2pl_ws.map_labels import TaggedMaps, refined_label, tagged_maps
from u2pl_ws.pixel_refinement import Kernel, affinity_kernel, half_size


class CamConfig(MethodConfig):
    """Options of cam; the defaults are AFA's."""

    warm_start: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the steps that learn from tags alone; 2 000 of 20 000 in AFA",
    )
    cam: ActivationConfig = Field(
        ActivationConfig(), description="activation maps and the labels they make (000 Eqs 5, 8)"
    )
    lambda_seg: float = Field(0.1, ge=0, description="weight of the segmentation loss (000 Eq 7)")
    freeze_norms: bool = Field(
        False, description="the encoder's normalisation layers keep their pretrained weights"
    )


class Terms(NamedTuple):
    """What a step has computed."""

    losses: dict[str, Tensor]
    output: SegOutput
    cam_BKHW: Tensor | None = None  # None in a step that learns from tags alone


class Cam(Method[TagBatch]):
    """L = L_tags + lambda_seg L_seg."""

    Config: ClassVar[type[MethodConfig]] = CamConfig
    uses_unlabeled = False
    warming = "on tags alone"
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

        # 1. the classifier learns from the tags
        output = self.student(batch.image, embed=self.uses_embedding)
        tags = self.tag_loss(output, batch)

        # 2. its activation maps, refined by the image, are labels where they are certain
        cam = activation_maps(self.student, batch.image, batch.tags, self.config.cam.scales)
        maps, kernel = self.prepared(cam, batch)
        label = refined_label(maps, kernel, batch.valid, self.config.cam.levels)

        # 3. the segmentation head learns from them
        return Terms({"tags": tags, "seg": self.segmentation_loss(output, label)}, output, cam)

    def tags_alone(self, batch: TagBatch) -> Terms:
        """The encoder and the classifier; nothing else is computed."""
        deep = self.student.encoder(self.student.prepare(batch.image))[-1]
        busy = ("student.encoder.", "student.tagger.")
        idle = connected_zero(
            *(
                p
                for name, p in self.named_parameters()
                if p.requires_grad and not name.startswith(busy)
            )
        )
        output = SegOutput(deep, None, deep)
        return Terms({"tags": self.tag_loss(output, batch) + idle}, output)

    def tag_loss(self, output: SegOutput, batch: TagBatch) -> Tensor:
        """Multi-label soft margin loss of the tags (000 Eq 6)."""
        assert output.deep is not None
        return F.multilabel_soft_margin_loss(
            self.student.tag_logits(output.deep).float(), batch.tags.float()
        )

    def prepared(self, cam_BKHW: Tensor, batch: TagBatch) -> tuple[TaggedMaps, Kernel]:
        """The maps of the classes that occur, and the half-size image's kernel that refines them."""
        maps = tagged_maps(cam_BKHW, batch.tags, self.config.cam.most_tags or None)
        return maps, affinity_kernel(half_size(batch.image))

    def segmentation_loss(self, output: SegOutput, label_BHW: Tensor) -> Tensor:
        """Half the mean over the background and half that over the rest, of all processes (000 Eq 7)."""
        logits = upsample(output.logits, label_BHW.shape[-2:])
        return balanced_cross_entropy(
            logits, label_BHW, distributed.average(balance_counts(label_BHW))
        )

    def weights(self) -> dict[str, float]:
        """Of the losses; the tags' is 1."""
        return {"seg": self.config.lambda_seg}


def freeze_norms(encoder: nn.Module) -> None:
    """Take the normalisation layers' weights out of the training."""
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    for module in encoder.modules():
        if isinstance(module, kinds):
            module.requires_grad_(False)
