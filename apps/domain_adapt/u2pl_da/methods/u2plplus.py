"""U2PL+ for domain adaptation: DAFormer, and a contrast that also learns from unreliable target pixels (000 sec. 4.2)."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl import distributed
from u2pl.losses.pseudo_label import symmetric_cross_entropy
from u2pl.losses.supervised import connected_zero
from u2pl.maps import downsample, upsample
from u2pl.memory.prototypes import DenoisingConfig, DenoisingPrototypes
from u2pl.methods.method import partition_scalars
from u2pl.methods.pixel_contrast import PixelContrast, RankedContrastConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.mixing.blend import paste
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import Partition, partition
from u2pl.schedules import Progress, unreliable_share
from u2pl_da.adaptation import AdaptationConfig, ClassMixed
from u2pl_da.batches import DomainBatch
from u2pl_da.methods.daformer import DAFormer
from u2pl_da.selection import DomainNegativesConfig, select_in_domains


class TargetLossConfig(BaseModel):
    """Partition of the target pixels, and the loss on pseudo-labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha_0: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of unreliable pixels at the start; falls linearly to 0 (000 Eq 13)",
    )
    xi_1: float = Field(1.0, ge=0, description="weight of the cross entropy in L_t (000 Eq 4)")
    xi_2: float = Field(
        0.1,
        ge=0,
        description="weight of the reverse cross entropy in L_t (000 Eq 4); 0 is DAFormer's loss",
    )
    entropy_filter: bool = Field(
        False,
        description="unreliable target pixels do not count in L_t (000 Eq 12); their weight is q without",
    )


class U2PLPlusConfig(AdaptationConfig):
    """Options of u2plplus."""

    warm_start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the steps that is plain DAFormer; the paper names none",
    )
    unsupervised: TargetLossConfig = Field(
        TargetLossConfig(), description="partition and L_t (000 Eqs 4, 11-13)"
    )
    prototypes: DenoisingConfig = Field(
        DenoisingConfig(), description="momentum prototypes and denoising (000 Eqs 15-20)"
    )
    contrast: RankedContrastConfig = Field(
        RankedContrastConfig(queue_background=30_000),
        description="contrastive loss L_c (000 Eqs 10, 21-28)",
    )
    negatives: DomainNegativesConfig = Field(
        DomainNegativesConfig(), description="what becomes a negative key (000 Tab. 12)"
    )
    lambda_c: float = Field(0.1, ge=0, description="weight of L_c (000 Eq 9)")


class U2PLPlus(DAFormer):
    """L = L_s + L_t + lambda_FD L_FD + lambda_c L_c."""

    Config = U2PLPlusConfig
    config: U2PLPlusConfig
    uses_embedding = True
    warming = "plain DAFormer"

    def __init__(self, config: U2PLPlusConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.contrast = PixelContrast(config.contrast, num_classes, student.embed_dim)
        self.prototypes = DenoisingPrototypes(config.prototypes, num_classes, student.embed_dim)

    def forward(self, batch: DomainBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            result = super().forward(batch, progress)
            return result._replace(
                loss=result.loss + connected_zero(*self.student.head_parameters())
            )
        generator, size = progress.generator(batch.image_l.device), batch.label_l.shape[-2:]

        # 1. the teacher labels clean target images and the prototypes correct it; q says how far it is believed
        clean = self.teacher(batch.image_t)
        prob_t = upsample(clean.logits, size).float().softmax(dim=1)
        believed, label_t = (
            self.believed(prob_t, batch),
            self.prototypes.denoised_label(prob_t, clean.embed),
        )

        # 2. ClassMix pastes source pixels and their labels onto the target images; colours and blur of the result are changed
        mixed = self.mix(generator, batch, label_t, believed.weight_BHW)

        # 3. student and teacher look at the same source and mixed images
        source, target = self.student(batch.image_l), self.student(mixed.image_B3HW)
        logits, embed = self.teacher_on(batch.image_l, mixed.image_B3HW)

        # 4. target pixels are reliable | unreliable by entropy percentile; source and reliable pixels move the prototypes
        alpha_t = unreliable_share(self.config.unsupervised.alpha_0, progress.fraction)
        part = self.partition(logits.chunk(2)[1], batch, mixed, alpha_t)
        raw = paste(
            mixed.pasted_BHW,
            mixed.label_BHW,
            torch.where(part.reliable_BHW, believed.label_BHW, IGNORE),
        )
        self.prototypes.update(embed, downsample(torch.cat([batch.label_l.long(), raw])))

        # 5. L = L_s + L_t + lambda_FD L_FD + lambda_c L_c
        sup = self.supervised_loss(upsample(source.logits, size), batch.label_l)
        unsup = self.unsupervised_loss(upsample(target.logits, size), mixed, part)
        chosen = select_in_domains(
            logits.float().softmax(dim=1), batch.label_l, mixed.label_BHW, mixed.pasted_BHW, part, alpha_t,
            self.config.contrast.thresholds(self.num_classes), self.config.negatives, distributed.gather,
        )  # fmt: skip
        contrast = self.contrast(
            torch.cat([source.embed, target.embed]),
            embed,
            chosen,
            self.prototypes.center,
            generator,
        )
        weights = {
            "distance": self.config.feature_distance.weight,
            "contrast": self.config.lambda_c,
        }
        result = weighted_sum(
            weights,
            sup=sup,
            unsup=unsup,
            distance=self.distance(batch, source),
            contrast=contrast.loss,
        )
        truth = torch.where(mixed.pasted_BHW, IGNORE, batch.truth_t)
        return result.log(
            q=believed.share_B.mean(),
            alpha_t=alpha_t,
            **partition_scalars(part, label_t, truth),
            **contrast.scalars,
        )

    def teacher_on(self, *images: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's logits and representations of several groups of images, one after the other; its statistics stay the target's."""
        outputs = [self.teacher(group, learn=False) for group in images]
        return torch.cat([output.logits for output in outputs]), torch.cat(
            [output.embed for output in outputs]
        )

    def partition(
        self, logits_BChw: Tensor, batch: DomainBatch, mixed: ClassMixed, alpha: float
    ) -> Partition:
        """Reliable and unreliable target pixels of the mixed images; what is pasted, padding or border is neither."""
        prob = upsample(logits_BChw, mixed.label_BHW.shape[-2:]).float().softmax(dim=1)
        seen = batch.valid_t & ~batch.border_t.unsqueeze(2) & ~mixed.pasted_BHW
        return partition(prob, seen, alpha, distributed.gather)

    def unsupervised_loss(self, logits_BCHW: Tensor, mixed: ClassMixed, part: Partition) -> Tensor:
        """L_t, the mean over all pixels of the weighted symmetric cross entropy (000 Eq 4)."""
        options, weight = self.config.unsupervised, mixed.weight_BHW
        if options.entropy_filter:
            weight = torch.where(part.unreliable_BHW, 0.0, weight)
        count = weight.new_full((), weight.numel())
        return symmetric_cross_entropy(
            logits_BCHW, mixed.label_BHW, options.xi_1, options.xi_2, count, weight
        )
