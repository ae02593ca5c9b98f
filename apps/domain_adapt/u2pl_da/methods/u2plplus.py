"""U2PL+ for domain adaptation: DAFormer with prototypes and pixel contrast (U2PL+ sec. 4.2)."""

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
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import Partition, partition
from u2pl.pseudo.select import Candidates
from u2pl.schedules import Progress, unreliable_share
from u2pl_da.adaptation import AdaptationConfig, ClassMixed
from u2pl_da.batches import DomainBatch
from u2pl_da.methods.daformer import DAFormer
from u2pl_da.selection import DomainNegativesConfig, select_in_domains


class TargetLossConfig(BaseModel):
    """Partition of the target pixels, and the loss on mixed images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha_0: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of unreliable pixels at the start; falls linearly to 0 (U2PL+ Eq 13)",
    )
    xi_1: float = Field(1.0, ge=0, description="weight of the cross entropy in L_t (U2PL+ Eq 4)")
    xi_2: float = Field(
        0.1,
        ge=0,
        description="weight of the reverse cross entropy in L_t (U2PL+ Eq 4); 0 is DAFormer's loss",
    )
    entropy_filter: bool = Field(
        False,
        description="exclude unreliable target pixels from L_t (U2PL+ Eq 12); off: they keep their "
        "weight q",
    )


class U2PLPlusConfig(AdaptationConfig):
    """Options of u2plplus."""

    warm_start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the steps with plain DAFormer; the paper gives none",
    )
    unsupervised: TargetLossConfig = Field(
        TargetLossConfig(), description="partition and L_t (U2PL+ Eqs 4, 11-13)"
    )
    prototypes: DenoisingConfig = Field(
        DenoisingConfig(), description="momentum prototypes and denoising (U2PL+ Eqs 15-20)"
    )
    contrast: RankedContrastConfig = Field(
        RankedContrastConfig(queue_background=30_000),
        description="contrastive loss L_c (U2PL+ Eqs 10, 21-28)",
    )
    negatives: DomainNegativesConfig = Field(
        DomainNegativesConfig(), description="which pixels become negatives (U2PL+ Tab. 12)"
    )
    lambda_c: float = Field(0.1, ge=0, description="weight of L_c (U2PL+ Eq 9)")


class U2PLPlus(DAFormer):
    """L = L_s + L_t + lambda_FD L_FD + lambda_c L_c."""

    Config = U2PLPlusConfig
    config: U2PLPlusConfig
    uses_embedding = True
    warming = "plain DAFormer"
    joining = "prototypes and the contrast join"

    def __init__(self, config: U2PLPlusConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.contrast = PixelContrast(config.contrast, num_classes, student.embed_dim)
        self.prototypes = DenoisingPrototypes(config.prototypes, num_classes, student.embed_dim)

    def forward(self, batch: DomainBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            result = super().forward(batch, progress)
            idle = connected_zero(*self.student.head_parameters())
            return result._replace(loss=result.loss + idle)
        config, size = self.config, batch.label_l.shape[-2:]
        generator = progress.generator(batch.image_l.device)

        # 1. pseudo-labels of clean target images, denoised by the prototypes and weighted by q
        clean = self.teacher(batch.image_t)
        prob_t = upsample(clean.logits, size).float().softmax(dim=1)
        pseudo = self.pseudo_labels(prob_t, batch)
        label_t = self.prototypes.denoised_label(prob_t, clean.embed)

        # 2. ClassMix pastes source pixels and labels onto target images, then the strong view
        mixed = self.mix(generator, batch, label_t, pseudo.weight_BHW)

        # 3. student and teacher see the same source and mixed images
        source, target = self.student(batch.image_l), self.student(mixed.image_B3HW)
        logits, embed = self.teacher_on(batch.image_l, mixed.image_B3HW)

        # 4. target pixels: reliable | unreliable at the entropy percentile 1 - alpha_t; source and
        #    reliable pixels update the prototypes (U2PL+ Eq 16, U2PL+ Eq 17)
        alpha_t = unreliable_share(config.unsupervised.alpha_0, progress.fraction)
        part = self.partition(logits.chunk(2)[1], batch, mixed, alpha_t)
        reliable_t = torch.where(part.reliable_BHW, pseudo.label_BHW, IGNORE)
        label_m = paste(mixed.pasted_BHW, mixed.label_BHW, reliable_t)
        label = torch.cat([batch.label_l.long(), label_m])
        self.prototypes.update(embed, downsample(label, config.contrast.pixel))

        # 5. L = L_s + L_t + lambda_FD L_FD + lambda_c L_c
        sup = self.supervised_loss(source, batch.label_l)
        unsup = self.unsupervised_loss(upsample(target.logits, size), mixed, part)
        chosen = self.candidates(logits, batch, mixed, part, alpha_t)
        anchors, positive = torch.cat([source.embed, target.embed]), self.prototypes.center
        contrast = self.contrast(anchors, embed, chosen, positive, generator)
        losses = {"sup": sup, "unsup": unsup, "distance": self.distance(batch, source)}
        weights = {"distance": config.feature_distance.weight, "contrast": config.lambda_c}
        result = weighted_sum(weights, **losses, contrast=contrast.loss)
        truth = torch.where(mixed.pasted_BHW, IGNORE, batch.truth_t)
        quality = partition_scalars(part, label_t, truth)
        return result.log(q=pseudo.share_B.mean(), alpha_t=alpha_t, **quality, **contrast.scalars)

    def pseudo_label(self, prob_BCHW: Tensor, output: SegOutput) -> Tensor:
        return self.prototypes.denoised_label(prob_BCHW, output.embed)

    def marks(self, prob_BCHW: Tensor, valid_BHW: Tensor, progress: Progress) -> dict[str, Tensor]:
        alpha_t = unreliable_share(self.config.unsupervised.alpha_0, progress.fraction)
        part = partition(prob_BCHW, valid_BHW, alpha_t)
        return super().marks(prob_BCHW, valid_BHW, progress) | {"reliable": part.reliable_BHW}

    def teacher_on(self, *images: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's logits and embeddings of several groups of images, concatenated.

        Its own BatchNorm statistics are not updated: they remain those of target images.
        """
        outputs = [self.teacher(group, learn=False) for group in images]
        logits = torch.cat([output.logits for output in outputs])
        return logits, torch.cat([output.embed for output in outputs])

    def partition(
        self, logits_BChw: Tensor, batch: DomainBatch, mixed: ClassMixed, alpha: float
    ) -> Partition:
        """Partition of the mixed images' target pixels, without pasted, padded and void ones."""
        prob = upsample(logits_BChw, mixed.label_BHW.shape[-2:]).float().softmax(dim=1)
        seen = batch.valid_t & ~batch.border_t.unsqueeze(2) & ~mixed.pasted_BHW
        return partition(prob, seen, alpha, distributed.gather)

    def candidates(
        self,
        logits_BChw: Tensor,
        batch: DomainBatch,
        mixed: ClassMixed,
        part: Partition,
        alpha: float,
    ) -> Candidates:
        """Possible anchors, positives and negatives of the source and mixed images."""
        return select_in_domains(
            logits_BChw.float().softmax(dim=1),
            batch.label_l,
            mixed.label_BHW,
            mixed.pasted_BHW,
            part,
            alpha,
            self.config.contrast.thresholds(self.num_classes),
            self.config.negatives,
            distributed.gather,
            self.config.contrast.pixel,
        )

    def unsupervised_loss(self, logits_BCHW: Tensor, mixed: ClassMixed, part: Partition) -> Tensor:
        """L_t: mean over all pixels of the symmetric cross entropy, weighted by q."""
        options, weight = self.config.unsupervised, mixed.weight_BHW
        if options.entropy_filter:
            weight = torch.where(part.unreliable_BHW, 0.0, weight)
        count = weight.new_full((), weight.numel())
        return symmetric_cross_entropy(
            logits_BCHW, mixed.label_BHW, options.xi_1, options.xi_2, count, weight
        )
