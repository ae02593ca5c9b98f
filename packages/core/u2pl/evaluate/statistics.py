"""How certain a score or a gain is: intervals over images and over seeds.

N: images; C: classes; S: draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: Fewer scored images than this say little.
FEW = 30
#: So many tell something of others, a little: a single image, drawn again, is always itself.
LEAST = 2
#: Probability of the intervals.
LEVEL = 0.95
#: Bootstrap draws, and the seed of them: equal counts give equal intervals.
DRAWS, SEED = 2000, 0


def scored_words(images: int) -> str:
    """How many images are scored, if they are few."""
    return f"only {images} images are scored" if images != 1 else "only one image is scored"


class Interval(NamedTuple):
    """Bounds within which a value lies with probability `LEVEL`."""

    low: float
    high: float


def mious(counts_S3C: Tensor) -> Tensor:
    """mIoU in percent over the classes that occur in the ground truth, float64 [S].

    Args:
        counts_S3C: pixels of each class that are hit, of the truth, predicted; see `Counts.images`.
    """
    hit, truth, predicted = counts_S3C.double().unbind(1)
    iou = hit / (truth + predicted - hit).clamp(min=1)
    occurs = truth > 0
    return 100 * (iou * occurs).sum(1) / occurs.sum(1).clamp(min=1)


def bootstrap_draws(images_N3C: Tensor, draws: int = DRAWS) -> Tensor:
    """mIoU of resamples of the images with replacement, float64 [S].

    Two networks scored on the same images get the same resamples, so that the difference of their
    draws is a paired bootstrap.

    Args:
        images_N3C: see `Counts.images`.
        draws: S.
    """
    number = len(images_N3C)
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(number, (draws, number), generator=generator)
    times = torch.zeros(draws, number, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    counts = times @ images_N3C.double().flatten(1)
    return mious(counts.view(draws, *images_N3C.shape[1:]))


def percentiles(draws_S: Tensor, level: float = LEVEL) -> Interval:
    """The interval that holds the middle `level` of the draws."""
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=draws_S.dtype)
    low, high = draws_S.quantile(edges).tolist()
    return Interval(low, high)


def bootstrap_interval(images_N3C: Tensor) -> Interval | None:
    """Interval of the mIoU over the choice of scored images; None of fewer than `LEAST`."""
    if len(images_N3C) < LEAST:
        return None
    return percentiles(bootstrap_draws(images_N3C))


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation with n - 1 in its denominator; NaN of a single value."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Interval of the mean of independent, roughly normal values; infinite for a single one."""
    mean, spread = mean_and_spread(values)
    if len(values) == 1:
        return Interval(-math.inf, math.inf)
    half = t_quantile((1 + level) / 2, len(values) - 1) * spread / math.sqrt(len(values))
    return Interval(mean - half, mean + half)


def t_probability(t: float, freedom: int) -> float:
    """P(T <= t) of Student's distribution, in closed form (Abramowitz and Stegun 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    # sums of powers of the cosine: even ones for an even number of degrees of freedom
    first = 0 if freedom % 2 == 0 else 1
    term, total = cosine**first, 0.0
    for power in range(first, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    inside = math.sin(angle) * total
    if freedom % 2:
        inside = 2 / math.pi * (angle + inside)
    return 0.5 + 0.5 * inside


def t_quantile(probability: float, freedom: int) -> float:
    """The inverse of `t_probability` for probabilities of at least one half, by bisection."""
    assert 0.5 <= probability < 1
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if t_probability(middle, freedom) < probability else (low, middle)
        )
    return (low + high) / 2
