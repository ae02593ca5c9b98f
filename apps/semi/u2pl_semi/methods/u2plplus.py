"""U2PL+: U2PL with momentum prototypes and denoised pseudo-labels (Wang et al., IJCV 2024).

"Using Unreliable Pseudo-Labels for Label-Efficient Semantic Segmentation". The prototypes are the
positive keys (Eqs 15-18) and denoise the pseudo-labels (Eqs 19-20), whose loss is a symmetric cross
entropy (Eq 4).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from u2pl import distributed
from u2pl.maps import downsample, top_class, upsample
from u2pl.memory.prototypes import DenoisingConfig, DenoisingPrototypes
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import partition_scalars
from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.methods.pixel_weight import PixelWeight, PixelWeightConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import partition
from u2pl.schedules import Progress, unreliable_share
from u2pl_semi.reliable import PseudoLossConfig, unsupervised_loss
from u2pl_semi.selection import SemiContrastConfig, select_candidates
from u2pl_semi.self_training import SelfTraining, SelfTrainingConfig


class U2PLPlusConfig(SelfTrainingConfig):
    """Options of u2plplus."""

    unsupervised: PseudoLossConfig = Field(
        PseudoLossConfig(xi_2=0.1), description="partition and L_u (U2PL+ Eqs 4, 12-14)"
    )
    prototypes: DenoisingConfig = Field(
        DenoisingConfig(), description="momentum prototypes and denoising (U2PL+ Eqs 15-20)"
    )
    contrast: SemiContrastConfig = Field(
        SemiContrastConfig(), description="contrastive loss L_c (U2PL+ Eqs 10, 21-28)"
    )
    pixel_weight: PixelWeightConfig = Field(
        PixelWeightConfig(), description="how much each pseudo-labelled pixel counts in L_u"
    )
    lambda_c: float = Field(
        0.1, ge=0, description="weight of L_c (U2PL+ Eq 9; value: U2PL supp. Tab. A1)"
    )


class U2PLPlus(SelfTraining):
    """L = L_s + lambda_u L_u + lambda_c L_c (U2PL+ Eq 9 and Algorithm 1)."""

    Config = U2PLPlusConfig
    config: U2PLPlusConfig
    uses_embedding = True

    def __init__(self, config: U2PLPlusConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.contrast = PixelContrast(config.contrast, num_classes, student.embed_dim)
        self.pixel_weight = PixelWeight(config.pixel_weight, student, num_classes)
        self.prototypes = DenoisingPrototypes(config.prototypes, num_classes, student.embed_dim)

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            return self.supervised_step(batch.image_l, batch.label_l)
        config, size = self.config, batch.label_l.shape[-2:]
        generator = progress.generator(batch.image_l.device)

        # 1. pseudo-labels of clean images, denoised by prototypes; CutMix mixes images and labels
        looks = self.pixel_weight.looks(self.teacher, batch, running=True)
        prob = upsample(looks.clean.logits, size).float().softmax(dim=1)
        raw_u, label_u = top_class(prob), self.prototypes.denoised_label(prob, looks.clean.embed)
        weights = self.pixel_weight(looks, batch, label_u, generator)
        maps = label_u, raw_u, weights.weight_BHW, batch.truth_u
        image_u, valid_u, (label_u, raw_u, weight, truth_u) = self.mix(
            generator, batch.image_u, batch.valid_u, *maps
        )

        # 2. student and teacher see the same labelled and mixed images, the student with the latter
        #    in a strong view if one is set
        student = self.student(self.student_images(generator, batch.image_l, image_u))
        logits_t, embed_t = self.second_look(batch, image_u, looks.clean, looks.labeled)
        logits_u = upsample(student.logits.chunk(2)[1], size)

        # 3. reliable | unreliable at entropy percentile 1 - alpha_t, alpha_t = alpha_0 (1 - t/T);
        #    labelled and reliable pixels update the prototypes (U2PL+ Eq 16, U2PL+ Eq 17)
        alpha_t = unreliable_share(config.unsupervised.alpha_0, progress.fraction)
        prob_u = upsample(logits_t.chunk(2)[1], size).float().softmax(dim=1)
        part = partition(prob_u, valid_u, alpha_t, distributed.gather)
        reliable_u = torch.where(part.reliable_BHW, raw_u, IGNORE)
        label = torch.cat([batch.label_l.long(), reliable_u])
        self.prototypes.update(embed_t, downsample(label, config.contrast.pixel))

        # 4. L = L_s + lambda_u L_u + lambda_c L_c
        sup = self.supervised_loss(student, batch.label_l)
        options = config.unsupervised
        divisor = self.pixel_weight.divisor(part.reliable_BHW, weight)
        unsup, lambda_u = unsupervised_loss(
            options, logits_u, label_u, prob_u, part, weight, divisor
        )
        prob = logits_t.float().softmax(dim=1)
        chosen = select_candidates(config.contrast, prob, batch.label_l, label_u, part, alpha_t)
        positive = self.prototypes.center
        contrast = self.contrast(student.embed, embed_t, chosen, positive, generator)
        losses = {"sup": sup, "unsup": unsup, "contrast": contrast.loss}
        result = weighted_sum({"unsup": lambda_u, "contrast": config.lambda_c}, **losses)
        quality = partition_scalars(part, label_u, truth_u)
        return result.log(
            alpha_t=alpha_t, lambda_u=lambda_u, **quality, **weights.scalars, **contrast.scalars
        )

    def pseudo_label(self, prob_BCHW: Tensor, output: SegOutput) -> Tensor:
        return self.prototypes.denoised_label(prob_BCHW, output.embed)

    def marks(self, prob_BCHW: Tensor, valid_BHW: Tensor, progress: Progress) -> dict[str, Tensor]:
        alpha_t = unreliable_share(self.config.unsupervised.alpha_0, progress.fraction)
        return {"reliable": partition(prob_BCHW, valid_BHW, alpha_t).reliable_BHW}
