"""DAFormer: self-training with ClassMix, rare-class sampling and ImageNet feature distance.

Hoyer et al., CVPR 2022; the baseline of U2PL+ sec. 4.2.
"""

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

        # 1. pseudo-labels of clean target images, weighted by q, the share of confident pixels
        prob_t = upsample(self.teacher(batch.image_t, embed=False).logits, size)
        prob_t = prob_t.float().softmax(dim=1)
        pseudo = self.pseudo_labels(prob_t, batch)

        # 2. ClassMix pastes source pixels and labels onto target images, then the strong view
        mixed = self.mix(generator, batch, pseudo.label_BHW, pseudo.weight_BHW)

        # 3. the student predicts source and mixed images
        source = self.student(batch.image_l, embed=False)
        target = self.student(mixed.image_B3HW, embed=False)

        # 4. L = L_s + L_t + lambda_FD L_FD; L_t divides by all pixels, ignored ones included
        sup = self.supervised_loss(source, batch.label_l)
        weight = mixed.weight_BHW
        count = weight.new_full((), weight.numel())
        unsup = cross_entropy(upsample(target.logits, size), mixed.label_BHW, count, weight)
        distance = self.distance(batch, source)
        weights = {"distance": self.config.feature_distance.weight}
        result = weighted_sum(weights, sup=sup, unsup=unsup, distance=distance)
        accuracy = label_accuracy(pseudo.label_BHW, batch.truth_t, batch.valid_t)
        return result.log(q=pseudo.share_B.mean(), **{"accuracy/target": accuracy})
