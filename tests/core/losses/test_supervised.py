from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness.fixtures import assert_close, cases
from u2pl.losses.supervised import (
    balance_counts,
    balanced_cross_entropy,
    connected_zero,
    cross_entropy,
    hard_pixels,
    valid_count,
)

IGNORE = 255
SHAPES = [(1, 1, 1, 1), (2, 1, 3, 5), (1, 2, 7, 3), (3, 5, 9, 11), (2, 25, 5, 7)]


def random_pair(seed: int, shape, ignored: float = 0.2, scale: float = 3.0):
    draw = torch.Generator().manual_seed(seed)
    batch, classes, *size = shape
    logits = torch.randn(shape, generator=draw) * scale
    label = torch.randint(0, classes, (batch, *size), generator=draw, dtype=torch.uint8)
    label[torch.rand(label.shape, generator=draw) < ignored] = IGNORE
    return logits, label


def slow_probability(logits: torch.Tensor, b: int, i: int, j: int) -> list[float]:
    scores = logits[b, :, i, j].tolist()
    top = max(scores)
    exps = [math.exp(score - top) for score in scores]
    return [e / sum(exps) for e in exps]


def slow_cross_entropy(logits, label, count=None, weight=None):
    """The mean of -log p_y pixel by pixel, and its gradient (p - onehot) / count."""
    weight = torch.ones(label.shape) if weight is None else weight
    grad, total, seen = torch.zeros(logits.shape, dtype=torch.float64), 0.0, 0
    for b, i, j in np.ndindex(*label.shape):
        y = int(label[b, i, j])
        if y == IGNORE:
            continue
        prob = slow_probability(logits, b, i, j)
        w = weight[b, i, j].item()
        total, seen = total - w * math.log(prob[y]), seen + 1
        for c, p in enumerate(prob):
            grad[b, c, i, j] = w * (p - (c == y))
    divisor = max(seen if count is None else count, 1)
    return total / divisor, grad / divisor


def slow_hard(logits, label, threshold, min_kept):
    confidence = {}
    for place in np.ndindex(*label.shape):
        if (y := int(label[place])) != IGNORE:
            confidence[place] = slow_probability(logits, *place)[y]
    kept = label.clone()
    if min_kept == 0 or min_kept > len(confidence):
        return kept
    limit = max(threshold, sorted(confidence.values())[min_kept - 1])
    for place, value in confidence.items():
        if value > limit + 1e-6:  # pixels on the limit stay
            kept[place] = IGNORE
    return kept


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [None, 7.0])
def test_cross_entropy_and_its_gradient_equal_the_loop(shape, count):
    logits, label = random_pair(sum(shape), shape)
    logits.requires_grad_()
    loss = cross_entropy(logits, label, None if count is None else torch.tensor(count))
    loss.backward()
    value, grad = slow_cross_entropy(logits.detach(), label, count)
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(logits.grad.double(), grad, rtol=1e-4, atol=1e-7)


def random_weight(seed: int, label: torch.Tensor) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(label.shape, generator=draw) * (torch.rand(label.shape, generator=draw) < 0.8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [None, 7.0])
def test_weighted_cross_entropy_and_its_gradient_equal_the_loop(shape, count):
    logits, label = random_pair(sum(shape), shape)
    weight = random_weight(1, label)
    logits.requires_grad_()
    loss = cross_entropy(logits, label, None if count is None else torch.tensor(count), weight)
    loss.backward()
    value, grad = slow_cross_entropy(logits.detach(), label, count, weight)
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(logits.grad.double(), grad, rtol=1e-4, atol=1e-7)


def test_cross_entropy_is_computed_in_float32():
    logits, label = random_pair(0, (2, 5, 9, 11))
    half, weight = logits.bfloat16(), random_weight(2, label)
    assert cross_entropy(half, label) == cross_entropy(half.float(), label)
    assert cross_entropy(half, label, weight_BHW=weight) == cross_entropy(
        half.float(), label, weight_BHW=weight
    )


def test_ignored_pixels_have_neither_influence_nor_gradient():
    logits, label = random_pair(1, (2, 5, 9, 11), ignored=0.5)
    ignored = (label == IGNORE).unsqueeze(1).expand_as(logits)
    other = torch.where(ignored, torch.full_like(logits, 90.0), logits).requires_grad_()
    loss = cross_entropy(other, label)
    assert loss == cross_entropy(logits, label)
    loss.backward()
    assert not other.grad[ignored].any()


