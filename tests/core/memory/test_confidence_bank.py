"""AEL's confidence bank by loops in float64, and the numbers of the released code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.fixtures import assert_close
from u2pl.memory.confidence_bank import ConfidenceBank, class_confidence

IGNORE = 255


def case(
    seed: int, classes: int, images: int = 3, absent: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    prob = (torch.randn(images, classes, 5, 7, generator=draw) * 2).softmax(dim=1)
    label = torch.randint(0, classes, (images, 5, 7), generator=draw)
    label[torch.rand(label.shape, generator=draw) < 0.2] = IGNORE
    for c in absent:
        label[label == c] = IGNORE
    return prob, label


def slow_confidence(prob: Tensor, label: Tensor) -> list[list[float]]:
    """The probabilities of each class on its own pixels."""
    own: list[list[float]] = [[] for _ in range(prob.shape[1])]
    for b, i, j in np.ndindex(*label.shape):
        if label[b, i, j] != IGNORE:
            c = int(label[b, i, j])
            own[c].append(prob[b, c, i, j].double().item())
    return own


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize(("classes", "absent"), [(1, ()), (4, (2,)), (150, ())])
def test_means_equal_the_loop(classes: int, absent: tuple[int, ...], dtype: torch.dtype) -> None:
    prob, label = case(classes, classes, absent=absent)
    mean, count = class_confidence(prob, label.to(dtype))
    assert mean.dtype == count.dtype == torch.float32 and mean.shape == count.shape == (classes,)
    for c, own in enumerate(slow_confidence(prob, label)):
        assert count[c] == len(own)
        assert mean[c].item() == pytest.approx(np.mean(own) if own else 0, rel=1e-5)
    assert all(count[c] == 0 for c in absent)


def test_probabilities_of_pixels_without_a_label_have_no_part() -> None:
    prob, label = case(1, 4)
    spoilt = torch.where((label == IGNORE).unsqueeze(1), torch.tensor(1e4), prob)
    assert torch.equal(class_confidence(spoilt, label)[0], class_confidence(prob, label)[0])


def test_a_permutation_of_the_classes_permutes_the_means() -> None:
    prob, label = case(2, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    table = torch.full((256,), IGNORE)
    table[order] = torch.arange(6)
    for renamed, plain in zip(
        class_confidence(prob[:, order], table[label]), class_confidence(prob, label), strict=True
    ):
        torch.testing.assert_close(renamed, plain[order])


def test_millions_of_pixels_do_not_shift_the_mean() -> None:
    prob = torch.full((8, 1, 512, 512), 0.94)
    mean, _ = class_confidence(prob, torch.zeros(8, 512, 512, dtype=torch.uint8))
    assert mean.item() == pytest.approx(0.94, rel=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.999])
def test_updates_equal_the_loop(momentum: float) -> None:
    classes = 5
    bank = ConfidenceBank(classes, momentum)
    slow, sightings = [0.0] * classes, [0] * classes
    for step, absent in enumerate([(0, 4), (0,), (0, 1, 2, 3, 4), (), (3,), (2, 4), ()]):
        prob, label = case(step, classes, absent=absent)
        bank.update(prob, label)
        for c, own in enumerate(slow_confidence(prob, label)):
            if own:
                sightings[c] += 1
                m = min(1 - 1 / sightings[c], momentum)
                slow[c] = m * slow[c] + (1 - m) * float(np.mean(own))
        assert bank.value.tolist() == pytest.approx(slow, rel=1e-5)
        assert bank.seen.tolist() == sightings
        assert bank.weakness.tolist() == pytest.approx([1 - v for v in slow], rel=1e-4)


def test_an_absent_class_keeps_its_value_bit_for_bit() -> None:
    bank = ConfidenceBank(3, 0.9)
    bank.update(*case(0, 3))
    before = bank.value.clone()
    bank.update(*case(1, 3, absent=(1,)))
    assert bank.value[1] == before[1] and bank.seen.tolist() == [2, 1, 2]
    assert (bank.value != before).tolist() == [True, False, True]


def banked(*values: float) -> ConfidenceBank:
    bank = ConfidenceBank(len(values), 0.9)
    bank.value.copy_(torch.tensor(values))
    return bank


def test_weak_classes_are_likelier_by_the_softmax() -> None:
    values = [0.95, 0.2, 0.6, 0.0]
    scores = [math.exp(1 - value) for value in values]
    expected = [score / sum(scores) for score in scores]
    chances = banked(*values).chances()
    assert chances.tolist() == pytest.approx(expected, rel=1e-5)
    assert chances.argsort().tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("balance", [0.0, 0.5, 2.0])
def test_confident_classes_lose_pixels_by_the_formula(balance: float) -> None:
    values = [0.95, 0.2, 0.6, 1.0]
    expected = [((1 - value) / 0.8) ** balance for value in values]
    rates = banked(*values).sampling_rates(balance)
    assert rates.tolist() == pytest.approx(expected, rel=1e-5)
    assert rates.max() == 1


def test_rates_are_finite_if_every_class_is_certain() -> None:
    rates = banked(1.0, 1.0).sampling_rates(0.5)
    assert rates.isfinite().all() and (rates <= 1).all()


def test_two_processes_move_the_bank_like_one(request: pytest.FixtureRequest) -> None:
    prob, label = case(3, 4, images=4)
    label[:2][label[:2] == 1] = IGNORE  # a class of one process alone
    whole, halves = ConfidenceBank(4, 0.9), [ConfidenceBank(4, 0.9) for _ in range(2)]
    whole.update(prob, label)
    twins = request.getfixturevalue("connected")

    def update(rank: int) -> None:
        mine = slice(2 * rank, 2 * rank + 2)
        halves[rank].update(prob[mine], label[mine])

    twins.run(update)
    for half in halves:
        torch.testing.assert_close(half.value, whole.value)
        assert torch.equal(half.seen, whole.seen)
    assert torch.equal(halves[0].value, halves[1].value)


def test_the_bank_survives_a_checkpoint_and_carries_no_gradient() -> None:
    bank, other = ConfidenceBank(3, 0.9), ConfidenceBank(3, 0.9)
    prob, label = case(0, 3)
    bank.update(prob.requires_grad_(), label)
    assert not bank.value.requires_grad
    other.load_state_dict(bank.state_dict())
    for each in (bank, other):
        each.update(*case(1, 3))
    assert torch.equal(other.value, bank.value) and torch.equal(other.seen, bank.seen)


def test_means_and_bank_match_the_fixture(shared: Any) -> None:
    """Ours after so many steps that the momentum is the given one; absent classes differ."""
    z = np.load(shared("fixtures/unimatch.npz"))
    prob = torch.tensor(z["in_ael_student_logits"]).softmax(dim=1)
    label = torch.tensor(z["in_ael_gt"])
    mean, count = class_confidence(prob, label)
    assert_close(mean, z["out_ael_category_confidence"])
    present = (count > 0).numpy()
    assert present.any() and not present.all()
    for before, after in zip(z["in_ael_bank"], z["out_ael_bank"], strict=True):
        bank = ConfidenceBank(len(before), float(z["cfg_ael_momentum"]))
        bank.value.copy_(torch.tensor(before))
        bank.seen.fill_(10**6)
        bank.update(prob, label)
        assert_close(bank.value[present], after[present], 1e-6)
        assert np.array_equal(bank.value[~present].numpy(), before[~present])
        assert (np.abs(after - before)[present] > 1e-5).any()
