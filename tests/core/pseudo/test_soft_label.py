from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from u2pl.losses.soft_label import soft_cross_entropy
from u2pl.pseudo.soft_label import SoftLabelConfig, soft_label


def random_prob(seed: int, classes: int, size=(2, 5, 7), sharpness: float = 2.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(size[0], classes, *size[1:], generator=draw) * sharpness
    return logits.softmax(dim=1)


def slow_label(p: list[float], config: SoftLabelConfig) -> list[float]:
    """One pixel, by the paper's words."""
    falling = sorted(p, reverse=True)
    if config.kind == "top":
        last = falling[min(config.top, len(p)) - 1]
    else:
        total, last = 0.0, falling[-1]
        for value in falling:
            total += value
            if total >= config.eta:
                last = value
                break
    kept = [value if value >= last else 0.0 for value in p]
    return [value / sum(kept) for value in kept]


CONFIGS = [
    *(SoftLabelConfig(eta=eta) for eta in (0.3, 0.8, 0.95, 0.999)),
    *(SoftLabelConfig(kind="top", top=top) for top in (1, 2, 5, 30)),
]


@pytest.mark.parametrize("classes", [2, 7, 21])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_labels_equal_the_loop(config: SoftLabelConfig, classes: int) -> None:
    prob = random_prob(classes, classes).double()
    found = soft_label(prob, config)
    for b, i, j in np.ndindex(2, 5, 7):
        expected = slow_label(prob[b, :, i, j].tolist(), config)
        assert found[b, :, i, j].tolist() == pytest.approx(expected, abs=1e-6)


def test_labels_sum_to_1_keep_the_order_and_the_first_class() -> None:
    prob = random_prob(0, 9)
    found = soft_label(prob, SoftLabelConfig())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 5, 7))
    assert torch.equal(found.argmax(dim=1), prob.argmax(dim=1))
    # the classes that are left out have less than 1 - eta together
    left = torch.where(found == 0, prob, 0.0).sum(dim=1)
    assert (left <= 0.05 + 1e-6).all() and (found == 0).any() and (found > 0).sum(1).max() > 2


def test_a_sure_prediction_is_a_hard_label() -> None:
    prob = torch.tensor([0.02, 0.96, 0.02]).view(1, 3, 1, 1)
    assert soft_label(prob, SoftLabelConfig()).flatten().tolist() == [0.0, 1.0, 0.0]
    hard = soft_label(random_prob(1, 6), SoftLabelConfig(kind="top"))
    assert torch.equal(hard, (hard == 1).float()) and (hard.sum(dim=1) == 1).all()


def test_tied_classes_are_kept_together() -> None:
    prob = torch.tensor([0.4, 0.2, 0.2, 0.2]).view(1, 4, 1, 1)
    found = soft_label(prob, SoftLabelConfig(eta=0.5)).flatten().tolist()
    assert found == pytest.approx([0.4, 0.2, 0.2, 0.2])


def test_a_permutation_of_the_classes_permutes_the_labels() -> None:
    prob, order = random_prob(2, 7), torch.tensor([3, 6, 0, 2, 5, 1, 4])
    config = SoftLabelConfig()
    renamed = soft_label(prob[:, order], config)
    torch.testing.assert_close(renamed, soft_label(prob, config)[:, order])


def test_one_class_is_itself() -> None:
    assert (soft_label(torch.ones(1, 1, 2, 2), SoftLabelConfig()) == 1).all()


@pytest.mark.parametrize("wrong", [{"eta": 0.0}, {"eta": 1.1}, {"top": 0}, {"kind": "hard"}])
def test_a_wrong_option_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SoftLabelConfig(**wrong)


def test_the_loss_equals_the_loop_and_ignores_padding() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 5, 7, generator=draw, requires_grad=True)
    target, valid = soft_label(random_prob(3, 6), SoftLabelConfig()), torch.ones(2, 5, 7).bool()
    valid[:, 3:] = False
    total = 0.0
    for b, i, j in valid.nonzero().tolist():
        log_prob = logits[b, :, i, j].double().log_softmax(0).tolist()
        total -= sum(target[b, c, i, j].item() * log_prob[c] for c in range(6))
    loss = soft_cross_entropy(logits, target, valid)
    assert loss.item() == pytest.approx(total / int(valid.sum()), rel=1e-5)
    loss.backward()
    assert not logits.grad[:, :, 3:].any() and logits.grad[:, :, :3].any()
    twice = soft_cross_entropy(logits, target, valid, 2 * valid.sum().float())
    assert twice.item() == pytest.approx(loss.item() / 2)
    none = soft_cross_entropy(logits, target, torch.zeros_like(valid))
    assert none == 0 and none.requires_grad


def test_hard_labels_give_the_ordinary_cross_entropy() -> None:
    draw = torch.Generator().manual_seed(1)
    logits, label = torch.randn(2, 6, 5, 7, generator=draw), torch.randint(6, (2, 5, 7))
    one_hot = torch.nn.functional.one_hot(label, 6).permute(0, 3, 1, 2).float()
    found = soft_cross_entropy(logits, one_hot, torch.ones(2, 5, 7).bool())
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, label))
