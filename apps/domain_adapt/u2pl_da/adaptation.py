"""What methods with a teacher share: pseudo-labels on the target, ClassMix, feature distance."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.memory.teacher import Teacher, TeacherConfig
from u2pl.methods.method import LabeledMethod, LabeledMethodConfig
from u2pl.mixing.blend import paste
from u2pl.mixing.masks import half_of_batch_classes, half_of_classes
from u2pl.mixing.photometric import StrongView, StrongViewConfig
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.pseudo.confidence import Confident, confident_pixels
from u2pl.schedules import Progress
from u2pl_da.batches import DomainBatch
from u2pl_da.feature_distance import FeatureDistanceConfig, ImageNetDistance
from u2pl_da.rare_class_sampling import RareClassConfig


class PseudoLabelConfig(BaseModel):
    """How pseudo-labels are weighted by confidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(
        0.968, ge=0, le=1, description="top probability from which a pixel is confident"
    )
    share_of: Literal["image", "batch"] = Field(
        "image",
        description="q, the weight of a pseudo-label, is the share of confident pixels in its "
        "image, or in the batch (released)",
    )


class AdaptationConfig(LabeledMethodConfig):
    """Options of every method with a teacher; the defaults are DAFormer's, as in U2PL+ sec. 4.2."""

    teacher: TeacherConfig = Field(
        TeacherConfig(momentum=0.999, statistics="own"),
        description="how the teacher follows the student",
    )
    pseudo: PseudoLabelConfig = Field(
        PseudoLabelConfig(), description="confidence weights of the pseudo-labels"
    )
    classmix: Literal["image", "batch"] = Field(
        "image",
        description="ClassMix pastes half of the classes of each source image, or of the batch, "
        "including 255 (released)",
    )
    strong_view: StrongViewConfig = Field(
        StrongViewConfig(), description="strong view: colour and blur augmentation of mixed images"
    )
    feature_distance: FeatureDistanceConfig = Field(
        FeatureDistanceConfig(), description="distance to the pretrained features, L_FD"
    )
    rare_classes: RareClassConfig = Field(
        RareClassConfig(), description="rare-class sampling of source images"
    )
    evaluate: Literal["student", "teacher"] = Field(
        "student", description="the network that is the result; the other is scored too"
    )


class ClassMixed(NamedTuple):
    """Target images with source pixels pasted onto them."""

    image_B3HW: Tensor  # float in [0, 1], the strong view
    label_BHW: Tensor  # int64, 255 = ignore
    weight_BHW: Tensor  # float32
    pasted_BHW: Tensor  # bool, True where pixel and label are the source's


class Adaptation(LabeledMethod[DomainBatch]):
    """A student, its teacher, and the pretrained encoder whose features it should keep.

    Args as for `Method`.
    """

    config: AdaptationConfig

    def __init__(self, config: AdaptationConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.teacher = Teacher(student, config.teacher)
        self.strong_view = StrongView(config.strong_view)
        distance = config.feature_distance
        # a frozen encoder's features stay where they are
        used = distance.weight > 0 and distance.things and not student.encoder.frozen
        self.imagenet = ImageNetDistance(distance, student, num_classes) if used else None

    def pseudo_labels(self, prob_BCHW: Tensor, batch: DomainBatch) -> Confident:
        """Pseudo-labels of the target pixels, weighted by q, and by 0 on void rows and padding."""
        valid, border, options = batch.valid_t, batch.border_t, self.config.pseudo
        return confident_pixels(
            prob_BCHW, valid, border, options.threshold, options.share_of, distributed.gather
        )

    def labeler(self) -> nn.Module:
        return self.teacher.network

    def marks(self, prob_BCHW: Tensor, valid_BHW: Tensor, progress: Progress) -> dict[str, Tensor]:
        confident = prob_BCHW.amax(dim=1) >= self.config.pseudo.threshold
        return {"confident": valid_BHW & confident}

    @torch.no_grad()
    def mix(
        self, generator: torch.Generator, batch: DomainBatch, label_t: Tensor, weight_t: Tensor
    ) -> ClassMixed:
        """ClassMix: paste half of a source image's classes, and their labels, onto a target image.

        Args:
            generator: the step's.
            batch: source and target images.
            label_t: int64 pseudo-labels of the target images [B, H, W].
            weight_t: float32 weights of the pseudo-labels [B, H, W]; pasted pixels weigh 1.
        """
        shape = len(batch.label_l) * distributed.world_size(), self.num_classes + 1
        draw = torch.rand(*shape, generator=generator, device=generator.device)
        score = distributed.local_rows(draw)
        if self.config.classmix == "batch":
            pasted = half_of_batch_classes(batch.label_l, score, distributed.gather)
        else:
            pasted = half_of_classes(batch.label_l, score[:, :-1])
        return ClassMixed(
            self.strong_view(generator, paste(pasted, batch.image_l, batch.image_t)),
            paste(pasted, batch.label_l.long(), label_t),
            paste(pasted, torch.ones_like(weight_t), weight_t),
            pasted,
        )

    def distance(self, batch: DomainBatch, source: SegOutput) -> Tensor | None:
        """L_FD: distance of the student's thing features to the pretrained ones; None if off."""
        if self.imagenet is None:
            return None
        return self.imagenet(self.student.prepare(batch.image_l), batch.label_l, source.deep)

    def follow(self, progress: Progress) -> None:
        self.teacher.update(self.student, progress.step + 1)

    def networks(self) -> dict[str, nn.Module]:
        both = {"student": self.student, "teacher": self.teacher.network}
        return dict(sorted(both.items(), reverse=self.config.evaluate == "teacher"))
