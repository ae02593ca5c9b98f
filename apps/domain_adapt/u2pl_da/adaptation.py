"""What the methods with a teacher have in common: its labels on target images, and source pixels pasted onto them."""

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
    """How far the teacher's labels are believed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(
        0.968, ge=0, le=1, description="a pixel is confident from this top probability on"
    )
    share_of: Literal["image", "batch"] = Field(
        "image",
        description="the weight q is the share of confident pixels of each image, or one number for the batch (released)",
    )


class AdaptationConfig(LabeledMethodConfig):
    """Options of every method with a teacher; the defaults are DAFormer's (000 sec. 4.2 builds on it)."""

    teacher: TeacherConfig = Field(
        TeacherConfig(momentum=0.999, statistics="own"),
        description="how the teacher follows the student",
    )
    pseudo: PseudoLabelConfig = Field(
        PseudoLabelConfig(), description="how far the teacher's labels are believed"
    )
    classmix: Literal["image", "batch"] = Field(
        "image",
        description="ClassMix draws half of the classes of each source image, or of the whole batch, 255 among them (released)",
    )
    strong_view: StrongViewConfig = Field(
        StrongViewConfig(), description="colours and blur of the mixed image"
    )
    feature_distance: FeatureDistanceConfig = Field(
        FeatureDistanceConfig(), description="distance to the pretrained features"
    )
    rare_classes: RareClassConfig = Field(
        RareClassConfig(), description="which source images are shown how often"
    )
    evaluate: Literal["student", "teacher"] = Field(
        "student", description="the network that is the result; the other is scored too"
    )


class ClassMixed(NamedTuple):
    """Target images with source pixels on them."""

    image_B3HW: Tensor  # float in [0, 1], the strong view
    label_BHW: Tensor  # int64, 255 = ignore
    weight_BHW: Tensor  # float32
    pasted_BHW: Tensor  # bool, the pixel and its label are the source's


class Adaptation(LabeledMethod[DomainBatch]):
    """A student, its teacher, and the pretrained encoder that it must not forget.

    Args as for `Method`.
    """

    config: AdaptationConfig

    def __init__(self, config: AdaptationConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.teacher = Teacher(student, config.teacher)
        self.strong_view = StrongView(config.strong_view)
        remembers = config.feature_distance.weight > 0 and config.feature_distance.things
        self.imagenet = (
            ImageNetDistance(config.feature_distance, student, num_classes) if remembers else None
        )

    def believed(self, prob_BCHW: Tensor, batch: DomainBatch) -> Confident:
        """The teacher's label of each target pixel, and how much it counts: q, on border rows and padding 0."""
        options = self.config.pseudo
        return confident_pixels(
            prob_BCHW,
            batch.valid_t,
            batch.border_t,
            options.threshold,
            options.share_of,
            distributed.gather,
        )

    @torch.no_grad()
    def mix(
        self, generator: torch.Generator, batch: DomainBatch, label_t: Tensor, weight_t: Tensor
    ) -> ClassMixed:
        """ClassMix: half of the classes of a source image, with their labels, on a target image; then its strong view."""
        count, device = len(batch.label_l) * distributed.world_size(), generator.device
        score = distributed.local_rows(
            torch.rand(count, self.num_classes + 1, generator=generator, device=device)
        )
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
        """How far the student's features of things have moved from the pretrained ones; None where these are not kept."""
        if self.imagenet is None:
            return None
        return self.imagenet(self.student.prepare(batch.image_l), batch.label_l, source.deep)

    def follow(self, progress: Progress) -> None:
        self.teacher.update(self.student, progress.step + 1)

    def networks(self) -> dict[str, nn.Module]:
        both = {"student": self.student, "teacher": self.teacher.network}
        return dict(sorted(both.items(), reverse=self.config.evaluate == "teacher"))
