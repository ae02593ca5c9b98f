from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness.fixtures import assert_close, cases
from u2pl.schedules import (
    Progress,
    ema_momentum,
    linear_warmup,
    poly_lr,
    sigmoid_ramp,
    step_seed,
    unreliable_share,
)


@pytest.fixture
def fixture(shared):
    return np.load(shared("fixtures/schedules.npz"))


def test_poly_matches_the_fixture(fixture):
    base, power, total = (fixture[f"cfg_poly_{name}"].item() for name in ("base", "power", "total"))
    found = [poly_lr(base, step, total, power) for step in range(len(fixture["out_poly_u2pl"]))]
    assert_close(found, fixture["out_poly_u2pl"], 1e-6)
    # UniMatch sets the rate after the step, so a step has that of the one before it
    delayed = [poly_lr(base, max(step - 1, 0), total, power) for step in range(len(found))]
    assert_close(delayed, fixture["out_poly_unimatch_used"], 1e-6)


def test_warmup_with_linear_decay_matches_the_fixture(fixture):
    base, warmup, total = (
        fixture[f"cfg_daformer_{name}"].item() for name in ("base", "warmup", "total")
    )
    start, expected = fixture["cfg_warmup_ratio"].item(), fixture["out_daformer_lr_formula"]
    found = [
        poly_lr(base, step, total, 1.0) * linear_warmup(step, warmup, start)
        for step in range(len(expected))
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9 * base)


def test_warmup_without_decay_matches_the_fixture(fixture):
    """AFA's rate starts to decay when the warm-up ends, at the value that it would have by then."""
    base, warmup, total = (
        fixture[f"cfg_afa_{name}"].item() for name in ("base", "warmup", "total")
    )
    start, expected = fixture["cfg_warmup_ratio"].item(), fixture["out_afa_lr"]
    rising = [base * linear_warmup(step, warmup, start) for step in range(warmup)]
    falling = [poly_lr(base, step, total, 1.0) for step in range(warmup, len(expected))]
    np.testing.assert_allclose(rising + falling, expected, rtol=1e-5, atol=1e-9 * base)


def test_momentum_matches_the_fixture(fixture):
    """The limit is the highest value; the first one is that of step 0, or of N in "_fromN"."""
    for name in cases(fixture, "out_ema_decay_(.+)"):
        first = int(name.partition("_from")[2] or 0)
        expected = fixture[f"out_ema_decay_{name}"]
        found = [ema_momentum(first + i, float(expected.max())) for i in range(len(expected))]
        assert_close(found, expected, 1e-6, name)


def test_unreliable_share_matches_the_fixture(fixture):
    epochs, expected = int(fixture["cfg_percent_epochs"]), fixture["out_alpha_t"]
    alpha_0 = float(expected[0]) / 100
    found = np.array(
        [unreliable_share(alpha_0, Progress(epoch, epochs).fraction) for epoch in range(epochs)]
    )
    assert_close(100 * found, expected, 1e-6)
    assert_close(100 * (1 - found), fixture["out_drop_percent"], 1e-6)


def test_poly_starts_at_the_base_and_ends_above_zero():
    assert poly_lr(0.01, 0, 100) == 0.01
    assert 0 < poly_lr(0.01, 99, 100) < 0.001


def test_warmup_rises_to_one_and_stays():
    values = [linear_warmup(step, 10) for step in range(15)]
    assert values[0] == pytest.approx(1e-6) and values[10:] == [1.0] * 5
    np.testing.assert_allclose(np.diff(values[:11]), 0.1, rtol=1e-4)
    assert linear_warmup(0, 0) == 1.0


def test_sigmoid_ramp():
    assert sigmoid_ramp(0, 40) == pytest.approx(math.exp(-5))
    assert sigmoid_ramp(20, 40) == pytest.approx(math.exp(-1.25))
    assert sigmoid_ramp(40, 40) == sigmoid_ramp(99, 40) == sigmoid_ramp(0, 0) == 1


def test_after_counts_from_the_end_of_the_warm_start():
    assert [Progress(step, 80).after(0.0125) for step in (0, 1, 2)] == [-1, 0, 1]
    assert Progress(0, 80).after(0.0) == 0
    assert all(Progress(step, 80).after(1.0) < 0 for step in range(80))


def draws(progress: Progress) -> list[float]:
    return torch.rand(4, generator=progress.generator()).tolist()


def test_a_steps_randomness_follows_from_seed_and_step_alone():
    assert draws(Progress(5, 10, 3)) == draws(Progress(5, 99, 3))
    torch.rand(7)
    assert draws(Progress(5, 10, 3)) == draws(Progress(5, 10, 3))


def test_every_step_of_every_seed_draws_something_else():
    seen = {
        tuple(draws(Progress(step, 100, seed))) for step in range(100) for seed in (0, 1, 2, 1000)
    }
    assert len(seen) == 400


def test_seeds_fit_a_generator_and_never_meet():
    grid = [
        (seed, step, rank)
        for seed in (0, 1, 2, 41, 2**31)
        for step in range(300)
        for rank in range(-1, 9)
    ]
    seeds = np.array([step_seed(*place) for place in grid], dtype=np.uint64)
    assert len(np.unique(seeds)) == len(grid)
    assert seeds.max() < 2**63


def test_every_bit_of_the_seeds_is_used():
    bits = np.array([[step_seed(0, step) >> k & 1 for k in range(63)] for step in range(2000)])
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.06  # 0.011 is one standard deviation
