"""UniMatch: two strong views and a perturbation of features (Yang et al., CVPR 2023).

"Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation".
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from u2pl.losses.pseudo_label import confident_label
from u2pl.maps import upsample
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import LabeledMethod, LabeledMethodConfig, confidence_scalars
from u2pl.methods.pixel_weight import Looks, PixelWeight, PixelWeightConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.mixing.features import drop_channels
from u2pl.mixing.mixers import MixConfig, Mixed, Mixer
from u2pl.mixing.photometric import StrongView, StrongViewConfig
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.schedules import Progress


class UniMatchConfig(LabeledMethodConfig):
    """Options of unimatch; the defaults are the paper's."""

    confidence: float = Field(
        0.95,
        ge=0,
        lt=1,
        description="top probability from which a pixel is learned from; 0 on Cityscapes",
    )
    strong_view: StrongViewConfig = Field(
        StrongViewConfig(kind="unimatch"),
        description="colour, grey and blur augmentation of the two strong views",
    )
    mix: MixConfig = Field(
        MixConfig(kind="boxes"), description="how each strong view is mixed with the next image's"
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="share of the channels that the perturbation drops"
    )
    pixel_weight: PixelWeightConfig = Field(
        PixelWeightConfig(), description="how much each pseudo-labelled pixel counts"
    )
    lambda_s: float = Field(0.5, ge=0, description="weight of both strong views together")
    lambda_fp: float = Field(0.5, ge=0, description="weight of the feature perturbation")


class UniMatch(LabeledMethod[PairBatch]):
    """L = (L_s + lambda_s (L_s1 + L_s2) / 2 + lambda_fp L_fp) / 2 (UniMatch Eq 5)."""

    Config = UniMatchConfig
    config: UniMatchConfig

    def __init__(self, config: UniMatchConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.strong_view = StrongView(config.strong_view)
        self.mix = Mixer(config.mix, num_classes)
        self.pixel_weight = PixelWeight(config.pixel_weight, student, num_classes)

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        config, size = self.config, (batch.label_l.shape[-2], batch.label_l.shape[-1])
        generator, images = progress.generator(batch.image_l.device), len(batch.image_l)

        # 1. labelled and clean unlabelled images, and the latter with dropped feature channels
        maps = self.student.encode(torch.cat([batch.image_l, batch.image_u]))
        maps = [
            torch.cat([each, drop_channels(each[images:], config.dropout, generator)])
            for each in maps
        ]
        weak = self.student.decode(maps, size, embed=False)
        _, logits_w, logits_fp = upsample(weak.logits, size).split(images)
        labeled, others = weak.split(images)

        # 2. pseudo-labels of the clean images
        top, label = logits_w.detach().float().softmax(dim=1).max(dim=1)
        looks = Looks(labeled, others.split(images)[0])
        weights = self.pixel_weight(looks, batch, label, generator)
        pseudo = label, top, weights.weight_BHW

        # 3. two strong views, each mixed with the next image's by boxes of its own
        views = [
            self.mix(generator, self.strong_view(generator, batch.image_u), batch.valid_u, *pseudo)
            for _ in range(2)
        ]
        strong = self.student(torch.cat([view.image_B3HW for view in views]), embed=False)
        logits_s = upsample(strong.logits, size).chunk(2)

        # 4. L = (L_s + lambda_s (L_s1 + L_s2) / 2 + lambda_fp L_fp) / 2
        sup = self.supervised_loss(weak, batch.label_l)
        clean = Mixed(batch.image_u, batch.valid_u, pseudo)
        s1, s2, fp = (
            self.pixel_weight.confident_loss(logits, view, config.confidence)
            for logits, view in zip((*logits_s, logits_fp), (*views, clean), strict=True)
        )
        each = config.lambda_s / 4
        factors = {"sup": 0.5, "fp": config.lambda_fp / 2, "s1": each, "s2": each}
        target = confident_label(label, top, batch.valid_u, config.confidence)
        quality = confidence_scalars(target, batch.truth_u, batch.valid_u)
        result = weighted_sum(factors, sup=sup, s1=s1, s2=s2, fp=fp)
        return result.log(**quality, **weights.scalars)

    def marks(self, prob_BCHW: Tensor, valid_BHW: Tensor, progress: Progress) -> dict[str, Tensor]:
        top, label = prob_BCHW.max(dim=1)
        target = confident_label(label, top, valid_BHW, self.config.confidence)
        return {"confident": target != IGNORE}
