"""The teacher: an exponential moving average (EMA) of the student's weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl.networks.encoder import copied, frozen_encoders
from u2pl.schedules import ema_momentum


class AverageConfig(BaseModel):
    """How the EMA follows the student."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    momentum: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="upper limit m0 of the EMA momentum min(1 - 1/(t+1), m0) (U2PL+ Eq 2; value: "
        "released code)",
    )
    ramp: bool = Field(
        True,
        description="start as a plain mean of the students since the warm start (released code); "
        "off: start from a copy of the student, at m0 from the first step, which is steadier in "
        "runs of a few hundred steps",
    )


class TeacherConfig(AverageConfig):
    """How the teacher follows the student, and its BatchNorm statistics."""

    statistics: Literal["averaged", "own"] = Field(
        "averaged",
        description="the teacher's BatchNorm statistics; averaged: EMA of the student's, fixed in "
        "its forward; own: those of its own batches (released code; in u2pl and u2plplus of "
        "u2pl-semi running ones for pseudo-labels)",
    )


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers of a network."""
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]


class Teacher(nn.Module):
    """EMA teacher: theta_t <- m theta_t + (1 - m) theta_s (U2PL+ Eq 2).

    Its forward is without gradient and dropout.

    Args:
        student: the network to follow; it is copied, except for a frozen encoder.
        config: momentum, and for a `TeacherConfig` BatchNorm statistics.
    """

    def __init__(self, student: nn.Module, config: AverageConfig) -> None:
        super().__init__()
        self.config = config
        self.own_statistics = isinstance(config, TeacherConfig) and config.statistics == "own"
        self.network = copied(student).requires_grad_(False)
        # walking two networks takes longer than averaging them on a GPU, so it is done once
        self._followed: tuple[nn.Module, dict[bool, _Tensors]] | None = None
        self.train(self.training)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode; with own statistics, only BatchNorm follows `mode`."""
        super().train(False)
        for norm in self._own_norms():
            norm.train(mode)
        return self

    @torch.no_grad()
    def forward(self, *args: Any, learn: bool = True, running: bool = False, **kwargs: Any) -> Any:
        """The network's output.

        Args:
            *args: for the network.
            learn: whether own running statistics of BatchNorm follow this batch.
            running: normalise by the running statistics, not by this batch.
            **kwargs: for the network.
        """
        norms = self._own_norms()
        modes = [norm.training for norm in norms]
        for norm, mode in zip(norms, modes, strict=True):
            norm.track_running_stats = learn
            norm.train(mode and not running)
        output = self.network(*args, **kwargs)
        for norm, mode in zip(norms, modes, strict=True):
            norm.train(mode)
        return output

    def _own_norms(self) -> list[nn.modules.batchnorm._BatchNorm]:
        # looked up each time: distributed training replaces the layers by SyncBatchNorm
        if not self.own_statistics:
            return []
        frozen = {norm for part in frozen_encoders(self.network) for norm in batch_norms(part)}
        return [norm for norm in batch_norms(self.network) if norm not in frozen]

    def _momentum(self, step: int) -> float:
        if step <= 0:
            return 0.0
        return (
            ema_momentum(step, self.config.momentum) if self.config.ramp else self.config.momentum
        )

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """EMA update after an optimizer step.

        Float buffers are averaged like parameters and integer buffers copied. A teacher with own
        statistics keeps its buffers once the warm start is over.

        Args:
            student: network of the same architecture.
            step: steps since the end of the warm start; up to 0, the student is copied.
        """
        with_buffers = step <= 0 or not self.own_statistics
        if self._followed is None or self._followed[0] is not student:
            self._followed = student, {}
        known = self._followed[1]
        if with_buffers not in known:
            known[with_buffers] = _tensors(self.network, student, with_buffers)
        tensors = known[with_buffers]
        if tensors.counts:
            torch._foreach_copy_(tensors.counts, tensors.their_counts)
        torch._foreach_lerp_(tensors.own, tensors.theirs, 1 - self._momentum(step))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Teacher:
        self._followed = None  # moving a module replaces its buffers
        super()._apply(fn, recurse)
        return self


class _Tensors(NamedTuple):
    """What an update averages and copies: the teacher's tensors and the student's, in one order."""

    own: list[Tensor]
    theirs: list[Tensor]
    counts: list[Tensor]
    their_counts: list[Tensor]


def _tensors(network: nn.Module, student: nn.Module, with_buffers: bool) -> _Tensors:
    found = _Tensors([], [], [], [])
    pairs: list[tuple[Tensor, Tensor]] = []
    pairs += zip(network.parameters(), student.parameters(), strict=True)
    if with_buffers:
        pairs += zip(network.buffers(), student.buffers(), strict=True)
    for buffer, source in pairs:
        if buffer is source:  # of a frozen encoder, which both share
            continue
        floating = buffer.is_floating_point()
        (found.own if floating else found.counts).append(buffer)
        (found.theirs if floating else found.their_counts).append(source)
    return found
