"""Schedules, each a closed formula of the step: a resumed run recomputes them, none is saved."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Progress(NamedTuple):
    """Where a run stands: the current step (from 0), the total, and the run's seed."""

    step: int
    total: int
    seed: int = 0

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.step / self.total

    def after(self, warm_start: float) -> int:
        """Steps since the warm start ended; negative during it.

        Args:
            warm_start: share of the run, in [0, 1].
        """
        return self.step - round(warm_start * self.total)

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """The step's random generator, equal on every process; never saved, the step seeds it."""
        return torch.Generator(device).manual_seed(step_seed(self.seed, self.step))


def step_seed(seed: int, step: int, rank: int = -1) -> int:
    """63-bit hash of (seed, step, rank); rank -1 is the seed shared by all processes."""
    mixed = (
        seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + (rank + 2) * 0x94D049BB133111EB
    ) & 0xFFFFFFFFFFFFFFFF
    mixed = ((mixed ^ (mixed >> 31)) * 0xD6E8FEB86659FD93) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 32)) & 0x7FFFFFFFFFFFFFFF


def poly_lr(base: float, step: int, total: int, power: float = 0.9) -> float:
    """Polynomial learning-rate decay (U2PL+ sec. 4.1): base (1 - step/total)^power."""
    return base * (1 - step / total) ** power


def linear_warmup(step: int, steps: int, start: float = 1e-6) -> float:
    """Warm-up factor: linear from `start` to 1 over the first `steps` steps, then 1."""
    return 1 - (1 - step / steps) * (1 - start) if step < steps else 1.0


def unreliable_share(alpha_0: float, fraction: float) -> float:
    """Dynamic partition adjustment (U2PL Eq 7, U2PL+ Eq 13): alpha_t = alpha_0 (1 - t/T)."""
    return alpha_0 * (1 - fraction)


def ema_momentum(step: int, limit: float) -> float:
    """EMA momentum min(1 - 1/(step+1), limit).

    The average starts as a copy (momentum 0), is a plain mean until the limit is reached, and
    exponential from there on.
    """
    return min(1 - 1 / (step + 1), limit)


def sigmoid_ramp(step: int, length: int) -> float:
    """Sigmoid ramp-up of the mean teacher: exp(-5 (1 - step/length)^2), and 1 from `length` on."""
    return math.exp(-5 * (1 - min(step / length, 1.0)) ** 2) if length else 1.0
