from __future__ import annotations

import math
import random
import statistics

import pytest
import torch

from u2pl.evaluate.confusion import Confusion
from u2pl.evaluate.statistics import (
    bootstrap_draws,
    bootstrap_interval,
    mean_and_spread,
    mious,
    percentiles,
    t_interval,
    t_probability,
    t_quantile,
)


def counts(images: int, right: float, classes: int = 3, seed: int = 0) -> torch.Tensor:
    """Counts [N, 3, C] of predictions of which a share is right, the more the later the image."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(images):
        label = torch.randint(classes, (8, 8), generator=generator)
        other = torch.randint(classes, (8, 8), generator=generator)
        share = right * (0.5 + index / images)
        hit = torch.rand(8, 8, generator=generator) < share
        one = Confusion(classes)
        one.update(torch.where(hit, label, other), label)
        rows.append(one.by_class())
    return torch.stack(rows)


def test_miou_of_summed_counts_is_that_of_the_matrix():
    whole = Confusion(4)
    generator = torch.Generator().manual_seed(5)
    whole.update(
        torch.randint(4, (9, 9), generator=generator), torch.randint(3, (9, 9), generator=generator)
    )
    assert mious(whole.by_class()[None]).item() == pytest.approx(whole.scores().miou)


def test_draws_are_scores_of_resampled_images():
    images = counts(7, 0.8)
    draws = bootstrap_draws(images, 50)
    # a slow reading of the same draws
    picked = torch.randint(7, (50, 7), generator=torch.Generator().manual_seed(0))
    slow = [mious(sum(images[i] for i in row.tolist())[None]).item() for row in picked]
    assert draws.tolist() == pytest.approx(slow)


def test_an_interval_holds_the_score_and_narrows_with_more_images():
    few, many = counts(12, 0.7), counts(192, 0.7)
    narrow, wide = bootstrap_interval(many), bootstrap_interval(few)
    assert wide.low < mious(few.sum(0)[None]).item() < wide.high
    assert (narrow.high - narrow.low) < (wide.high - wide.low) / 2


def test_a_single_image_knows_no_interval():
    images = torch.tensor([[[3, 1], [4, 4], [4, 4]]])
    assert bootstrap_interval(images) is None
    assert bootstrap_interval(images.repeat(2, 1, 1)) is not None


def test_equal_images_leave_no_doubt():
    same = counts(1, 0.6).expand(9, -1, -1)
    low, high = bootstrap_interval(same)
    assert low == pytest.approx(high)


def test_the_difference_of_two_networks_is_paired_by_image():
    """One is better on every image by about as much, though images differ widely."""
    one, other = counts(40, 0.7, seed=1), counts(40, 0.9, seed=1)
    paired = percentiles(bootstrap_draws(other) - bootstrap_draws(one))
    assert paired.low > 0
    alone = bootstrap_interval(one)
    assert paired.high - paired.low < alone.high - alone.low


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # two-sided 95 % points of printed tables
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_quantiles_are_those_of_printed_tables(freedom, quantile):
    assert t_quantile(0.975, freedom) == pytest.approx(quantile, abs=6e-4)
    assert t_probability(quantile, freedom) == pytest.approx(0.975, abs=1e-4)
    assert t_probability(-quantile, freedom) == pytest.approx(0.025, abs=1e-4)


def test_t_interval_covers_the_mean_as_often_as_it_says():
    draw, hits = random.Random(3), 0
    for _ in range(2000):
        low, high = t_interval([draw.gauss(1.5, 2.0) for _ in range(3)])
        hits += low <= 1.5 <= high
    assert 0.93 < hits / 2000 < 0.97


def test_spread_is_that_of_a_sample():
    values = [3.0, 4.5, 9.0]
    mean, spread = mean_and_spread(values)
    assert mean == pytest.approx(statistics.mean(values))
    assert spread == pytest.approx(statistics.stdev(values))


def test_a_single_value_knows_no_spread():
    mean, spread = mean_and_spread([2.0])
    assert mean == 2 and math.isnan(spread)
    assert t_interval([2.0]) == (-math.inf, math.inf)
