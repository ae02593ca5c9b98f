"""What a method is: a module whose forward is the paper's training step."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.supervised import connected_zero, cross_entropy, hard_pixels, valid_count
from u2pl.notation import IGNORE
from u2pl.outputs import StepResult, upsample, weighted_sum
from u2pl.pseudo.partition import Partition
from u2pl.schedules import Progress


class SupervisedConfig(BaseModel):
    """The loss on labelled pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Literal["cross_entropy", "ohem"] = Field("cross_entropy", description="mean over all pixels, or hard ones only (003 B)")
    ohem_threshold: float = Field(0.7, gt=0, le=1, description="a pixel whose class has at most this probability is hard")
    ohem_min_kept: int = Field(100_000, ge=0, description="so many pixels of the step are kept at least; 0 keeps all")


class MethodConfig(BaseModel):
    """What every method can be told: nothing; a method's own config adds to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LabeledMethodConfig(MethodConfig):
    """What every method with labelled images can be told."""

    supervised: SupervisedConfig = Field(SupervisedConfig(), description="loss on labelled pixels, L_s (004 Eq 2)")


class Method(nn.Module):
    """Owns the student, and whatever else it needs between steps as submodules and buffers.

    `forward(batch, progress)` returns the step's loss; the training loop minimises it and then calls `after_step`.

    Args:
        config: the method's own config.
        student: the network that is trained.
        num_classes: C.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    #: does the student need a representation head, does the batch need unlabelled images
    uses_embedding: ClassVar[bool] = False
    uses_unlabeled: ClassVar[bool] = True
    #: what the steps of a warm start are like
    warming: ClassVar[str] = "supervised only"

    def __init__(self, config: Any, student: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.num_classes = num_classes

    @classmethod
    def notes(cls, config: Any, num_classes: int) -> list[str]:
        """What a user should know before a run with this many classes starts."""
        return []

    def forward(self, batch: Any, progress: Progress) -> StepResult:
        raise NotImplementedError

    def after_step(self, progress: Progress) -> None:
        """Called once the optimizer has moved the student; by default there is nothing to update."""

    def networks(self) -> dict[str, nn.Module]:
        """The networks that can be evaluated, by role; the first is the method's result."""
        return {"student": self.student}

    def supervised_loss(self, logits_BCHW: Tensor, label_BHW: Tensor) -> Tensor:
        """L_s, the mean over the labelled pixels of all processes."""
        options = self.config.supervised
        if options.loss == "ohem":
            label_BHW = hard_pixels(logits_BCHW, label_BHW, options.ohem_threshold, options.ohem_min_kept, distributed.gather)
        return cross_entropy(logits_BCHW, label_BHW, distributed.average(valid_count(label_BHW)))

    def supervised_step(self, image_B3HW: Tensor, label_BHW: Tensor) -> StepResult:
        """A step on labelled images alone: the warm start, and the supervised baseline."""
        output = self.student(image_B3HW, embed=False)
        loss = self.supervised_loss(upsample(output.logits, label_BHW.shape[-2:]), label_BHW)
        idle = [parameter for name, parameter in self.student.named_parameters() if name.startswith("embedder.")]
        return weighted_sum({}, sup=loss + connected_zero(*idle) if idle else loss)


@torch.no_grad()
def label_accuracy(label_BHW: Tensor, truth_BHW: Tensor, where_BHW: Tensor) -> Tensor:
    """Share of right pseudo-labels where a truth is known, over all processes; NaN where none is. For the journal only."""
    known = where_BHW & (truth_BHW != IGNORE)
    counts = distributed.total(torch.stack([((label_BHW == truth_BHW) & known).sum(), known.sum()]).float())
    return counts[0] / counts[1]


def partition_scalars(part: Partition, label_BHW: Tensor, truth_BHW: Tensor) -> dict[str, Tensor]:
    """For the journal: the threshold, the share of reliable pixels, and how right the pseudo-labels are where masks exist."""
    reliable, unreliable = distributed.total(part.reliable_BHW.sum()), distributed.total(part.unreliable_BHW.sum())
    return {
        "gamma_t": part.gamma,
        "reliable_share": reliable / (reliable + unreliable).clamp(min=1),
        "accuracy/reliable": label_accuracy(label_BHW, truth_BHW, part.reliable_BHW),
        "accuracy/unreliable": label_accuracy(label_BHW, truth_BHW, part.unreliable_BHW),
    }