def test_a_permutation_of_the_classes_changes_nothing():
    logits, label = random_pair(2, (2, 6, 9, 11))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    table = torch.full((256,), IGNORE, dtype=torch.uint8)
    table[order] = torch.arange(6, dtype=torch.uint8)
    renamed = table[label.long()]
    torch.testing.assert_close(
        cross_entropy(logits[:, order], renamed), cross_entropy(logits, label)
    )
    hard = hard_pixels(logits, label, 0.3, 20)
    assert (hard == IGNORE).sum() > (label == IGNORE).sum()
    assert torch.equal(hard_pixels(logits[:, order], renamed, 0.3, 20) == IGNORE, hard == IGNORE)


def test_a_batch_without_labels_gives_a_finite_zero_that_reaches_the_network():
    logits, label = random_pair(3, (2, 4, 5, 6), ignored=2.0)
    logits.requires_grad_()
    loss = cross_entropy(logits, hard_pixels(logits, label, min_kept=10))
    assert loss.item() == 0 and loss.requires_grad
    loss.backward()
    assert logits.grad is not None and not logits.grad.any()


def test_valid_count():
    label = torch.tensor([[[0, 255, 3], [255, 255, 1]]], dtype=torch.uint8)
    assert valid_count(label).item() == 3


def test_counts_averaged_over_two_parts_give_the_gradient_of_the_whole():
    logits, label = random_pair(4, (4, 5, 6, 7), ignored=0.0)
    label[:2, 1:] = IGNORE  # the parts differ much in size
    whole = logits.clone().requires_grad_()
    cross_entropy(whole, label).backward()
    parts = logits.clone().requires_grad_()
    count = valid_count(label) / 2
    sum(cross_entropy(parts[s], label[s], count) for s in (slice(0, 2), slice(2, 4))).div(
        2
    ).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_the_weight_of_an_ignored_pixel_does_not_matter():
    logits, label = random_pair(5, (2, 5, 9, 11), ignored=0.5)
    weight = random_weight(3, label)
    other = torch.where(label == IGNORE, 1e6, weight)
    assert cross_entropy(logits, label, weight_BHW=other) == cross_entropy(
        logits, label, weight_BHW=weight
    )


def test_a_pixel_of_weight_0_has_no_gradient():
    logits, label = random_pair(6, (2, 5, 9, 11))
    weight = random_weight(4, label)
    logits.requires_grad_()
    cross_entropy(logits, label, weight_BHW=weight).backward()
    idle = (weight == 0).unsqueeze(1).expand_as(logits)
    assert not logits.grad[idle].any() and logits.grad[~idle].any()


def test_a_weighted_batch_without_labels_gives_a_connected_zero():
    logits, label = random_pair(3, (2, 4, 5, 6), ignored=2.0)
    logits.requires_grad_()
    loss = cross_entropy(logits, label, weight_BHW=random_weight(0, label))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_means_over_all_pixels_match_the_fixture(shared):
    """DAFormer divides by all pixels, ignored ones included."""
    z = np.load(shared("fixtures/classmix.npz"))
    logits = torch.tensor(z["in_student_logits"], requires_grad=True)
    mixed, weight, source = (
        torch.tensor(z[name]) for name in ("out_mixed_label", "out_mixed_weight", "in_cm_label")
    )
    count = torch.tensor(float(mixed.numel()))
    loss = cross_entropy(logits, mixed, count, weight)
    loss.backward()
    assert_close(loss, z["out_mix_ce"], scale=1)
    assert_close(logits.grad, z["out_mix_ce_grad"], scale=1 / mixed.numel())
    assert_close(cross_entropy(logits, source.squeeze(1), count), z["out_source_ce"], scale=1)


