"""CPS: two students of different beginnings label images for each other (Chen et al. 2021)."""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.supervised import cross_entropy
from u2pl.maps import top_class, upsample
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import LabeledMethod, LabeledMethodConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.schedules import Progress


class CPSConfig(LabeledMethodConfig):
    """Options of cps."""

    lambda_cps: float = Field(1.5, ge=0, description="weight of the cross pseudo supervision")


class CPS(LabeledMethod[PairBatch]):
    """L = L_s of both + lambda_cps L_cps, on labelled and unlabelled images."""

    Config = CPSConfig
    config: CPSConfig

    def __init__(self, config: CPSConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.second = copy.deepcopy(student)
        for head in (self.second.decoder, self.second.classifier):
            for layer in head.modules():
                if callable(reset := getattr(layer, "reset_parameters", None)):
                    reset()

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        images, size = torch.cat([batch.image_l, batch.image_u]), batch.label_l.shape[-2:]
        seen = torch.cat([batch.label_l != IGNORE, batch.valid_u])
        outputs = [network(images, embed=False) for network in (self.student, self.second)]
        sup, sup_second = (self.supervised_loss(output, batch.label_l) for output in outputs)
        one, two = (upsample(output.logits, size) for output in outputs)
        cps = self.believe(one, two, seen) + self.believe(two, one, seen)
        return weighted_sum(
            {"cps": self.config.lambda_cps}, sup=sup, sup_second=sup_second, cps=cps
        )

    def believe(self, logits: Tensor, other: Tensor, seen_BHW: Tensor) -> Tensor:
        """Cross entropy with the other student's labels, mean over the pixels of all processes."""
        label = torch.where(seen_BHW, top_class(other.detach()), IGNORE)
        return cross_entropy(logits, label, distributed.average(seen_BHW.sum()))

    def networks(self) -> dict[str, nn.Module]:
        return {"student": self.student, "second": self.second}
