from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.fixtures import assert_close, cases
from u2pl.losses.affinity import (
    affinity_loss,
    affinity_target,
    pair_counts,
    radius_mask,
    token_label,
)

IGNORE = 255
SIZES = [(1, 1), (3, 5), (7, 4)]


def random_label(
    seed: int, size, images: int = 2, classes: int = 3, ignored: float = 0.2
) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (images, *size), generator=draw, dtype=torch.uint8)
    label[torch.rand(label.shape, generator=draw) < ignored] = IGNORE
    return label


def random_pair(seed: int, size=(3, 5), images: int = 2, ignored: float = 0.2, radius: int = 2):
    target = affinity_target(random_label(seed, size, images, ignored=ignored), radius)
    return torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)), target


def slow_target(label: torch.Tensor, radius: int) -> torch.Tensor:
    images, height, width = label.shape
    out = torch.full((images, height * width, height * width), IGNORE, dtype=torch.uint8)
    for b, i, j, k, m in np.ndindex(images, height, width, height, width):
        first, second = int(label[b, i, j]), int(label[b, k, m])
        if IGNORE not in (first, second) and max(abs(i - k), abs(j - m)) <= radius:
            out[b, i * width + j, k * width + m] = first == second
    return out


def slow_loss(prob: torch.Tensor, target: torch.Tensor, divisors=None):
    """Pair by pair, and the gradient."""
    same, different = (target == 1).sum().item(), (target == 0).sum().item()
    for_same, for_different = divisors or (same + 1, different + 1)
    value, grad = 0.0, torch.zeros(prob.shape)
    for place in np.ndindex(*prob.shape):
        if target[place] == 1:
            value, grad[place] = value + 0.5 * (1 - prob[place].item()) / for_same, -0.5 / for_same
        elif target[place] == 0:
            value, grad[place] = (
                value + 0.5 * prob[place].item() / for_different,
                0.5 / for_different,
            )
    return value, grad


def test_token_labels_are_nearest_and_unknown_outside():
    label = random_label(0, (33, 50), classes=200)
    token = token_label(label, (4, 4))
    assert token.shape == (2, 4, 4) and token.dtype == label.dtype
    for b, i, j in np.ndindex(2, 4, 4):
        expected = label[b, 16 * i, 16 * j] if 16 * i < 33 and 16 * j < 50 else IGNORE
        assert token[b, i, j] == expected
    assert torch.equal(token_label(label, (17, 25), stride=2), label[:, ::2, ::2])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("radius", [0, 1, 2, 8])
def test_target_equals_the_loop(size, radius):
    label = random_label(radius, size)
    found = affinity_target(label, radius)
    assert found.dtype == torch.uint8 and torch.equal(found, slow_target(label, radius))
    assert torch.equal(affinity_target(label.long(), radius), found)
    assert torch.equal(
        found != IGNORE, radius_mask(*size, radius) & (affinity_target(label, 100) != IGNORE)
    )


def test_a_permutation_of_the_classes_leaves_the_target():
    label, table = random_label(1, (4, 5)), torch.full((256,), IGNORE, dtype=torch.uint8)
    table[:3] = torch.tensor([2, 0, 1], dtype=torch.uint8)
    assert torch.equal(affinity_target(table[label.long()]), affinity_target(label))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("divisors", [None, (0.5, 7.0)])
def test_loss_and_gradient_equal_the_loop(size, divisors):
    prob, target = random_pair(sum(size), size)
    value, grad = slow_loss(prob, target, divisors)
    prob.requires_grad_()
    loss = affinity_loss(prob, target, None if divisors is None else torch.tensor(divisors))
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(prob.grad, grad)


def test_ignored_pairs_have_neither_influence_nor_gradient():
    prob, target = random_pair(2)
    ignored = target == IGNORE
    other = torch.where(ignored, 1e4, prob).requires_grad_()
    loss = affinity_loss(other, target)
    assert loss == affinity_loss(prob, target)
    loss.backward()
    assert not other.grad[ignored].any() and other.grad[~ignored].all()


@pytest.mark.parametrize("kept", [0, 1])
def test_one_kind_of_pairs_alone_gives_its_half(kept):
    prob, target = random_pair(3)
    alone = torch.where(target == kept, target, IGNORE)
    share = torch.where(target == kept, 1 - prob if kept else prob, 0.0).sum() / (
        (target == kept).sum() + 1
    )
    torch.testing.assert_close(affinity_loss(prob, alone), 0.5 * share)


def test_no_pair_is_a_finite_connected_zero():
    prob, target = random_pair(4, ignored=2.0)
    prob.requires_grad_()
    loss = affinity_loss(prob, target)
    loss.backward()
    assert loss.item() == 0 and prob.grad is not None and not prob.grad.any()


def test_the_loss_is_computed_in_float32():
    prob, target = random_pair(5)
    half = prob.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = affinity_loss(half, target)
    assert loss.dtype == torch.float32 and loss == affinity_loss(half.float(), target)


@pytest.mark.parametrize("pairs", [0, 1, None])
def test_two_processes_have_the_loss_and_gradient_of_one(twins, pairs):
    """Also if a single pair counts, so that most of each divisor is its +1."""
    prob, target = random_pair(6, images=4)
    target[3] = IGNORE
    if pairs is not None:
        target.fill_(IGNORE).view(-1)[:pairs] = 1
    whole = prob.clone().requires_grad_()
    loss = affinity_loss(whole, target)
    loss.backward()
    halves = [slice(0, 2), slice(2, 4)]

    def half(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        mine = prob[halves[rank]].clone().requires_grad_()
        divisors = (twins.total(pair_counts(target[halves[rank]])) + 1) / 2
        part = affinity_loss(mine, target[halves[rank]], divisors)
        part.backward()
        return part.detach(), mine.grad / 2

    (first, grad), (second, other) = twins.run(half)
    torch.testing.assert_close((first + second) / 2, loss.detach())
    torch.testing.assert_close(torch.cat([grad, other]), whole.grad)


def test_masks_targets_and_losses_match_the_fixture(shared):
    z = np.load(shared("fixtures/affinity.npz"))
    radius, stride = int(z["cfg_radius"]), int(z["cfg_stride"])
    for grid in cases(z, "cfg_grid_(.+)"):
        assert np.array_equal(
            radius_mask(*z[f"cfg_grid_{grid}"].tolist(), radius).numpy(),
            z[f"out_radius_mask_{grid}"] == 1,
        )
    label = torch.tensor(z["in_label"])
    token = token_label(label, (label.shape[1] // stride, label.shape[2] // stride), stride)
    target = affinity_target(token, radius)
    assert np.array_equal(target.numpy(), z["out_aff_label"])
    assert np.array_equal(
        affinity_target(token, max(token.shape)).numpy(), z["out_aff_label_nomask"]
    )
    assert (pair_counts(target) + 1).tolist() == [z["out_aff_pos_count"], z["out_aff_neg_count"]]

    prob = torch.tensor(z["in_aff_prob"], requires_grad=True)
    loss = affinity_loss(prob, target)
    loss.backward()
    assert_close(loss, z["out_aff_loss"], 2e-6)
    assert_close(prob.grad, z["out_aff_loss_grad"], 2e-6)
    assert (
        affinity_loss(prob, torch.full_like(target, IGNORE)).item() == z["out_aff_loss_allignore"]
    )
    no_negative = affinity_loss(prob, torch.where(target == 0, IGNORE, target))
    assert_close(no_negative, z["out_aff_loss_nonegative"], 2e-6)
