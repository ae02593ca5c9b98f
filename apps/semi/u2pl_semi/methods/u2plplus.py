"""U2PL+: Using Unreliable Pseudo-Labels for Label-Efficient Semantic Segmentation (Wang et al., IJCV 2024; paper 000).

U2PL with momentum prototypes as positive keys (Eqs 15-18), pseudo-labels denoised by them (Eqs 19-20) and symmetric cross entropy (Eq 4).
"""

from __future__ import annotations

import torch
from pydantic import Field

from u2pl import distributed
from u2pl.maps import downsample, top_class, upsample
from u2pl.memory.prototypes import DenoisingConfig, DenoisingPrototypes
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import partition_scalars
from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import partition
from u2pl.schedules import Progress, unreliable_share
from u2pl_semi.reliable import PseudoLossConfig, unsupervised_loss
from u2pl_semi.selection import SemiContrastConfig, select_candidates
from u2pl_semi.self_training import SelfTraining, SelfTrainingConfig


class U2PLPlusConfig(SelfTrainingConfig):
    """Options of u2plplus."""

    unsupervised: PseudoLossConfig = Field(
        PseudoLossConfig(xi_2=0.1), description="partition and L_u (000 Eqs 4, 12-14)"
    )
    prototypes: DenoisingConfig = Field(
        DenoisingConfig(), description="momentum prototypes and denoising (000 Eqs 15-20)"
    )
    contrast: SemiContrastConfig = Field(
        SemiContrastConfig(), description="contrastive loss L_c (000 Eqs 10, 21-28)"
    )
    lambda_c: float = Field(0.1, ge=0, description="weight of L_c (000 Eq 9; value: 003 Tab. A1)")


class U2PLPlus(SelfTraining):
    """L = L_s + lambda_u L_u + lambda_c L_c (000 Eq 9, Algorithm 1)."""

    Config = U2PLPlusConfig
    config: U2PLPlusConfig
    uses_embedding = True

    def __init__(self, config: U2PLPlusConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.contrast = PixelContrast(config.contrast, num_classes, student.embed_dim)
        self.prototypes = DenoisingPrototypes(config.prototypes, num_classes, student.embed_dim)

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            return self.supervised_step(batch.image_l, batch.label_l)
        generator, size = progress.generator(batch.image_l.device), batch.label_l.shape[-2:]

        # 1. the teacher labels clean images, the prototypes correct it; CutMix mixes images, labels and validity alike
        clean = self.teacher(batch.image_u)
        prob = upsample(clean.logits, size).float().softmax(dim=1)
        raw_u, label_u = top_class(prob), self.prototypes.denoised_label(prob, clean.embed)
        image_u, valid_u, (label_u, raw_u, truth_u) = self.mix(
            generator, batch.image_u, batch.valid_u, label_u, raw_u, batch.truth_u
        )

        # 2. student and teacher look at the same pixels
        images = torch.cat([batch.image_l, image_u])
        student, teacher = self.student(images), self.teacher(images)
        logits_l, logits_u = upsample(student.logits, size).chunk(2)

        # 3. reliable | unreliable by entropy percentile, alpha_t = alpha_0 (1 - t/T); labelled and reliable pixels move the prototypes
        alpha_t = unreliable_share(self.config.unsupervised.alpha_0, progress.fraction)
        prob_u = upsample(teacher.logits.chunk(2)[1], size).float().softmax(dim=1)
        part = partition(prob_u, valid_u, alpha_t, distributed.gather)
        believed = torch.cat([batch.label_l.long(), torch.where(part.reliable_BHW, raw_u, IGNORE)])
        self.prototypes.update(teacher.embed, downsample(believed))

        # 4. L = L_s + lambda_u L_u + lambda_c L_c
        sup = self.supervised_loss(logits_l, batch.label_l)
        unsup, lambda_u = unsupervised_loss(self.config.unsupervised, logits_u, label_u, part)
        chosen = select_candidates(
            self.config.contrast,
            teacher.logits.float().softmax(dim=1),
            batch.label_l,
            label_u,
            part,
            alpha_t,
        )
        contrast = self.contrast(
            student.embed, teacher.embed, chosen, self.prototypes.center, generator
        )
        result = weighted_sum(
            {"unsup": lambda_u, "contrast": self.config.lambda_c},
            sup=sup,
            unsup=unsup,
            contrast=contrast.loss,
        )
        return result.log(
            alpha_t=alpha_t, **partition_scalars(part, label_u, truth_u), **contrast.scalars
        )
