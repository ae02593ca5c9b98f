"""DAFormer: self-training on ClassMix images, rare classes first, ImageNet not forgotten (Hoyer et al., CVPR 2022; 000 sec. 4.2)."""

from __future__ import annotations

from typing import ClassVar

from u2pl.losses.supervised import cross_entropy
from u2pl.maps import upsample
from u2pl.methods.method import MethodConfig, label_accuracy
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.schedules import Progress
from u2pl_da.adaptation import Adaptation, AdaptationConfig
from u2pl_da.batches import DomainBatch


class DAFormer(Adaptation):
    """L = L_s + L_t + lambda_FD L_FD."""

    Config: ClassVar[type[MethodConfig]] = AdaptationConfig

    def forward(self, batch: DomainBatch, progress: Progress) -> StepResult:
        generator, size = progress.generator(batch.image_l.device), batch.label_l.shape[-2:]

        # 1. the teacher labels clean target images; q, the share of confident pixels, says how far it is believed
        prob_t = (
            upsample(self.teacher(batch.image_t, embed=False).logits, size).float().softmax(dim=1)
        )
        believed = self.believed(prob_t, batch)

        # 2. ClassMix pastes source pixels and their labels onto the target images; colours and blur of the result are changed
        mixed = self.mix(generator, batch, believed.label_BHW, believed.weight_BHW)

        # 3. the student sees source and mixed images
        source, target = (
            self.student(batch.image_l, embed=False),
            self.student(mixed.image_B3HW, embed=False),
        )

        # 4. L = L_s + L_t + lambda_FD L_FD
        sup = self.supervised_loss(upsample(source.logits, size), batch.label_l)
        every = mixed.weight_BHW.new_full(
            (), mixed.weight_BHW.numel()
        )  # pixels that do not count are in the mean all the same
        unsup = cross_entropy(
            upsample(target.logits, size), mixed.label_BHW, every, mixed.weight_BHW
        )
        distance = self.distance(batch, source)
        result = weighted_sum(
            {"distance": self.config.feature_distance.weight},
            sup=sup,
            unsup=unsup,
            distance=distance,
        )
        return result.log(
            q=believed.share_B.mean(),
            **{"accuracy/target": label_accuracy(believed.label_BHW, batch.truth_t, batch.valid_t)},
        )
