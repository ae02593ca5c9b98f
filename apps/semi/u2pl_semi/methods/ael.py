"""AEL: classes that the network is unsure of are shown and learned more often (NeurIPS 2021).

Hu et al., "Semi-Supervised Semantic Segmentation via Adaptive Equalization Learning".
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl import distributed
from u2pl.losses.supervised import cross_entropy
from u2pl.maps import upsample
from u2pl.memory.confidence_bank import ConfidenceBank
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import confidence_scalars
from u2pl.methods.pixel_weight import PixelWeight, PixelWeightConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.mixing.photometric import StrongView, StrongViewConfig
from u2pl.mixing.weak_classes import draw_sources, paste_box, paste_class
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.schedules import Progress
from u2pl_semi.self_training import Teaching, TeachingConfig


class WeakClassesConfig(BaseModel):
    """How classes of low confidence are shown more often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    momentum: float = Field(
        0.999, ge=0, lt=1, description="momentum of the confidence bank (AEL sec. 3.2)"
    )
    copy_paste: float = Field(
        0.5, ge=0, le=1, description="probability of a labelled image to receive a drawn class"
    )
    cutmix: float = Field(
        0.5, ge=0, le=1, description="probability of an unlabelled image to receive a box"
    )
    area: float = Field(0.5, gt=0, le=1, description="area of a box as a share of the image")


class AELConfig(TeachingConfig):
    """Options of ael; the defaults are the paper's, and ours where it is silent."""

    weak_classes: WeakClassesConfig = Field(
        WeakClassesConfig(), description="copy-paste and CutMix of classes of low confidence"
    )
    strong_view: StrongViewConfig = Field(
        StrongViewConfig(),
        description="colour and blur augmentation of the mixed images that the student sees",
    )
    gamma: float = Field(
        2.0, ge=0, description="exponent of the confidence that weights a pixel (AEL sec. 3.5)"
    )
    balance: float = Field(
        0.5,
        ge=0,
        description="exponent beta of the sampling rates, by which confident classes lose pixels; "
        "0 = none does (AEL sec. 3.4)",
    )
    pixel_weight: PixelWeightConfig = Field(
        PixelWeightConfig(), description="how much each pseudo-labelled pixel counts in L_u"
    )
    lambda_u: float = Field(1.0, ge=0, description="weight of L_u")


class AEL(Teaching):
    """L = L_s + lambda_u L_u, L_u = mean CE of sampled pixels, weighted by confidence^gamma."""

    Config = AELConfig
    config: AELConfig

    def __init__(self, config: AELConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        momentum = config.weak_classes.momentum
        self.bank_l, self.bank_u = (ConfidenceBank(num_classes, momentum) for _ in range(2))
        self.strong_view = StrongView(config.strong_view)
        self.pixel_weight = PixelWeight(config.pixel_weight, student, num_classes)

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            return self.supervised_step(batch.image_l, batch.label_l)
        config, size = self.config, batch.label_l.shape[-2:]
        weak, generator = config.weak_classes, progress.generator(batch.image_l.device)

        # 1. the teacher labels clean images; a bank keeps how sure it is of each class
        looks = self.pixel_weight.looks(self.teacher, batch, embed=False)
        prob = upsample(looks.clean.logits, size).float().softmax(dim=1)
        top, label_u = prob.max(dim=1)
        weights = self.pixel_weight(looks, batch, label_u, generator)
        label_u = torch.where(batch.valid_u, label_u, IGNORE)
        self.bank_u.update(prob, label_u)

        # 2. weak classes are pasted: into labelled images their pixels, into others boxes with them
        source = draw_sources(batch.label_l, self.bank_l.chances(), weak.copy_paste, generator)
        label_l, image_l = paste_class(source, batch.label_l, batch.image_l)
        source = draw_sources(label_u, self.bank_u.chances(), weak.cutmix, generator)
        maps = label_u, top, weights.weight_BHW, batch.truth_u
        image_u, valid_u, (label_u, top, weight, truth_u) = paste_box(
            source, generator, weak.area, batch.image_u, batch.valid_u, *maps
        )

        # 3. the student predicts labelled images and a strong view of the mixed ones
        images = torch.cat([image_l / 255, self.strong_view(generator, image_u)])
        student = self.student(images, embed=False)
        logits_l, logits_u = upsample(student.logits, size).chunk(2)
        self.bank_l.update(logits_l.detach().float().softmax(dim=1), label_l)

        # 4. L = L_s + lambda_u L_u: fewer pixels of confident classes, weighted by confidence
        sup = self.supervised_loss(student, label_l)
        target_u = self.sampled(label_u, generator)
        own = torch.where((target_u != IGNORE) & valid_u, top**config.gamma, 0.0)
        seen = self.pixel_weight.divisor(own, weight)
        pixel = own if weight is None else own * weight
        unsup = cross_entropy(logits_u, target_u, seen, pixel)
        quality = confidence_scalars(target_u, truth_u, valid_u)
        result = weighted_sum({"unsup": config.lambda_u}, sup=sup, unsup=unsup)
        banks = {"bank/labelled": self.bank_l.value, "bank/unlabelled": self.bank_u.value}
        kept = {name: value.clone() for name, value in banks.items()}
        return result.log(**quality, **kept, **weights.scalars)

    def sampled(self, label_BHW: Tensor, generator: torch.Generator) -> Tensor:
        """The label, 255 on pixels that the sampling rate of their class leaves out."""
        rate_C = self.bank_u.sampling_rates(self.config.balance)
        count = len(label_BHW) * distributed.world_size()
        draw = torch.rand(count, *label_BHW.shape[1:], generator=generator, device=generator.device)
        draw = distributed.local_rows(draw).to(label_BHW.device)
        known = torch.where(label_BHW == IGNORE, 0, label_BHW)
        return torch.where(draw < rate_C[known], label_BHW, IGNORE)
