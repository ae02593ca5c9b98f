"""AugSeg: random intensities, and labelled pixels pasted where the teacher is unsure (CVPR 2023).

Zhao et al., "Augmentation Matters: A Simple-Yet-Effective Approach to Semi-Supervised Semantic
Segmentation".
"""

from __future__ import annotations

import torch
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
from u2pl.mixing.adaptive import AdaptiveCutMix
from u2pl.mixing.intensity import IntensityConfig, RandomIntensity
from u2pl.mixing.mixers import Mixed
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.pseudo.confidence import image_confidence
from u2pl.schedules import Progress
from u2pl_semi.self_training import Teaching, TeachingConfig


class AugSegConfig(TeachingConfig):
    """Options of augseg; the defaults are the paper's."""

    warm_start: float = Field(
        0.0, ge=0, le=1, description="share of the steps with L_s only; none in AugSeg"
    )
    teacher: TeacherConfig = Field(
        TeacherConfig(momentum=0.999), description="how the teacher follows the student"
    )
    intensity: IntensityConfig = Field(
        IntensityConfig(), description="colour operations on what the student sees of an image"
    )
    confidence: float = Field(
        0.95,
        ge=0,
        lt=1,
        description="top probability from which a pixel is learned from; 0 on Cityscapes",
    )
    pixel_weight: PixelWeightConfig = Field(
        PixelWeightConfig(), description="how much each pseudo-labelled pixel counts in L_u"
    )
    lambda_u: float = Field(1.0, ge=0, description="weight of L_u")


class AugSeg(Teaching):
    """L = L_s + lambda_u L_u, L_u = sum of CE[top >= confidence] / valid pixels."""

    Config = AugSegConfig
    config: AugSegConfig

    def __init__(self, config: AugSegConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.intensity, self.mix = RandomIntensity(config.intensity), AdaptiveCutMix()
        self.pixel_weight = PixelWeight(config.pixel_weight, student, num_classes)

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            return self.supervised_step(batch.image_l, batch.label_l)
        generator, size = progress.generator(batch.image_l.device), batch.label_l.shape[-2:]

        # 1. the teacher labels clean images
        looks = self.pixel_weight.looks(self.teacher, batch, embed=False)
        prob = upsample(looks.clean.logits, size).float().softmax(dim=1)
        top, label_u = prob.max(dim=1)
        weights = self.pixel_weight(looks, batch, label_u, generator)

        # 2. random intensities; boxes of labelled images, the less sure the teacher the more often,
        #    and of the next image
        strong = self.intensity(generator, batch.image_u)
        maps = label_u, top, weights.weight_BHW, batch.truth_u
        image_u, valid_u, (label_u, top, weight, truth_u) = self.mix(
            generator,
            image_confidence(prob, batch.valid_u),
            self.labeled(batch, *maps),
            Mixed(strong, batch.valid_u, maps),
        )

        # 3. the student predicts labelled and mixed images
        student = self.student(torch.cat([batch.image_l, image_u]), embed=False)
        logits_u = upsample(student.logits.chunk(2)[1], size)

        # 4. L = L_s + lambda_u L_u; L_u divides by all valid pixels
        sup = self.supervised_loss(student, batch.label_l)
        target_u = confident_label(label_u, top, valid_u, self.config.confidence)
        seen = self.pixel_weight.divisor(valid_u, weight)
        unsup = cross_entropy(logits_u, target_u, seen, weight)
        quality = confidence_scalars(target_u, truth_u, valid_u)
        result = weighted_sum({"unsup": self.config.lambda_u}, sup=sup, unsup=unsup)
        return result.log(**quality, **weights.scalars)

    def labeled(
        self, batch: PairBatch, label: Tensor, top: Tensor, weight: Tensor | None, truth: Tensor
    ) -> Mixed:
        """The labelled images with the maps of the others: true labels, of which one is sure."""
        true, full = batch.label_l, torch.ones_like(top)
        maps = true.to(label.dtype), full, None if weight is None else full, true.to(truth.dtype)
        return Mixed(batch.image_l, true != IGNORE, maps)

    def marks(self, prob_BCHW: Tensor, valid_BHW: Tensor, progress: Progress) -> dict[str, Tensor]:
        top, label = prob_BCHW.max(dim=1)
        target = confident_label(label, top, valid_BHW, self.config.confidence)
        return {"confident": target != IGNORE}
