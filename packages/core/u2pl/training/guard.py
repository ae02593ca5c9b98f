"""Detecting non-finite numbers without synchronising with the device at every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from u2pl import distributed
from u2pl.errors import UserError

ADVICE = "lower train.lr or set train.clip_norm and start again with another --out"


class FiniteGuard:
    """Records, on the device, the first step at which each loss term was not finite."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}

    def watch(self, step: int, scalars: dict[str, Tensor | float]) -> None:
        """Record the `loss/...` terms of a step."""
        for name, value in scalars.items():
            if name.startswith("loss/") and isinstance(value, Tensor):
                before = self.first.get(name, torch.full((), -1, device=value.device))
                self.first[name] = torch.where((before < 0) & ~value.isfinite(), step, before)

    def check(self) -> None:
        """Raise UserError naming the first bad step and its terms, on all processes if on any."""
        if not self.first:
            return
        seen = distributed.gather(torch.stack(list(self.first.values())).unsqueeze(0)).T.tolist()
        bad = {
            name: min(s for s in steps if s >= 0)
            for name, steps in zip(self.first, seen, strict=True)
            if max(steps) >= 0
        }
        if bad:
            step = min(bad.values())
            terms = ", ".join(
                name.removeprefix("loss/") for name, first in bad.items() if first == step
            )
            raise UserError(f"the loss is not finite at step {step}: {terms}; {ADVICE}")


@torch.no_grad()
def check_weights(module: nn.Module, steps: int) -> None:
    """Raise UserError if a trained weight is not finite, on all processes if on any.

    A gradient can overflow although the loss is finite; the next loss would show it, but only after
    this state has been saved. Synchronises with the device.

    Args:
        module: the trained module.
        steps: steps done, for the error.
    """
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # the maximum norm: in the Euclidean one, squares of large weights would overflow
    largest = nn.utils.get_total_norm(weights, norm_type=torch.inf)
    if distributed.total((~largest.isfinite()).float()) > 0:
        raise UserError(f"the weights are not finite after step {steps}; {ADVICE}")
