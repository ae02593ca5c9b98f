"""What a variant gains over the reference, paired by seed, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from u2pl.evaluate.statistics import LEAST, Interval, mean_and_spread, percentiles, t_interval
from u2pl.run.compare.finished import Role
from u2pl.run.compare.variants import Variant


class Spread(NamedTuple):
    """A mean over seeds, in percent or percentage points."""

    mean: float
    deviation: float  # standard deviation with n - 1; NaN of a single value
    number: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of some values; None if there are none."""
        return cls(*mean_and_spread(values), len(values)) if values else None

    def words(self, sign: str = "") -> str:
        """Mean ± standard deviation; of one value the value alone."""
        mean = f"{self.mean:{sign}.2f}"
        return mean if math.isnan(self.deviation) else f"{mean} ± {self.deviation:.2f}"


class Gain(NamedTuple):
    """Differences in mIoU to the reference, of the seeds that both have."""

    seeds: tuple[int, ...]
    spread: Spread
    over_seeds: Interval | None  # of the mean, by Student's t; None of a single seed
    over_images: Interval | None  # paired bootstrap; None if not all runs kept their counts
    images: int | None = None  # that are scored; None if it is not known

    @property
    def holds(self) -> bool:
        """Whether the spread over seeds, and the choice of images if known, cannot explain it."""
        images = not self._one_image if self.over_images is None else _apart(self.over_images)
        return images and _apart(self.over_seeds)

    @property
    def _one_image(self) -> bool:
        return self.images is not None and self.images < LEAST

    def words(self) -> str:
        """What this shows, for a person."""
        mean = self.spread.mean
        kind = "gain" if mean > 0 else "loss" if mean < 0 else "difference"
        if self.over_seeds is None:
            if self.over_images is None:
                return "one seed says nothing about the spread"
            beyond = "more" if _apart(self.over_images) else "no more"
            return (
                f"{beyond} than the choice of images explains; one seed says nothing about the "
                "spread over seeds"
            )
        if not _apart(self.over_seeds):
            return f"no {kind} shown: within the spread over seeds"
        if self.over_images is not None and not _apart(self.over_images):
            return f"{kind} over seeds, but within what the choice of images explains"
        if self._one_image:
            return f"{kind} over seeds, but on a single image"
        return f"the {kind} holds"


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """Differences of the seeds that both have, by seed."""
    return {seed: value - other[seed] for seed, value in one.items() if seed in other}


def gain(variant: Variant, reference: Variant, role: Role) -> Gain | None:
    """What the networks of a role gain; None if no seed has both."""
    ours, theirs = last_scores(variant, role), last_scores(reference, role)
    differences = paired(ours, theirs)
    spread = Spread.of(list(differences.values()))
    if spread is None:
        return None
    drawn = []
    for seed in differences:
        draws = (each.by_seed[seed].draws(role) for each in (variant, reference))
        one, other = draws
        if one is not None and other is not None:
            drawn.append(one - other)
    return Gain(
        tuple(differences),
        spread,
        t_interval(list(differences.values())) if len(differences) > 1 else None,
        percentiles(torch.stack(drawn).mean(0)) if len(drawn) == len(differences) else None,
        next((len(run.counted.ids) for run in variant.runs if run.counted is not None), None),
    )


def last_scores(variant: Variant, role: Role) -> dict[int, float]:
    """mIoU of the last evaluation, by seed."""
    scores = {run.seed: run.score(role) for run in variant.runs}
    return {seed: score.miou for seed, score in scores.items() if score is not None}


def class_scores(variant: Variant, role: Role, id: int) -> dict[int, float]:
    """IoU of a class in the last evaluation, by seed."""
    scores = {run.seed: run.score(role) for run in variant.runs}
    values = {seed: score.per_class_iou[id] for seed, score in scores.items() if score is not None}
    return {seed: value for seed, value in values.items() if value is not None}


def _apart(interval: Interval | None) -> bool:
    """Whether 0 lies outside."""
    return interval is not None and not interval.low <= 0 <= interval.high
