"""What a training step returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class StepResult(NamedTuple):
    """A method's result for one step: what to minimise and what to log.

    `scalars` holds numbers and detached tensors (zero-dimensional, or one number per class); the
    device is not waited for until they are logged.
    """

    loss: Tensor
    scalars: dict[str, Tensor | float]

    def log(self, **scalars: Tensor | float) -> StepResult:
        """The same loss with more scalars."""
        return StepResult(self.loss, {**self.scalars, **scalars})


def weighted_sum(weights: Mapping[str, Tensor | float], **terms: Tensor | None) -> StepResult:
    """L = sum over terms of weight x term; the logged scalars are the unweighted terms.

    A term without a weight has weight 1; None is a term that is switched off.
    """
    kept = {name: term for name, term in terms.items() if term is not None}
    loss = torch.stack([term * weights.get(name, 1.0) for name, term in kept.items()]).sum()
    return StepResult(loss, {f"loss/{name}": term.detach() for name, term in kept.items()})
