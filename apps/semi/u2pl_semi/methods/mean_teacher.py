"""Mean teacher: consistency with the student's own moving average (row MT of U2PL Tab. 1)."""

from __future__ import annotations

from pydantic import Field

from u2pl import distributed
from u2pl.losses.consistency import probability_distance
from u2pl.maps import upsample
from u2pl.methods.batches import PairBatch
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.mixing.mixers import MixConfig
from u2pl.schedules import Progress, sigmoid_ramp
from u2pl_semi.self_training import SelfTraining, SelfTrainingConfig


class MeanTeacherConfig(SelfTrainingConfig):
    """Options of mean_teacher."""

    mix: MixConfig = Field(
        MixConfig(kind="none"),
        description="strong augmentation of the unlabelled images; none by default",
    )
    lambda_u: float = Field(
        1.0, ge=0, description="weight of the consistency loss after the ramp-up"
    )
    ramp: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the steps after the warm start over which the weight ramps up",
    )


class MeanTeacher(SelfTraining):
    """L = L_s + lambda_u(t) |p_student - p_teacher|^2."""

    Config = MeanTeacherConfig
    config: MeanTeacherConfig

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            return self.supervised_step(batch.image_l, batch.label_l)
        generator, size = progress.generator(batch.image_l.device), batch.label_l.shape[-2:]

        # 1. the teacher's probabilities are the target
        target = upsample(self.teacher(batch.image_u, embed=False).logits, size)
        target = target.float().softmax(dim=1)
        image_u, valid_u, (target,) = self.mix(generator, batch.image_u, batch.valid_u, target)

        # 2. the student predicts labelled and unlabelled images
        images = self.student_images(generator, batch.image_l, image_u)
        student = self.student(images, embed=False)
        logits_u = upsample(student.logits.chunk(2)[1], size)

        # 3. L = L_s + lambda_u(t) L_u
        sup = self.supervised_loss(student, batch.label_l)
        unsup = probability_distance(logits_u, target, valid_u, distributed.average(valid_u.sum()))
        steps = round(progress.total * (1 - self.config.warm_start) * self.config.ramp)
        weight = self.config.lambda_u * sigmoid_ramp(progress.after(self.config.warm_start), steps)
        return weighted_sum({"unsup": weight}, sup=sup, unsup=unsup)
