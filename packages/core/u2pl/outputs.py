"""What networks and methods return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.notation import OUTPUT_STRIDE


class SegOutput(NamedTuple):
    """A network's answer at a quarter of the image's size."""

    logits: Tensor  # [B, C, h, w]
    embed: Tensor | None = None  # [B, D, h, w]
    deep: Tensor | None = None  # [B, D', H/32, W/32] the encoder's last feature map, padding included; H/8 or H/16 at that output stride


class StepResult(NamedTuple):
    """A method's answer for one step: what to minimise and what to write down.

    `scalars` holds numbers and detached tensors (zero-dimensional, or one number per class); nothing waits for them until they are logged.
    """

    loss: Tensor
    scalars: dict[str, Tensor | float]

    def log(self, **scalars: Tensor | float) -> StepResult:
        """The same loss with more to write down."""
        return StepResult(self.loss, {**self.scalars, **scalars})


def upsample(logits_BChw: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a quarter-size map to `size` = (H, W); bilinear, in the map's own dtype.

    The map may cover up to three pixels more than the image (h = ceil(H / 4)); what lies outside is cut off.
    """
    full = F.interpolate(logits_BChw, scale_factor=OUTPUT_STRIDE, mode="bilinear", align_corners=False)
    return full[..., : size[0], : size[1]]


def top_class(score_BCHW: Tensor) -> Tensor:
    """argmax over the classes, int64 [B, H, W], the lowest of equals: `max` takes a CPU a third of `argmax`'s time or less."""
    return score_BCHW.max(dim=1).indices


def downsample(map_BHW: Tensor) -> Tensor:
    """Nearest quarter-size of a label or mask: pixel (4i, 4j) speaks for feature (i, j)."""
    return map_BHW[..., ::OUTPUT_STRIDE, ::OUTPUT_STRIDE]


def weighted_sum(weights: Mapping[str, Tensor | float], **terms: Tensor | None) -> StepResult:
    """L = sum over terms of weight x term; the scalars are the unweighted terms.

    A term without a weight counts once; None is a term that the method does without.
    """
    kept = {name: term for name, term in terms.items() if term is not None}
    loss = torch.stack([term * weights.get(name, 1.0) for name, term in kept.items()]).sum()
    return StepResult(loss, {f"loss/{name}": term.detach() for name, term in kept.items()})
