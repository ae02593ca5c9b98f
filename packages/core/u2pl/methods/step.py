"""The result of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class StepResult(NamedTuple):
    """Loss to minimise, and scalars to log.

    `scalars` holds numbers and detached tensors, 0-d or one value per class; the tensors stay on
    the device until they are logged.
    """

    loss: Tensor
    scalars: dict[str, Tensor | float]

    def log(self, **scalars: Tensor | float) -> StepResult:
        """The same result with more scalars to log."""
        return StepResult(self.loss, {**self.scalars, **scalars})


def weighted_sum(weights: Mapping[str, Tensor | float], **terms: Tensor | None) -> StepResult:
    """L = sum of weight x term; the unweighted terms are logged as `loss/NAME`.

    Args:
        weights: weight of each term by name; 1 for a term that is not in it.
        terms: scalar loss terms by name; None = switched off.
    """
    kept = {name: term for name, term in terms.items() if term is not None}
    loss = torch.stack([term * weights.get(name, 1.0) for name, term in kept.items()]).sum()
    return StepResult(loss, {f"loss/{name}": term.detach() for name, term in kept.items()})