def test_means_over_confident_pixels_match_unimatch_and_augseg(shared):
    """Of UniMatch the divisor is the number of pixels without 255, of AugSeg that of all pixels."""
    z = np.load(shared("fixtures/unimatch.npz"))
    weak = torch.tensor(z["in_pred_u_w"]).softmax(dim=1)
    pseudo = {"u_w_fp": (weak.argmax(dim=1), weak.amax(dim=1), torch.tensor(z["in_ignore_mask"]))}
    for number in cases(z, r"in_cutmix_box(\d+)"):
        pseudo[f"u_s{number}"] = tuple(
            torch.tensor(z[f"out_{kind}_cutmixed{number}"]) for kind in ("mask", "conf", "ignore")
        )
    for case in cases(z, "cfg_conf_thresh_(.+)"):
        logits = {
            name: torch.tensor(z[f"in_pred_{name}"], requires_grad=True) for name in ("x", *pseudo)
        }
        losses = {"x": cross_entropy(logits["x"], torch.tensor(z["in_mask_x"]))}
        for name, (label, confidence, ignored) in pseudo.items():
            weight = (confidence >= float(z[f"cfg_conf_thresh_{case}"])).float()
            label = torch.where(ignored == IGNORE, IGNORE, label)
            losses[name] = cross_entropy(logits[name], label, weight_BHW=weight)
        shares = {name: 0.5 / (len(pseudo) - 1) for name in pseudo} | {"x": 1.0, "u_w_fp": 0.5}
        total = sum(shares[name] * loss for name, loss in losses.items()) / 2
        total.backward()
        assert_close(total, z[f"out_loss_total_{case}"], name=case, scale=1)
        for name, loss in losses.items():
            assert_close(loss, z[f"out_loss_{name}_{case}"], name=f"{name} {case}", scale=1)
            expected = z[f"out_grad_pred_{name}_{case}"]
            assert_close(
                logits[name].grad, expected, name=f"{name} {case}", scale=1 / weak[:, 0].numel()
            )

    student = torch.tensor(z["in_augseg_student_logits"], requires_grad=True)
    target = torch.tensor(z["in_augseg_target"])
    confidence = torch.tensor(z["in_augseg_teacher_logits"]).softmax(dim=1).amax(dim=1)
    weight = (confidence >= float(z["cfg_augseg_thresh"])).float()
    loss = cross_entropy(student, target, torch.tensor(float(target.numel())), weight)
    loss.backward()
    assert_close(loss, z["out_augseg_loss"], scale=1)
    assert_close(student.grad, z["out_augseg_grad"], scale=1 / target.numel())


def slow_balanced(logits, label, counts=None):
    """Half of each mean, one after the other."""
    halves = [torch.where(label == 0, label, IGNORE), torch.where(label == 0, IGNORE, label)]
    counts = [(half != IGNORE).sum().item() for half in halves] if counts is None else counts
    parts = [slow_cross_entropy(logits, half, 1) for half in halves]
    value, grad = 0.0, torch.zeros(logits.shape, dtype=torch.float64)
    for (part, slope), count in zip(parts, counts, strict=True):
        if count > 0:
            value, grad = value + 0.5 * part / count, grad + 0.5 * slope / count
    return value, grad


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("counts", [None, (0.5, 7.0)])
def test_balanced_cross_entropy_and_its_gradient_equal_the_loop(shape, counts):
    logits, label = random_pair(sum(shape), shape)
    logits.requires_grad_()
    loss = balanced_cross_entropy(logits, label, None if counts is None else torch.tensor(counts))
    loss.backward()
    value, grad = slow_balanced(logits.detach(), label, counts)
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-7)
    torch.testing.assert_close(logits.grad.double(), grad, rtol=1e-4, atol=1e-7)


def test_balanced_cross_entropy_is_computed_in_float32():
    logits, label = random_pair(0, (2, 5, 9, 11))
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = balanced_cross_entropy(half, label)
    assert loss.dtype == torch.float32 and loss == balanced_cross_entropy(half.float(), label)


def test_a_permutation_of_the_foreground_leaves_the_balanced_loss():
    logits, label = random_pair(7, (2, 6, 9, 11))
    order = torch.tensor([0, 3, 5, 1, 2, 4])
    table = torch.full((256,), IGNORE, dtype=torch.uint8)
    table[order] = torch.arange(6, dtype=torch.uint8)
    torch.testing.assert_close(
        balanced_cross_entropy(logits[:, order], table[label.long()]),
        balanced_cross_entropy(logits, label),
    )


