"""What a method is: a module whose forward is the paper's training step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.supervised import connected_zero, cross_entropy, hard_pixels, valid_count
from u2pl.maps import upsample
from u2pl.memory.class_queue import ClassQueue
from u2pl.memory.teacher import batch_norms
from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.networks.encoder import Encoder
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import Partition
from u2pl.schedules import Progress

#: What a step is fed: a named tuple of tensors.
Batch = TypeVar("Batch")


class SupervisedConfig(BaseModel):
    """The loss on labelled pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Literal["cross_entropy", "ohem"] = Field(
        "cross_entropy", description="mean over all pixels, or over hard ones only (U2PL supp. B)"
    )
    ohem_threshold: float = Field(
        0.7, gt=0, le=1, description="a pixel is hard if its class has at most this probability"
    )
    ohem_min_kept: int = Field(
        100_000, ge=0, description="minimum number of pixels kept per step; 0 keeps all"
    )


class MethodConfig(BaseModel):
    """Options of a method: none in common; a method's own config adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LabeledMethodConfig(MethodConfig):
    """Options of every method with labelled images."""

    supervised: SupervisedConfig = Field(
        SupervisedConfig(), description="loss on labelled pixels, L_s (U2PL Eq 2)"
    )


class Passes(NamedTuple):
    """Images that pass through the encoders in a step, counted at the crop's size."""

    student: float  # with gradient
    others: float  # forward only


class Method(nn.Module, Generic[Batch]):
    """Owns the student, and whatever else it needs between steps as submodules and buffers.

    A subclass annotates `config` with its own class, and defines `forward` and what is to `follow`
    an optimizer step. Everything trained is a parameter that requires a gradient; a second student
    is a second submodule, named in `networks`.

    Args:
        config: the method's options.
        student: the network that is trained.
        num_classes: C.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    #: Whether the student needs a representation head.
    uses_embedding: ClassVar[bool] = False
    #: Whether the batch needs unlabelled images.
    uses_unlabeled: ClassVar[bool] = True
    #: What a warm start is, in words.
    warming: ClassVar[str] = "supervised only"

    config: MethodConfig

    def __init__(self, config: MethodConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress) -> StepResult:
        """The paper's training step."""

    def networks(self) -> dict[str, nn.Module]:
        """The networks that can be evaluated, by role; the first is the method's result."""
        return {"student": self.student}

    def follow(self, progress: Progress) -> None:
        """Update what follows the student, once the optimizer has moved it; nothing by default."""

    def after_step(self, progress: Progress) -> None:
        """What the training loop calls after each optimizer step."""
        distributed.average_all(
            [
                buffer
                for norm in batch_norms(self)
                if norm.training
                for buffer in norm.buffers()
                if buffer.is_floating_point()
            ]
        )
        self.follow(progress)

    # -- what every method knows about itself ------------------------------------------------------

    @classmethod
    def warm_start(cls, config: MethodConfig) -> float:
        """Share of the steps that are a warm start: the option of that name, 0 without one."""
        return float(getattr(config, "warm_start", 0.0))

    @property
    def device(self) -> torch.device:
        """Where the method is."""
        return next(self.parameters()).device

    def warming_up(self, progress: Progress) -> bool:
        """Whether this step is part of the warm start."""
        return progress.after(self.warm_start(self.config)) < 0

    def notes(self) -> list[str]:
        """What a user should know before a run starts; from the method's parts."""
        return [note for part in self._contrasts() for note in part.notes()]

    def queues(self) -> list[ClassQueue]:
        """The memories of keys."""
        return [part for part in self.modules() if isinstance(part, ClassQueue)]

    def count_passes(self, batch: Batch, progress: Progress, pixels: int) -> Passes:
        """Run a step's forward and count what its encoders see; memories and statistics move.

        Args:
            batch: of any size that the networks take.
            progress: which step; phases differ.
            pixels: height x width of one image of the batch; views of other sizes count by area.
        """
        seen = {True: 0.0, False: 0.0}

        def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            image = inputs[0]
            seen[torch.is_grad_enabled()] += image.shape[0] * image.shape[-2] * image.shape[-1]

        encoders = [part for part in self.modules() if isinstance(part, Encoder)]
        hooks = [encoder.register_forward_pre_hook(count) for encoder in encoders]
        try:
            self(batch, progress)
        finally:
            for hook in hooks:
                hook.remove()
        return Passes(seen[True] / pixels, seen[False] / pixels)

    def _contrasts(self) -> Iterator[PixelContrast]:
        yield from (part for part in self.modules() if isinstance(part, PixelContrast))


class LabeledMethod(Method[Batch]):
    """A method with labelled images."""

    config: LabeledMethodConfig

    def supervised_loss(self, logits_BCHW: Tensor, label_BHW: Tensor) -> Tensor:
        """L_s, the mean over the labelled pixels of all processes."""
        options = self.config.supervised
        if options.loss == "ohem":
            threshold, kept = options.ohem_threshold, options.ohem_min_kept
            label_BHW = hard_pixels(logits_BCHW, label_BHW, threshold, kept, distributed.gather)
        return cross_entropy(logits_BCHW, label_BHW, distributed.average(valid_count(label_BHW)))

    def supervised_step(self, image_B3HW: Tensor, label_BHW: Tensor) -> StepResult:
        """A step on labelled images alone: the warm start, and the supervised baseline."""
        output = self.student(image_B3HW, embed=False)
        loss = self.supervised_loss(upsample(output.logits, label_BHW.shape[-2:]), label_BHW)
        idle = list(self.student.embedder.parameters()) if self.student.embedder else []
        return weighted_sum({}, sup=loss + connected_zero(*idle) if idle else loss)


@torch.no_grad()
def label_accuracy(label_BHW: Tensor, truth_BHW: Tensor, where_BHW: Tensor) -> Tensor:
    """Share of correct pseudo-labels where the truth is known, over all processes; NaN if nowhere.

    For the journal only.
    """
    known = where_BHW & (truth_BHW != IGNORE)
    hits = (label_BHW == truth_BHW) & known
    counts = distributed.total(torch.stack([hits.sum(), known.sum()]).float())
    return counts[0] / counts[1]


def partition_scalars(part: Partition, label_BHW: Tensor, truth_BHW: Tensor) -> dict[str, Tensor]:
    """For the journal: threshold, share of reliable pixels, and accuracy of the pseudo-labels."""
    reliable = distributed.total(part.reliable_BHW.sum())
    unreliable = distributed.total(part.unreliable_BHW.sum())
    return {
        "gamma_t": part.gamma,
        "reliable_share": reliable / (reliable + unreliable).clamp(min=1),
        "accuracy/reliable": label_accuracy(label_BHW, truth_BHW, part.reliable_BHW),
        "accuracy/unreliable": label_accuracy(label_BHW, truth_BHW, part.unreliable_BHW),
    }
