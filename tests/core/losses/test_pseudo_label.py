from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness.fixtures import assert_close, cases
from u2pl.losses.pseudo_label import (
    adaptive_weight,
    confident_label,
    reverse_cross_entropy,
    symmetric_cross_entropy,
)
from u2pl.losses.supervised import cross_entropy
from u2pl.pseudo.partition import partition

IGNORE = 255
SHAPES = [(1, 1, 1, 1), (1, 2, 7, 3), (3, 5, 9, 11), (2, 25, 5, 7)]


def random_pair(seed: int, shape, ignored: float = 0.2):
    draw = torch.Generator().manual_seed(seed)
    batch, classes, *size = shape
    logits = torch.randn(shape, generator=draw) * 3
    label = torch.randint(0, classes, (batch, *size), generator=draw)
    label[torch.rand(label.shape, generator=draw) < ignored] = IGNORE
    return logits, label


def random_weight(seed: int, label: torch.Tensor) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(label.shape, generator=draw) * (torch.rand(label.shape, generator=draw) < 0.8)


def slow_reverse(logits, label, floor=1e-4, count=None, weight=None):
    """-sum_c p_c log max(onehot_c, floor), in a loop over pixels and classes, and its gradient."""
    weight = torch.ones(label.shape) if weight is None else weight
    grad, total, seen = torch.zeros(logits.shape, dtype=torch.float64), 0.0, 0
    for b, i, j in np.ndindex(*label.shape):
        if label[b, i, j] == IGNORE:
            continue
        seen += 1
        prob = logits[b, :, i, j].double().softmax(0).tolist()
        cost = [-math.log(1.0 if c == label[b, i, j] else floor) for c in range(len(prob))]
        mean, w = sum(p * k for p, k in zip(prob, cost, strict=True)), weight[b, i, j].item()
        total += w * mean
        for c, p in enumerate(prob):
            grad[b, c, i, j] = w * p * (cost[c] - mean)
    divisor = max(seen if count is None else count, 1)
    return total / divisor, grad / divisor


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [None, 11.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_reverse_cross_entropy_and_its_gradient_equal_the_loop(shape, count, weighted):
    logits, label = random_pair(sum(shape), shape)
    weight = random_weight(1, label) if weighted else None
    logits.requires_grad_()
    loss = reverse_cross_entropy(
        logits, label, None if count is None else torch.tensor(count), weight_BHW=weight
    )
    loss.backward()
    value, grad = slow_reverse(logits.detach(), label, count=count, weight=weight)
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(logits.grad.double(), grad, rtol=1e-4, atol=1e-6)


def test_reverse_cross_entropy_matches_the_fixture(shared):
    z = np.load(shared("fixtures/rce.npz"))
    logits, target = torch.tensor(z["in_logits"], requires_grad=True), torch.tensor(z["in_target"])
    floor = float(z["cfg_onehot_clamp_min"])
    loss = reverse_cross_entropy(logits, target, floor=floor)
    loss.backward()
    scale = -math.log(floor)
    assert_close(loss, z["out_loss"], scale=scale)
    assert_close(logits.grad, z["out_grad"], scale=scale / target.numel())
    assert np.isnan(z["out_loss_allignore_released"])
    assert reverse_cross_entropy(logits, torch.full_like(target, IGNORE)) == 0


@pytest.mark.parametrize("xi", [(1.0, 0.1), (1.0, 0.5), (0.0, 1.0), (1.0, 0.0)])
def test_symmetric_cross_entropy_weighs_both(xi):
    logits, label = random_pair(5, (2, 4, 7, 9))
    expected = slow_reverse(logits, label)[0] * xi[1]
    for b, i, j in np.ndindex(*label.shape):
        if label[b, i, j] != IGNORE:
            expected -= (
                xi[0]
                * logits[b, :, i, j].double().log_softmax(0)[label[b, i, j]].item()
                / (label != IGNORE).sum().item()
            )
    assert symmetric_cross_entropy(logits, label, *xi).item() == pytest.approx(expected, rel=1e-5)


def test_symmetric_cross_entropy_defaults_are_the_papers():
    logits, label = random_pair(5, (2, 4, 7, 9))
    assert symmetric_cross_entropy(logits, label) == symmetric_cross_entropy(
        logits, label, 1.0, 0.1
    )


@pytest.mark.parametrize("xi", [(1.0, 0.1), (0.0, 1.0), (1.0, 0.0)])
def test_a_weight_is_that_of_both_terms(xi):
    logits, label = random_pair(6, (2, 4, 7, 9))
    weight, count = random_weight(2, label), torch.tensor(float(label.numel()))
    parts = (
        cross_entropy(logits, label, count, weight),
        reverse_cross_entropy(logits, label, count, weight_BHW=weight),
    )
    expected = xi[0] * parts[0] + xi[1] * parts[1]
    torch.testing.assert_close(symmetric_cross_entropy(logits, label, *xi, count, weight), expected)
    one = torch.ones(label.shape)
    torch.testing.assert_close(
        symmetric_cross_entropy(logits, label, *xi, count, one),
        symmetric_cross_entropy(logits, label, *xi, count),
    )


def test_ignored_pixels_have_neither_influence_nor_gradient():
    logits, label = random_pair(1, (2, 5, 9, 11), ignored=0.5)
    ignored = (label == IGNORE).unsqueeze(1).expand_as(logits)
    other = torch.where(ignored, torch.full_like(logits, -40.0), logits).requires_grad_()
    loss = symmetric_cross_entropy(other, label)
    assert loss == symmetric_cross_entropy(logits, label)
    loss.backward()
    assert not other.grad[ignored].any()


def test_a_permutation_of_the_classes_changes_nothing():
    logits, label = random_pair(2, (2, 6, 9, 11))
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    table = torch.full((256,), IGNORE)
    table[order] = torch.arange(6)
    torch.testing.assert_close(
        symmetric_cross_entropy(logits[:, order], table[label]),
        symmetric_cross_entropy(logits, label),
    )


def test_a_batch_without_labels_gives_a_finite_zero_that_reaches_the_network():
    logits, label = random_pair(3, (2, 4, 5, 6), ignored=2.0)
    logits.requires_grad_()
    loss = symmetric_cross_entropy(logits, label, count=torch.tensor(0.0))
    assert loss.item() == 0 and loss.requires_grad
    loss.backward()
    assert logits.grad is not None and not logits.grad.any()


def test_adaptive_weight_is_the_inverse_share_of_reliable_pixels():
    assert adaptive_weight(torch.tensor(200), torch.tensor(160), 2.0).item() == pytest.approx(2.5)
    assert adaptive_weight(torch.tensor(200.0), torch.tensor(200.0)).item() == 1
    assert adaptive_weight(torch.tensor(200.0), torch.tensor(0.0)).item() == 0
    assert (
        adaptive_weight(torch.tensor(100.0), torch.tensor(0.5)).item() > 0
    )  # the average count of several processes may be below one


def test_unsupervised_loss_matches_the_fixture(shared):
    z = np.load(shared("fixtures/unsup.npz"))
    target, prob = torch.tensor(z["in_target"]), torch.tensor(z["in_teacher_logits"]).softmax(dim=1)
    for case in cases(z, "cfg_percent_(.+)"):
        part = partition(prob, target != IGNORE, 1 - float(z[f"cfg_percent_{case}"]) / 100)
        assert_close(part.entropy_BHW, z["out_entropy"], 1e-6, scale=1)
        assert_close(part.gamma, z[f"out_threshold_{case}"], 1e-6, case, scale=1)
        assert np.array_equal(part.reliable_BHW.numpy(), z[f"out_kept_{case}"] == 1), case
        kept = torch.where(part.reliable_BHW, target, IGNORE)
        assert np.array_equal(kept.numpy(), z[f"out_target_{case}"]), case
        logits = torch.tensor(z["in_logits"], requires_grad=True)
        weight = adaptive_weight(torch.tensor(target.numel()), part.reliable_BHW.sum())
        loss = weight * cross_entropy(logits, kept)
        loss.backward()
        assert_close(loss, z[f"out_loss_{case}"], name=case, scale=1)
        assert_close(logits.grad, z[f"out_grad_{case}"], name=case, scale=1 / target.numel())


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_a_label_is_kept_where_it_is_confident_and_no_padding(threshold, dtype):
    draw = torch.Generator().manual_seed(0)
    label = random_pair(0, (2, 5, 9, 11))[1].to(dtype)
    top, valid = torch.rand(2, 9, 11, generator=draw), torch.rand(2, 9, 11, generator=draw) < 0.8
    top[0, 0], valid[0, 0] = threshold, True  # the threshold itself is enough
    found = confident_label(label, top, valid, threshold)
    assert found.dtype == dtype
    for place in np.ndindex(*label.shape):
        kept = top[place] >= threshold and valid[place]
        assert found[place] == (label[place] if kept else IGNORE)
    assert torch.equal(found[0, 0], label[0, 0]) and (found[label == IGNORE] == IGNORE).all()


def test_augsegs_loss_of_confident_labels_matches_the_fixture(shared):
    """The mean over all pixels, of which the others are 0."""
    z = np.load(shared("fixtures/unimatch.npz"))
    label = torch.tensor(z["in_augseg_target"])
    top = torch.tensor(z["in_augseg_teacher_logits"]).softmax(dim=1).amax(dim=1)
    target = confident_label(label, top, label != IGNORE, float(z["cfg_augseg_thresh"]))
    assert np.array_equal(target.numpy(), z["out_augseg_target_after"])
    assert_close((target != IGNORE).float().mean(), z["out_augseg_kept_ratio"])
    logits = torch.tensor(z["in_augseg_student_logits"], requires_grad=True)
    loss = cross_entropy(logits, target, torch.tensor(float(label.numel())))
    loss.backward()
    assert_close(loss, z["out_augseg_loss"])
    assert_close(logits.grad, z["out_augseg_grad"], scale=0.1 / label.numel())


def test_aels_loss_weighted_by_confidence_matches_the_fixture(shared):
    z = np.load(shared("fixtures/unimatch.npz"))
    label = torch.tensor(z["in_ael_gt"])
    weight = torch.tensor(z["in_ael_conf"]) ** float(z["cfg_ael_gamma"])
    logits = torch.tensor(z["in_ael_student_logits"], requires_grad=True)
    loss = cross_entropy(logits, label, weight.sum(), weight)
    loss.backward()
    assert_close(loss, z["out_ael_consistency_loss"])
    expected = z["out_ael_consistency_grad"]
    assert_close(logits.grad, expected, scale=0.1 / label.numel())