@pytest.mark.parametrize("lone", [None, 0, 2])
def test_balanced_halves_of_two_processes_are_those_of_one(twins, lone):
    """Also if there is a single background or foreground pixel: its average count is one half."""
    logits, label = random_pair(8, (4, 5, 6, 7))
    if lone is not None:
        label = torch.where(label == IGNORE, label, 0 if lone else 3).to(torch.uint8)
        label[0, 0, 0] = lone
    whole = logits.clone().requires_grad_()
    balanced_cross_entropy(whole, label).backward()
    halves = [slice(0, 2), slice(2, 4)]

    def half(rank):
        mine = logits[halves[rank]].clone().requires_grad_()
        balanced_cross_entropy(
            mine, label[halves[rank]], twins.total(balance_counts(label[halves[rank]])) / 2
        ).backward()
        return mine.grad / 2

    torch.testing.assert_close(torch.cat(twins.run(half)), whole.grad)


def test_balanced_cross_entropy_matches_the_fixture(shared):
    """The released loss is NaN where a half is empty, its gradient is not."""
    z = np.load(shared("fixtures/affinity.npz"))
    for case in cases(z, "in_seg_label_(.+)"):
        logits, label = (
            torch.tensor(z["in_seg_logits"], requires_grad=True),
            torch.tensor(z[f"in_seg_label_{case}"]),
        )
        loss = balanced_cross_entropy(logits, label)
        loss.backward()
        assert_close(loss, z[f"out_seg_loss_{case}_guarded"], name=case, scale=1)
        expected = z[f"out_seg_grad_{case}_released"]
        assert_close(logits.grad, expected, name=case, scale=1 / label.numel())
        released = z[f"out_seg_loss_{case}_released"]
        if np.isnan(released):
            assert not balance_counts(label).all(), case
        else:
            assert_close(loss, released, name=case, scale=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threshold", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("min_kept", [0, 1, 20, 10_000])
def test_hard_pixels_equal_the_loop(shape, threshold, min_kept):
    logits, label = random_pair(sum(shape) + min_kept, shape)
    assert torch.equal(
        hard_pixels(logits, label, threshold, min_kept),
        slow_hard(logits, label, threshold, min_kept),
    )


def test_hard_pixels_on_the_limit_all_stay():
    """Twelve pixels with the same probability: asking for one keeps all of them."""
    logits = torch.zeros(1, 2, 3, 4)
    logits[:, 0] = 4.0
    label = torch.zeros(1, 3, 4, dtype=torch.uint8)
    assert torch.equal(hard_pixels(logits, label, threshold=0.1, min_kept=1), label)


@pytest.mark.parametrize("min_kept", [1, 30, 150, 242, 243, 600])
def test_hard_pixels_of_two_processes_are_those_of_one(twins, min_kept):
    logits, label = random_pair(6, (4, 5, 9, 11), ignored=0.0)
    label[:2, 2:] = IGNORE  # 44 + 198 labelled pixels
    halves = [slice(0, 2), slice(2, 4)]
    found = twins.run(
        lambda rank: hard_pixels(
            logits[halves[rank]], label[halves[rank]], 0.3, min_kept, twins.gather
        )
    )
    assert torch.equal(torch.cat(found), hard_pixels(logits, label, 0.3, min_kept))


def test_hard_pixels_match_the_fixture(shared):
    z = np.load(shared("fixtures/ohem.npz"))
    target = torch.tensor(z["in_target"])
    assert valid_count(target) == z["out_num_valid"]
    for case in cases(z, "cfg_min_kept_(.+)"):
        logits = torch.tensor(z["in_logits"], requires_grad=True)
        kept = hard_pixels(logits, target, float(z["cfg_thresh"]), int(z[f"cfg_min_kept_{case}"]))
        assert np.array_equal((kept != IGNORE).numpy(), z[f"out_kept_{case}"] == 1), case
        assert torch.equal(kept[kept != IGNORE], target[kept != IGNORE]), case
        loss = cross_entropy(logits, kept)
        loss.backward()
        assert_close(loss, z[f"out_loss_{case}"], name=case, scale=1)
        assert_close(logits.grad, z[f"out_grad_{case}"], name=case, scale=1 / target.numel())


def test_connected_zero_reaches_every_tensor_and_no_more():
    first, second = torch.randn(2, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    zero = connected_zero(first, second)
    assert zero.item() == 0 and zero.dim() == 0
    zero.backward()
    assert first.grad is not None and second.grad is not None
    assert not first.grad.any() and not second.grad.any()
