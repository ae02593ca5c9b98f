"""UniMatch V2: two strong views that see complementary features (Yang et al., TPAMI 2025).

"UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation".
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from u2pl.losses.pseudo_label import confident_label
from u2pl.maps import upsample
from u2pl.memory.teacher import TeacherConfig
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import confidence_scalars
from u2pl.methods.pixel_weight import PixelWeight, PixelWeightConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.mixing.features import drop_complementary
from u2pl.mixing.mixers import MixConfig
from u2pl.mixing.photometric import StrongViewConfig
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.schedules import Progress
from u2pl_semi.self_training import SelfTraining, SelfTrainingConfig


class UniMatchV2Config(SelfTrainingConfig):
    """Options of unimatch_v2; the defaults are the paper's."""

    warm_start: float = Field(
        0.0, ge=0, le=1, description="share of the steps with L_s only; none in UniMatch V2"
    )
    teacher: TeacherConfig = Field(
        TeacherConfig(momentum=0.996), description="how the teacher follows the student"
    )
    strong_view: StrongViewConfig = Field(
        StrongViewConfig(kind="unimatch"),
        description="colour, grey and blur augmentation of the two strong views",
    )
    mix: MixConfig = Field(
        MixConfig(kind="boxes", partner="reversed"),
        description="how each strong view is mixed with another image's",
    )
    whole: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the images whose views keep all features; from each of the others "
        "one view drops half of the channels and the other view the other half; 1 = no dropout",
    )
    confidence: float = Field(
        0.95, ge=0, lt=1, description="top probability from which a pixel is learned from"
    )
    pixel_weight: PixelWeightConfig = Field(
        PixelWeightConfig(), description="how much each pseudo-labelled pixel counts in L_u"
    )
    lambda_u: float = Field(
        1.0, ge=0, description="weight of L_u, the mean of both views' losses, relative to L_s"
    )


class UniMatchV2(SelfTraining):
    """L = (L_s + lambda_u (L_s1 + L_s2) / 2) / 2 (UniMatch V2)."""

    Config = UniMatchV2Config
    config: UniMatchV2Config

    def __init__(self, config: UniMatchV2Config, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.pixel_weight = PixelWeight(config.pixel_weight, student, num_classes)

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        if self.warming_up(progress):
            return self.supervised_step(batch.image_l, batch.label_l)
        config, size = self.config, (batch.label_l.shape[-2], batch.label_l.shape[-1])
        generator = progress.generator(batch.image_l.device)

        # 1. the teacher labels clean images
        looks = self.pixel_weight.looks(self.teacher, batch, embed=False)
        top, label = upsample(looks.clean.logits, size).float().softmax(dim=1).max(dim=1)
        weights = self.pixel_weight(looks, batch, label, generator)
        pseudo = label, top, weights.weight_BHW

        # 2. two strong views, each mixed with another image's by boxes of its own
        views = [
            self.mix(generator, self.strong_view(generator, batch.image_u), batch.valid_u, *pseudo)
            for _ in range(2)
        ]

        # 3. the student predicts labelled images from all channels, both views from complementary
        # ones; in one pass, so that BatchNorm knows what it has normalised by when it is scored
        images = len(batch.image_l)
        strong = [view.image_B3HW for view in views]
        maps = self.student.encode(torch.cat([batch.image_l / 255, *strong]))
        dropped = drop_complementary([each[images:] for each in maps], config.whole, generator)
        maps = [torch.cat([each[:images], d]) for each, d in zip(maps, dropped, strict=True)]
        student = self.student.decode(maps, size, embed=False)
        logits_s = upsample(student.logits[images:], size).chunk(2)

        # 4. L = (L_s + lambda_u (L_s1 + L_s2) / 2) / 2; L_s1 and L_s2 divide by all valid pixels
        sup = self.supervised_loss(student, batch.label_l)
        s1, s2 = (
            self.pixel_weight.confident_loss(logits, view, config.confidence)
            for logits, view in zip(logits_s, views, strict=True)
        )
        factors = {"sup": 0.5, "s1": config.lambda_u / 4, "s2": config.lambda_u / 4}
        target = confident_label(label, top, batch.valid_u, config.confidence)
        quality = confidence_scalars(target, batch.truth_u, batch.valid_u)
        result = weighted_sum(factors, sup=sup, s1=s1, s2=s2)
        return result.log(**quality, **weights.scalars)

    def marks(self, prob_BCHW: Tensor, valid_BHW: Tensor, progress: Progress) -> dict[str, Tensor]:
        top, label = prob_BCHW.max(dim=1)
        target = confident_label(label, top, valid_BHW, self.config.confidence)
        return {"confident": target != IGNORE}
