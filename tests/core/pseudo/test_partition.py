from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness.fixtures import assert_close, cases
from u2pl.maps import downsample, upsample
from u2pl.pseudo.partition import entropy, lowest_entropy, partition, upper_percentile
from u2pl.schedules import unreliable_share

IGNORE = 255
ALPHAS = [
    Fraction(0),
    Fraction(1, 1000),
    Fraction(1, 10),
    Fraction(1, 5),
    Fraction(3, 10),
    Fraction(1, 3),
    Fraction(7, 10),
    Fraction(1),
]


def random_case(seed: int, shape, share_valid: float = 0.8, scale: float = 3.0):
    draw = torch.Generator().manual_seed(seed)
    prob = (torch.randn(shape, generator=draw) * scale).softmax(dim=1)
    return prob, torch.rand(shape[0], *shape[2:], generator=draw) < share_valid


@pytest.mark.parametrize("shape", [(1, 1, 3, 2), (2, 2, 5, 7), (2, 25, 3, 5)])
def test_entropy_equals_the_loop(shape):
    prob, _ = random_case(sum(shape), shape, scale=10)
    prob[0, :, 0, 0] = F.one_hot(torch.tensor(0), shape[1])  # certain: 0 log 0 is 0
    value = entropy(prob)
    for b, i, j in np.ndindex(*value.shape):
        slow = -sum(p * math.log(p) for p in prob[b, :, i, j].double().tolist() if p > 0)
        assert value[b, i, j].item() == pytest.approx(slow, rel=1e-5, abs=1e-6)


def test_entropy_is_float32_and_at_most_log_c():
    even = torch.full((1, 8, 2, 2), 1 / 8, dtype=torch.bfloat16)
    assert entropy(even).dtype == torch.float32
    torch.testing.assert_close(entropy(even), torch.full((1, 2, 2), math.log(8)))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("size", [1, 2, 3, 10, 11, 31, 100, 101, 1001])
def test_percentile_equals_numpys(alpha, size):
    draw = torch.Generator().manual_seed(size)
    value = torch.randn(size + 13, generator=draw)
    valid = torch.ones(size + 13, dtype=torch.bool)
    valid[torch.randperm(size + 13, generator=draw)[:13]] = False
    found = upper_percentile(value, valid, float(alpha))
    expected = np.percentile(value[valid].double().numpy(), 100 * (1 - float(alpha)))
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    # exact arithmetic gives the number of values that are not below it, ties included
    assert (value[valid] >= found).sum().item() == math.floor((size - 1) * alpha) + 1


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
def test_percentile_of_tied_values(alpha):
    value = torch.tensor([0.5, 0.5, 0.5, 1.0, 1.0, 0.1, 0.5])
    found = upper_percentile(value, torch.ones(7, dtype=torch.bool), alpha)
    assert found.item() == pytest.approx(np.percentile(value.double().numpy(), 100 * (1 - alpha)))


def test_percentile_matches_the_fixture(shared):
    z = np.load(shared("fixtures/entropy_partition.npz"))
    value = torch.tensor(z["in_values"])
    valid = torch.ones_like(value, dtype=torch.bool)
    found = [
        upper_percentile(value, valid, 1 - float(percent) / 100).item()
        for percent in z["cfg_percents"]
    ]
    assert_close(found, z["out_percentiles"], 1e-6)


def test_percentile_of_nothing_is_below_everything():
    assert (
        upper_percentile(torch.randn(5), torch.zeros(5, dtype=torch.bool), 0.2).item() == -math.inf
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 7, 3), (3, 5, 9, 11), (2, 25, 5, 7)])
@pytest.mark.parametrize("alpha", [0.0, 0.13, 0.2, 1.0])
def test_every_valid_pixel_is_on_its_side_of_the_threshold(shape, alpha):
    prob, valid = random_case(sum(shape), shape)
    valid.view(-1)[0] = True
    part = partition(prob, valid, alpha)
    values = entropy(prob).double()
    gamma = np.percentile(values[valid].numpy(), 100 * (1 - alpha))
    assert part.gamma.item() == pytest.approx(gamma, abs=1e-6)
    for place in np.ndindex(*valid.shape):
        reliable, unreliable = part.reliable_BHW[place].item(), part.unreliable_BHW[place].item()
        assert reliable + unreliable == valid[place].item()
        if valid[place] and abs(values[place] - gamma) > 1e-6:
            assert reliable == (values[place] < gamma).item()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("size", [1, 11, 31, 101])
def test_the_value_at_the_percentile_is_unreliable_and_of_lowest_entropy(alpha, size):
    """H >= gamma is unreliable; H <= the percentile is of the lowest alpha.

    Exact arithmetic gives the number of pixels.
    """
    prob, _ = random_case(size, (1, 7, 1, size))
    part = partition(prob, torch.ones(1, 1, size, dtype=torch.bool), float(alpha))
    expected = math.floor((size - 1) * alpha) + 1
    assert part.unreliable_BHW.sum() == expected
    assert lowest_entropy(part, float(alpha)).sum() == expected


def test_pixels_of_equal_entropy_are_all_unreliable():
    part = partition(torch.full((2, 4, 3, 5), 0.25), torch.ones(2, 3, 5, dtype=torch.bool), 0.2)
    assert part.unreliable_BHW.all() and not part.reliable_BHW.any()


