"""Base classes of methods: a module whose forward is the paper's training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.supervised import connected_zero
from u2pl.maps import top_class, upsample
from u2pl.memory.class_queue import ClassQueue
from u2pl.memory.teacher import batch_norms
from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.methods.step import StepResult, weighted_sum
from u2pl.methods.supervised_loss import SUPERVISED, SupervisedConfig
from u2pl.networks.encoder import Encoder
from u2pl.networks.segmentor import Segmentor, SegOutput
from u2pl.notation import IGNORE
from u2pl.pseudo.partition import Partition, doubt
from u2pl.schedules import Progress

#: Input of a training step: a named tuple of tensors.
Batch = TypeVar("Batch")


class MethodConfig(BaseModel):
    """Base class of a method's options; it has none itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LabeledMethodConfig(MethodConfig):
    """Options shared by all methods with labelled images."""

    supervised: SupervisedConfig = Field(
        SupervisedConfig(), description="loss on labelled pixels, L_s (U2PL Eq 2)"
    )


class Passes(NamedTuple):
    """Encoder forward passes of a step, in images of the crop's size."""

    student: float  # with gradient
    others: float  # without


class Method(nn.Module, Generic[Batch], ABC):
    """A training method; its submodules and buffers are all the state it keeps between steps.

    A subclass annotates `config` with its own config class and implements `forward`; it overrides
    `follow` to update a teacher after each optimizer step. Every parameter that requires a gradient
    is trained. A second student is another submodule, listed in `networks`.

    Args:
        config: the method's options.
        student: the network to train.
        num_classes: C.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    #: Whether the student needs a representation head.
    uses_embedding: ClassVar[bool] = False
    #: Whether the batch needs unlabelled images.
    uses_unlabeled: ClassVar[bool] = True
    #: What happens during the warm start, as shown to the user.
    warming: ClassVar[str] = "supervised only"
    #: What joins when it is over, as shown to the user.
    joining: ClassVar[str] = "the unlabelled images join"

    #: Whether `prepare` is called.
    prepares: ClassVar[bool] = False

    config: MethodConfig

    def __init__(self, config: MethodConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.student = student
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress) -> StepResult:
        """The paper's training step: the loss, and what to log."""

    def networks(self) -> dict[str, nn.Module]:
        """Networks to evaluate, by role; the first one is the method's result."""
        return {"student": self.student}

    @property
    def remedy(self) -> str:
        """What to try if the result is worse than at the end of the warm start.

        That end is scored if this says something.
        """
        return ""

    @torch.no_grad()
    def explain(
        self, image_B3HW: Tensor, valid_BHW: Tensor, tags_BK: Tensor | None, progress: Progress
    ) -> dict[str, Tensor]:
        """What the method makes of images that it learns from, as maps for a person to look at.

        Called in eval mode, on one process alone.

        Args:
            image_B3HW: uint8.
            valid_BHW: bool, False on padding.
            tags_BK: bool, tags of the foreground classes; None without tags.
            progress: of the last step.

        Returns:
            Maps [B, H, W] by name: uint8 class ids, 255 = none; float from 0 to 1; bool marks.
        """
        output = self.labeler()(image_B3HW)
        prob = upsample(output.logits, image_B3HW.shape[-2:]).float().softmax(dim=1)
        label = self.pseudo_label(prob, output).to(torch.uint8)
        name = "label" if self.uses_unlabeled else "prediction"
        return {name: label, "entropy": doubt(prob), **self.marks(prob, valid_BHW, progress)}

    def labeler(self) -> nn.Module:
        """The network whose labels of images without masks are learned from."""
        return next(iter(self.networks().values()))

    def pseudo_label(self, prob_BCHW: Tensor, output: SegOutput) -> Tensor:
        """The label that is shown of each pixel, integer [B, H, W]: the most probable class.

        Args:
            prob_BCHW: probabilities of the labeler.
            output: of the labeler.
        """
        return top_class(prob_BCHW)

    def marks(self, prob_BCHW: Tensor, valid_BHW: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Pixels that are told apart in training, such as reliable ones: bool [B, H, W] by name.

        Args:
            prob_BCHW: probabilities of the labeler.
            valid_BHW: bool, False on padding.
            progress: of the last step.
        """
        return {}

    def follow(self, progress: Progress) -> None:
        """Hook after each optimizer step, to update a teacher; does nothing by default."""

    def prepare(self, labeled: Iterable[tuple[Tensor, Tensor]], seed: int) -> None:
        """Look at all labelled images before the first step of a run; its result is state.

        Args:
            labeled: images, uint8 [3, H, W], and labels, uint8 [H, W], at the size of training.
            seed: of the run.
        """

    def after_step(self, progress: Progress) -> None:
        """Average BatchNorm statistics over processes, then `follow`.

        The training loop calls it after each optimizer step.
        """
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

    # -- implemented for every method --------------------------------------------------------------

    @classmethod
    def warm_start(cls, config: MethodConfig) -> float:
        """Warm start as a share of the steps: the option `warm_start`, or 0 without it."""
        return float(getattr(config, "warm_start", 0.0))

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def warming_up(self, progress: Progress) -> bool:
        """Whether this step is part of the warm start."""
        return progress.after(self.warm_start(self.config)) < 0

    def notes(self) -> list[str]:
        """Notes for the user before a run starts, collected from the method's parts."""
        return [note for part in self._contrasts() for note in part.notes()]

    def queues(self) -> list[ClassQueue]:
        """All queues of keys."""
        return [part for part in self.modules() if isinstance(part, ClassQueue)]

    def count_passes(self, batch: Batch, progress: Progress, pixels: int) -> Passes:
        """Run one forward and count the encoders' inputs; queues and BatchNorm statistics change.

        Args:
            batch: any batch that the networks accept.
            progress: which step to run, as the passes depend on the training phase.
            pixels: that count as 1: H x W for a count of images. Of B images, B x H x W gives the
                passes per image of the batch; inputs of other sizes count by their area.
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


#: A method with any type of batch.
AnyMethod = Method[Any]


class LabeledMethod(Method[Batch]):
    """Base class of methods with labelled images."""

    config: LabeledMethodConfig

    def supervised_loss(self, output: SegOutput, label_BHW: Tensor) -> Tensor:
        """L_s, mean over the labelled pixels of the global batch.

        Args:
            output: of the student, for the labelled images and any others after them.
            label_BHW: integer, 255 = ignore.
        """
        options, images = self.config.supervised, len(label_BHW)

        def loss(logits_BChw: Tensor) -> Tensor:
            logits = upsample(logits_BChw[:images], label_BHW.shape[-2:])
            return SUPERVISED[options.loss](logits, label_BHW, options)

        main = loss(output.logits)
        if output.auxiliary is None:
            return main
        return main + options.auxiliary * loss(output.auxiliary)

    def supervised_step(self, image_B3HW: Tensor, label_BHW: Tensor) -> StepResult:
        """A step on labelled images only, for warm starts and the supervised baseline."""
        output = self.student(image_B3HW, embed=False)
        loss = self.supervised_loss(output, label_BHW)
        idle = list(self.student.embedder.parameters()) if self.student.embedder else []
        return weighted_sum({}, sup=loss + connected_zero(*idle) if idle else loss)


@torch.no_grad()
def label_accuracy(label_BHW: Tensor, truth_BHW: Tensor, where_BHW: Tensor) -> Tensor:
    """Pseudo-label accuracy in a mask over the global batch, for logging; NaN without ground truth.

    Args:
        label_BHW: integer pseudo-label.
        truth_BHW: integer ground truth, 255 = unknown.
        where_BHW: bool mask.
    """
    known = where_BHW & (truth_BHW != IGNORE)
    hits = (label_BHW == truth_BHW) & known
    counts = distributed.total(torch.stack([hits.sum(), known.sum()]).float())
    return counts[0] / counts[1]


def confidence_scalars(
    target_BHW: Tensor, truth_BHW: Tensor, valid_BHW: Tensor
) -> dict[str, Tensor]:
    """To log: share of the valid pixels with a label, and how right these labels are.

    Args:
        target_BHW: integer pseudo-label, 255 = not learned from.
        truth_BHW: integer ground truth, 255 = unknown.
        valid_BHW: bool, False on padding.
    """
    kept = target_BHW != IGNORE
    return {
        "confident_share": distributed.share(kept.sum(), valid_BHW.sum()),
        "accuracy/confident": label_accuracy(target_BHW, truth_BHW, kept),
    }


def partition_scalars(part: Partition, label_BHW: Tensor, truth_BHW: Tensor) -> dict[str, Tensor]:
    """To log: entropy threshold, share of reliable pixels, accuracy of the pseudo-labels."""
    reliable = distributed.total(part.reliable_BHW.sum())
    unreliable = distributed.total(part.unreliable_BHW.sum())
    return {
        "gamma_t": part.gamma,
        "reliable_share": reliable / (reliable + unreliable).clamp(min=1),
        "accuracy/reliable": label_accuracy(label_BHW, truth_BHW, part.reliable_BHW),
        "accuracy/unreliable": label_accuracy(label_BHW, truth_BHW, part.unreliable_BHW),
    }
