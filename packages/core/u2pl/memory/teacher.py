"""The exponential moving average of a network."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl.schedules import ema_momentum


class AverageConfig(BaseModel):
    """How an average follows the student."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    momentum: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="limit m0 of the momentum min(1 - 1/(t+1), m0) (000 Eq 2; value: released code)",
    )
    ramp: bool = Field(
        True,
        description="start as a plain mean of the students since the warm start (released); off: from a copy of the student at m0 at once, "
        "steadier in runs of a few hundred steps",
    )


class TeacherConfig(AverageConfig):
    """How the teacher follows the student, and what it normalises by."""

    statistics: Literal["averaged", "own"] = Field(
        "averaged",
        description="BatchNorm of the teacher: averaged with the weights and fixed in its forward, or its own batches' (released)",
    )


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers of a network."""
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]


class Teacher(nn.Module):
    """theta_t <- m theta_t + (1 - m) theta_s (000 Eq 2); its forward carries no gradient and leaves dropout off.

    Args:
        student: the network to follow; copied.
        config: momentum and BatchNorm statistics.
    """

    def __init__(self, student: nn.Module, config: AverageConfig) -> None:
        super().__init__()
        self.config = config
        self.own_statistics = isinstance(config, TeacherConfig) and config.statistics == "own"
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode; with own statistics BatchNorm alone follows `mode`."""
        super().train(False)
        for norm in self._own_norms():
            norm.train(mode)
        return self

    @torch.no_grad()
    def forward(self, *args: Any, learn: bool = True, **kwargs: Any) -> Any:
        """The network's answer; without `learn` its own BatchNorm statistics, if it keeps any, do not follow these images."""
        for norm in self._own_norms():
            norm.track_running_stats = learn
        return self.network(*args, **kwargs)

    def _own_norms(self) -> list[nn.modules.batchnorm._BatchNorm]:
        # looked up each time: distributed training puts other layers in their place
        return batch_norms(self.network) if self.own_statistics else []

    def _momentum(self, step: int) -> float:
        if step <= 0:
            return 0.0
        return (
            ema_momentum(step, self.config.momentum) if self.config.ramp else self.config.momentum
        )

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Follow the student after its step number `step`, counted from the end of the warm start; before that, copy it.

        Float buffers are averaged like parameters (once the teacher has statistics of its own: left alone), integer buffers copied.
        """
        weight = 1 - self._momentum(step)
        own: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(student.parameters())
        if step <= 0 or not self.own_statistics:
            pairs = list(zip(self.network.buffers(), student.buffers(), strict=True))
            own += [buffer for buffer, _ in pairs if buffer.is_floating_point()]
            theirs += [source for buffer, source in pairs if buffer.is_floating_point()]
            counts = [buffer for buffer, _ in pairs if not buffer.is_floating_point()]
            if counts:
                torch._foreach_copy_(
                    counts, [source for buffer, source in pairs if not buffer.is_floating_point()]
                )
        torch._foreach_lerp_(own, theirs, weight)
