"""FixMatch: an averaged teacher's confident labels supervise CutMix images (Sohn et al. 2020)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from u2pl import distributed
from u2pl.losses.supervised import cross_entropy
from u2pl.maps import upsample
from u2pl.memory.teacher import Teacher, TeacherConfig
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import LabeledMethod, LabeledMethodConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.mixing.mixers import MixConfig, Mixer
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.schedules import Progress


class FixMatchConfig(LabeledMethodConfig):
    """Options of fixmatch_teacher."""

    teacher: TeacherConfig = Field(TeacherConfig(), description="how the teacher follows")
    mix: MixConfig = Field(MixConfig(probability=1.0), description="strong augmentation")
    confidence: float = Field(
        0.95, ge=0, lt=1, description="top probability of a label that counts"
    )


class FixMatch(LabeledMethod[PairBatch]):
    """L = L_s + L_u."""

    Config = FixMatchConfig
    config: FixMatchConfig

    def __init__(self, config: FixMatchConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.teacher = Teacher(student, config.teacher)
        self.mix = Mixer(config.mix, num_classes)

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        generator, size = progress.generator(batch.image_l.device), batch.label_l.shape[-2:]
        logits = upsample(self.teacher(batch.image_u, embed=False).logits, size)
        top, label = logits.float().softmax(dim=1).max(dim=1)
        label = torch.where(top > self.config.confidence, label, IGNORE)
        mixed = self.mix(generator, batch.image_u, batch.valid_u, label)
        label_u = torch.where(mixed.valid_BHW, mixed.maps[0], IGNORE)

        images = torch.cat([batch.image_l, mixed.image_B3HW])
        student = self.student(images, embed=False)
        logits_u = upsample(student.logits.chunk(2)[1], size)
        seen = distributed.average(mixed.valid_BHW.sum())  # the mean is over unsure pixels too
        unsup = cross_entropy(logits_u, label_u, seen)
        return weighted_sum({}, sup=self.supervised_loss(student, batch.label_l), unsup=unsup)

    def follow(self, progress: Progress) -> None:
        self.teacher.update(self.student, progress.step + 1)

    def networks(self) -> dict[str, nn.Module]:
        return {"teacher": self.teacher.network, "student": self.student}
