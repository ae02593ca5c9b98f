"""FixMatch: confident labels of clean images train a strong view of them (Sohn et al. 2020).

As the baseline of UniMatch V2 (Yang et al. 2025), where a teacher gives the labels.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from u2pl.losses.pseudo_label import confident_label
from u2pl.losses.supervised import cross_entropy
from u2pl.maps import upsample
from u2pl.memory.teacher import TeacherConfig
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import confidence_scalars
from u2pl.methods.pixel_weight import PixelWeight, PixelWeightConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.mixing.mixers import MixConfig
from u2pl.mixing.photometric import StrongView, StrongViewConfig
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.schedules import Progress
from u2pl_semi.self_training import SelfTraining, SelfTrainingConfig


class FixMatchConfig(SelfTrainingConfig):
    """Options of fixmatch."""

    warm_start: float = Field(
        0.0, ge=0, le=1, description="share of the steps with L_s only; none in UniMatch V2"
    )
    teacher: TeacherConfig = Field(
        TeacherConfig(momentum=0.996), description="how the teacher follows the student"
    )
    mix: MixConfig = Field(
        MixConfig(kind="boxes"), description="strong augmentation of the unlabelled images"
    )
    strong_view: StrongViewConfig = Field(
        StrongViewConfig(kind="unimatch"),
        description="colour, grey and blur augmentation of the mixed images that the student sees",
    )
    paste: Literal["images", "views"] = Field(
        "images",
        description="what boxes are pasted into; images: both parts of a mixed one are seen in the "
        "same light (ours); views: each part has its own (UniMatch V2)",
    )
    confidence: float = Field(
        0.95, ge=0, lt=1, description="top probability from which a pixel is learned from"
    )
    pixel_weight: PixelWeightConfig = Field(
        PixelWeightConfig(), description="how much each pseudo-labelled pixel counts in L_u"
    )
    lambda_u: float = Field(1.0, ge=0, description="weight of L_u, relative to L_s")


class FixMatch(SelfTraining):
    """L = (L_s + lambda_u L_u) / 2, L_u = sum of CE[top >= confidence] / valid pixels."""

    Config = FixMatchConfig
    config: FixMatchConfig

    def __init__(self, config: FixMatchConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.pixel_weight = PixelWeight(config.pixel_weight, student, num_classes)
        self.early_view = StrongView(StrongViewConfig(kind="none"))
        if config.paste == "views":
            self.early_view, self.strong_view = self.strong_view, self.early_view

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            return self.supervised_step(batch.image_l, batch.label_l)
        generator, size = progress.generator(batch.image_l.device), batch.label_l.shape[-2:]

        # 1. the teacher labels clean images; boxes mix images, labels, confidence and weights
        looks = self.pixel_weight.looks(self.teacher, batch, embed=False)
        prob = upsample(looks.clean.logits, size).float().softmax(dim=1)
        top, label_u = prob.max(dim=1)
        weights = self.pixel_weight(looks, batch, label_u, generator)
        pseudo = label_u, top, weights.weight_BHW, batch.truth_u
        image_u, valid_u, (label_u, top, weight, truth_u) = self.mix(
            generator, self.early_view(generator, batch.image_u), batch.valid_u, *pseudo
        )

        # 2. the student predicts labelled images, and a strong view of the mixed ones
        images = self.student_images(generator, batch.image_l, image_u)
        student = self.student(images, embed=False)
        logits_u = upsample(student.logits.chunk(2)[1], size)

        # 3. L = (L_s + lambda_u L_u) / 2; L_u divides by all valid pixels
        sup = self.supervised_loss(student, batch.label_l)
        target_u = confident_label(label_u, top, valid_u, self.config.confidence)
        seen = self.pixel_weight.divisor(valid_u, weight)
        unsup = cross_entropy(logits_u, target_u, seen, weight)
        factors = {"sup": 0.5, "unsup": 0.5 * self.config.lambda_u}
        quality = confidence_scalars(target_u, truth_u, valid_u)
        return weighted_sum(factors, sup=sup, unsup=unsup).log(**quality, **weights.scalars)

    def marks(self, prob_BCHW: Tensor, valid_BHW: Tensor, progress: Progress) -> dict[str, Tensor]:
        top, label = prob_BCHW.max(dim=1)
        target = confident_label(label, top, valid_BHW, self.config.confidence)
        return {"confident": target != IGNORE}
