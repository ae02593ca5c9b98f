"""CutMix: mean teacher on mixed images (French et al. 2020; row CutMix of U2PL Tab. 1)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from u2pl import distributed
from u2pl.losses.consistency import confident_share, probability_distance
from u2pl.maps import upsample
from u2pl.methods.batches import PairBatch
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.mixing.mixers import MixConfig
from u2pl.schedules import Progress
from u2pl_semi.self_training import SelfTraining, SelfTrainingConfig


class CutMixConfig(SelfTrainingConfig):
    """Options of cutmix."""

    mix: MixConfig = Field(
        MixConfig(probability=1.0), description="strong augmentation of the unlabelled images"
    )
    lambda_u: float = Field(1.0, ge=0, description="weight of the consistency loss")
    confidence: float = Field(
        0.97,
        ge=0,
        lt=1,
        description="the consistency loss is weighted by the share of pixels above this top "
        "probability",
    )


class CutMix(SelfTraining):
    """L = L_s + lambda_u (share of confident pixels) |p_student(mixed) - mixed p_teacher|^2."""

    Config = CutMixConfig
    config: CutMixConfig

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            return self.supervised_step(batch.image_l, batch.label_l)
        generator, size = progress.generator(batch.image_l.device), batch.label_l.shape[-2:]

        # 1. the teacher's probabilities of clean images; CutMix mixes images and probabilities
        target = upsample(self.teacher(batch.image_u, embed=False).logits, size)
        target = target.float().softmax(dim=1)
        image_u, valid_u, (target,) = self.mix(generator, batch.image_u, batch.valid_u, target)

        # 2. the student predicts labelled and mixed images
        images = self.student_images(generator, batch.image_l, image_u)
        student = self.student(images, embed=False)
        logits_u = upsample(student.logits.chunk(2)[1], size)

        # 3. L = L_s + lambda_u (confident share) L_u
        sup = self.supervised_loss(student, batch.label_l)
        confident, valid = confident_share(target, valid_u, self.config.confidence)
        share = distributed.share(confident, valid)
        unsup = share * probability_distance(logits_u, target, valid_u, distributed.average(valid))
        result = weighted_sum({"unsup": self.config.lambda_u}, sup=sup, unsup=unsup)
        return result.log(confident_share=share)

    def marks(self, prob_BCHW: Tensor, valid_BHW: Tensor, progress: Progress) -> dict[str, Tensor]:
        return {"confident": valid_BHW & (prob_BCHW.amax(dim=1) > self.config.confidence)}
