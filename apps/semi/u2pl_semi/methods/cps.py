"""CPS: two students that start differently teach each other (Chen et al., CVPR 2021).

"Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision".
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.supervised import cross_entropy
from u2pl.maps import top_class, upsample
from u2pl.methods.batches import PairBatch
from u2pl.methods.method import LabeledMethod, LabeledMethodConfig
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.networks.encoder import copied
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.notation import IGNORE
from u2pl.schedules import Progress


class CPSConfig(LabeledMethodConfig):
    """Options of cps."""

    lambda_cps: float = Field(1.5, ge=0, description="weight of the cross pseudo supervision")


class CPS(LabeledMethod[PairBatch]):
    """L = L_s of both students + lambda_cps (CE(one, labels of two) + CE(two, labels of one))."""

    Config = CPSConfig
    config: CPSConfig

    def __init__(self, config: CPSConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        # the same pretrained encoder; everything else starts with other random weights
        self.second = copied(student)
        kept = {id(part) for part in self.second.encoder.modules()}
        for part in self.second.modules():
            if id(part) not in kept and callable(reset := getattr(part, "reset_parameters", None)):
                reset()
        # in a list, so that both networks are not parts of the method a second time
        self.average = [Average(self.student, self.second)]

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        images, size = torch.cat([batch.image_l, batch.image_u]), batch.label_l.shape[-2:]
        seen = torch.cat([batch.label_l != IGNORE, batch.valid_u])

        # 1. both students predict labelled and unlabelled images
        outputs = [network(images, embed=False) for network in (self.student, self.second)]
        one, two = (upsample(output.logits, size) for output in outputs)

        # 2. L = L_s + L_s' + lambda_cps (L_1 + L_2): each learns from the other's labels
        sup, second = (self.supervised_loss(output, batch.label_l) for output in outputs)
        cps = self.believe(one, two, seen) + self.believe(two, one, seen)
        result = weighted_sum({"cps": self.config.lambda_cps}, sup=sup, sup_second=second, cps=cps)
        agreed = (top_class(one) == top_class(two)) & seen
        return result.log(agreement=distributed.share(agreed.sum(), seen.sum()))

    def believe(self, logits_BCHW: Tensor, other_BCHW: Tensor, seen_BHW: Tensor) -> Tensor:
        """Cross entropy with the other student's labels, mean over the pixels of all processes."""
        label = torch.where(seen_BHW, top_class(other_BCHW.detach()), IGNORE)
        return cross_entropy(logits_BCHW, label, distributed.average(seen_BHW.sum()))

    def networks(self) -> dict[str, nn.Module]:
        return {"student": self.student, "second": self.second, "average": self.average[0]}


class Average(nn.Module):
    """The mean of the probabilities of two networks, as a network of its own."""

    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.both = nn.ModuleList([one, two])

    def forward(self, image_B3HW: Tensor, embed: bool = False) -> SegOutput:
        """Logits are the logarithms of the mean probabilities, at a quarter of the image's size."""
        probs = [each(image_B3HW, embed=False).logits.float().softmax(dim=1) for each in self.both]
        return SegOutput((probs[0] + probs[1]).div_(2).clamp_(min=1e-30).log_())
