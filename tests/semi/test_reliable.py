from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.fixtures import assert_close, cases
from u2pl import distributed
from u2pl.methods.method import partition_scalars
from u2pl.pseudo.partition import partition
from u2pl_semi.reliable import PseudoLossConfig, unsupervised_loss

IGNORE = 255


def random_case(seed: int = 0, shape=(4, 5, 9, 11)):
    draw = torch.Generator().manual_seed(seed)
    logits, prob = (
        torch.randn(shape, generator=draw),
        (torch.randn(shape, generator=draw) * 3).softmax(dim=1),
    )
    valid = torch.rand(shape[0], *shape[2:], generator=draw) < 0.7
    return logits, prob.argmax(dim=1), prob, partition(prob, valid, 0.2)


def slow_loss(config, logits, label, prob, part) -> tuple[float, float]:
    total, reliable, valid, confident = 0.0, 0, 0, 0
    for place in np.ndindex(*label.shape):
        b, i, j = place
        counts = bool(part.reliable_BHW[place] or part.unreliable_BHW[place])
        valid += counts
        confident += counts and prob[b, :, i, j].max().item() > config.confidence
        if part.reliable_BHW[place]:
            reliable += 1
            log_prob = logits[b, :, i, j].double().log_softmax(0)
            log_y, p_y = log_prob[label[place]].item(), log_prob[label[place]].exp().item()
            total += -config.xi_1 * log_y - config.xi_2 * np.log(1e-4) * (1 - p_y)
    counted = valid if config.count == "valid" else label.numel()
    return total / reliable, config.eta * counted / reliable * confident / valid


@pytest.mark.parametrize(
    "options",
    [{}, {"xi_2": 0.1}, {"count": "all", "eta": 2.0}, {"confidence": 0.8}, {"confidence": 0.99}],
)
def test_loss_and_weight_equal_the_loop(options):
    config, (logits, label, prob, part) = PseudoLossConfig(**options), random_case()
    found = unsupervised_loss(config, logits, label, prob, part)
    assert [x.item() for x in found] == pytest.approx(
        slow_loss(config, logits, label, prob, part), rel=1e-5
    )


def test_counting_all_pixels_matches_the_fixture(shared):
    z = np.load(shared("fixtures/unsup.npz"))
    target, prob = torch.tensor(z["in_target"]), torch.tensor(z["in_teacher_logits"]).softmax(dim=1)
    for case in cases(z, "cfg_percent_(.+)"):
        logits = torch.tensor(z["in_logits"], requires_grad=True)
        part = partition(prob, target != IGNORE, 1 - float(z[f"cfg_percent_{case}"]) / 100)
        loss, weight = unsupervised_loss(PseudoLossConfig(count="all"), logits, target, prob, part)
        (weight * loss).backward()
        assert_close(weight * loss, z[f"out_loss_{case}"], name=case, scale=1)
        assert_close(logits.grad, z[f"out_grad_{case}"], name=case, scale=1 / target.numel())


def test_an_unsure_teacher_teaches_little_and_a_sure_one_as_in_the_paper():
    logits, label, prob, part = random_case()
    trusting = PseudoLossConfig(confidence=0.9)
    for certainty, share in ((0.89, 0.0), (0.95, 1.0)):
        sure = torch.full_like(prob, (1 - certainty) / 4).scatter(1, label.unsqueeze(1), certainty)
        _, weight = unsupervised_loss(trusting, logits, label, sure, part)
        _, plain = unsupervised_loss(PseudoLossConfig(), logits, label, sure, part)
        assert plain > 0 and weight == share * plain


def test_without_a_reliable_pixel_loss_and_weight_are_zero():
    logits, label, prob, part = random_case()
    none = part._replace(reliable_BHW=torch.zeros_like(part.reliable_BHW))
    logits.requires_grad_()
    loss, weight = unsupervised_loss(PseudoLossConfig(xi_2=0.1), logits, label, prob, none)
    (weight * loss).backward()
    assert loss.item() == 0 and weight.item() == 0 and not logits.grad.any()


def test_two_processes_have_the_gradient_of_one(monkeypatch):
    logits, label, prob, part = random_case()
    part.reliable_BHW[:2, 3:] = False
    whole = logits.clone().requires_grad_()
    loss, weight = unsupervised_loss(PseudoLossConfig(xi_2=0.1), whole, label, prob, part)
    (loss * weight).backward()
    reliable, unreliable = part.reliable_BHW.sum() / 2, part.unreliable_BHW.sum() / 2
    split = logits.clone().requires_grad_()
    for half in (slice(0, 2), slice(2, 4)):
        mine = part._replace(
            reliable_BHW=part.reliable_BHW[half], unreliable_BHW=part.unreliable_BHW[half]
        )
        answers = iter(
            [reliable, unreliable]
        )  # the averages over both, in the order they are asked for
        monkeypatch.setattr(distributed, "average", lambda _, answers=answers: next(answers))
        loss, weight_here = unsupervised_loss(
            PseudoLossConfig(xi_2=0.1), split[half], label[half], prob[half], mine
        )
        assert weight_here == weight
        (loss * weight_here / 2).backward()
    torch.testing.assert_close(split.grad, whole.grad)


def test_scalars_tell_how_right_the_pseudo_labels_are():
    _, label, _, part = random_case()
    truth = torch.where(torch.arange(label.numel()).view(label.shape) % 3 == 0, IGNORE, label)
    truth[part.unreliable_BHW & (truth != IGNORE)] = (
        truth[part.unreliable_BHW & (truth != IGNORE)] + 1
    ) % 5
    scalars = partition_scalars(part, label, truth)
    reliable, unreliable = part.reliable_BHW.sum(), part.unreliable_BHW.sum()
    assert scalars["reliable_share"].item() == pytest.approx(
        (reliable / (reliable + unreliable)).item()
    )
    assert scalars["accuracy/reliable"] == 1 and scalars["accuracy/unreliable"] == 0
    assert scalars["gamma_t"] == part.gamma
