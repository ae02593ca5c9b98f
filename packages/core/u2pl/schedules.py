"""Numbers that change over a run, each a closed formula of the step: a resumed run continues by computing, not by remembering."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Progress(NamedTuple):
    """Where a run stands: this step (from 0), how many there are, and the run's seed."""

    step: int
    total: int
    seed: int = 0

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / self.total

    def after(self, warm_start: float) -> int:
        """Steps since the warm start ended; negative while it lasts."""
        return self.step - round(warm_start * self.total)

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """The step's source of randomness, the same on every process; nothing of it needs to be saved."""
        return torch.Generator(device).manual_seed(step_seed(self.seed, self.step))


def step_seed(seed: int, step: int, rank: int = -1) -> int:
    """A 63-bit seed that differs for every (seed, step, rank); rank -1 is what all processes share."""
    mixed = (
        seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + (rank + 2) * 0x94D049BB133111EB
    ) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 31)) * 0xD6E8FEB86659FD93) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 32)) & 0x7FFFFFFFFFFFFFFF


def poly_lr(base: float, step: int, total: int, power: float = 0.9) -> float:
    """Learning rate of 000 sec. 4.1: base (1 - step/total)^power."""
    return base * (1 - step / total) ** power


def linear_warmup(step: int, steps: int, start: float = 1e-6) -> float:
    """Factor that grows linearly from `start` to 1 over the first `steps` steps, then stays 1."""
    return 1 - (1 - step / steps) * (1 - start) if step < steps else 1.0


def unreliable_share(alpha_0: float, fraction: float) -> float:
    """Dynamic partition adjustment (004 Eq 7, 000 Eq 13): alpha_t = alpha_0 (1 - t/T)."""
    return alpha_0 * (1 - fraction)


def ema_momentum(step: int, limit: float) -> float:
    """Momentum min(1 - 1/(step+1), limit): 0 at first (the average starts as a copy), then a plain mean, then exponential."""
    return min(1 - 1 / (step + 1), limit)


def sigmoid_ramp(step: int, length: int) -> float:
    """Consistency ramp of the mean teacher: exp(-5 (1 - step/length)^2), 1 once `length` steps are done."""
    return math.exp(-5 * (1 - min(step / length, 1.0)) ** 2) if length else 1.0