def test_padding_counts_for_nothing():
    prob, valid = random_case(1, (2, 5, 9, 11))
    part = partition(prob, valid, 0.2)
    spoilt = torch.where(valid.unsqueeze(1), prob, torch.nan)
    other = partition(spoilt, valid, 0.2)
    assert other.gamma == part.gamma
    assert torch.equal(other.reliable_BHW, part.reliable_BHW) and torch.equal(
        other.unreliable_BHW, part.unreliable_BHW
    )
    assert torch.equal(lowest_entropy(other, 0.2), lowest_entropy(part, 0.2))


def test_a_batch_of_padding_has_neither_reliable_nor_unreliable_pixels():
    prob, valid = random_case(1, (2, 5, 4, 3))
    part = partition(prob, torch.zeros_like(valid), 0.2)
    assert not part.reliable_BHW.any() and not part.unreliable_BHW.any()
    assert not lowest_entropy(part, 0.2).any()


def test_a_permutation_of_the_classes_changes_nothing():
    prob, valid = random_case(2, (2, 6, 9, 11))
    a, b = partition(prob, valid, 0.2), partition(prob[:, [3, 1, 5, 0, 2, 4]], valid, 0.2)
    assert a.gamma.item() == pytest.approx(b.gamma.item(), abs=1e-6)
    assert (
        a.reliable_BHW != b.reliable_BHW
    ).sum() <= 1  # sums in another order may swap the two pixels at the threshold


@pytest.mark.parametrize("alpha", [0.0, 0.07, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("first_valid", [0.0, 0.1, 1.0])
def test_two_processes_split_like_one(twins, alpha, first_valid):
    prob, valid = random_case(3, (4, 5, 9, 11))
    valid[:2] = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0)) < first_valid
    whole = partition(prob, valid, alpha)
    part = [slice(0, 2), slice(2, 4)]
    halves = twins.run(
        lambda rank: partition(prob[part[rank]], valid[part[rank]], alpha, twins.gather)
    )
    assert halves[0].gamma == halves[1].gamma == whole.gamma
    assert torch.equal(torch.cat([half.reliable_BHW for half in halves]), whole.reliable_BHW)
    assert torch.equal(torch.cat([half.unreliable_BHW for half in halves]), whole.unreliable_BHW)
    low = twins.run(lambda rank: lowest_entropy(halves[rank], alpha, twins.gather))
    assert torch.equal(torch.cat(low), lowest_entropy(whole, alpha))


def test_masks_match_the_fixture(shared):
    z = np.load(shared("fixtures/entropy_partition.npz"))
    prob, valid = (
        torch.tensor(z["in_teacher_logits_u"]).softmax(dim=1),
        torch.tensor(z["in_label_u"]) != IGNORE,
    )
    labeled, alpha_0 = torch.tensor(z["in_label_l"]) != IGNORE, z["cfg_low_entropy_threshold"] / 100
    for epoch in cases(z, "cfg_alpha_(.+)"):
        alpha = float(z[f"cfg_alpha_{epoch}"]) / 100
        done = float(z[f"cfg_epoch_{epoch}"] / z["cfg_epochs"])
        assert unreliable_share(alpha_0, done) == pytest.approx(alpha, abs=1e-7)
        part = partition(prob, valid, alpha)
        low, lowest = (
            lowest_entropy(part, alpha),
            -upper_percentile(-part.entropy_BHW, valid, alpha),
        )
        assert_close(part.entropy_BHW, z["out_entropy"], 1e-6, scale=1)
        assert_close(part.gamma, z[f"out_high_threshold_{epoch}"], 1e-6, epoch, scale=1)
        assert_close(lowest, z[f"out_low_threshold_{epoch}"], 1e-6, epoch, scale=1)
        for name, mask in (("low", low), ("high", part.unreliable_BHW)):
            assert np.array_equal(mask.numpy(), z[f"out_{name}_mask_full_{epoch}"] == 1), epoch
            small = downsample(torch.cat([labeled, mask]), "released")
            expected = z[f"out_{name}_mask_all_{epoch}"] == 1
            assert np.array_equal(small.unsqueeze(1).numpy(), expected), epoch


@pytest.mark.parametrize("classes", [2, 7, 21])
@pytest.mark.parametrize("scale", [2.0, 10.0])
def test_rounding_logits_to_bfloat16_moves_few_pixels(classes, scale):
    draw = torch.Generator().manual_seed(classes)
    smooth = F.interpolate(torch.randn(2, classes, 9, 9, generator=draw), (25, 25), mode="bicubic")
    logits = scale * (smooth + 0.1 * torch.randn(smooth.shape, generator=draw))
    valid = torch.ones(2, 97, 97, dtype=torch.bool)
    exact = partition(upsample(logits, (97, 97)).float().softmax(dim=1), valid, 0.2).reliable_BHW
    for rounded in (upsample(logits.bfloat16(), (97, 97)), upsample(logits, (97, 97)).bfloat16()):
        moved = partition(rounded.float().softmax(dim=1), valid, 0.2).reliable_BHW != exact
        assert 0 < moved.float().mean() <= 0.01


def test_autocast_changes_nothing():
    prob, valid = random_case(4, (2, 5, 9, 11))
    plain = partition(prob, valid, 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = partition(prob, valid, 0.2)
    assert torch.equal(lowered.entropy_BHW, plain.entropy_BHW) and lowered.gamma == plain.gamma
