from __future__ import annotations

import numpy as np
import pytest
import torch

from u2pl.losses.consistency import confident_share, probability_distance


def random_case(seed: int, shape):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=draw) * 2
    target = (torch.randn(shape, generator=draw) * 3).softmax(dim=1)
    valid = torch.rand(shape[0], *shape[2:], generator=draw) < 0.7
    return logits, target, valid


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 7, 5), (3, 21, 4, 3)])
@pytest.mark.parametrize("count", [None, 5.0])
def test_distance_and_gradient_equal_the_loop(shape, count):
    logits, target, valid = random_case(sum(shape), shape)
    grad, value, seen = torch.zeros(shape, dtype=torch.float64), 0.0, 0
    for b, i, j in np.ndindex(*valid.shape):
        if not valid[b, i, j]:
            continue
        p, q = logits[b, :, i, j].double().softmax(0), target[b, :, i, j].double()
        value, seen = value + ((p - q) ** 2).sum().item(), seen + 1
        slope = 2 * (p - q)
        grad[b, :, i, j] = p * (slope - (p * slope).sum())
    divisor = max(seen if count is None else count, 1)
    logits.requires_grad_()
    loss = probability_distance(
        logits, target, valid, None if count is None else torch.tensor(count)
    )
    loss.backward()
    assert loss.item() == pytest.approx(value / divisor, rel=1e-5, abs=1e-8)
    torch.testing.assert_close(logits.grad.double(), grad / divisor, rtol=1e-4, atol=1e-7)


def test_padding_has_neither_influence_nor_gradient():
    logits, target, valid = random_case(0, (2, 4, 6, 5))
    padded = ~valid.unsqueeze(1).expand_as(logits)
    other = torch.where(padded, torch.full_like(logits, 30.0), logits).requires_grad_()
    loss = probability_distance(other, target, valid)
    assert loss == probability_distance(logits, target, valid)
    loss.backward()
    assert not other.grad[padded].any() and other.grad[~padded].any()


def test_nothing_valid_is_a_finite_connected_zero():
    logits, target, valid = random_case(0, (2, 4, 6, 5))
    logits.requires_grad_()
    loss = probability_distance(logits, target, torch.zeros_like(valid))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_confident_share_counts_valid_pixels_only():
    target = torch.tensor([[0.98, 0.99, 0.97, 0.4], [0.02, 0.01, 0.03, 0.6]]).view(1, 2, 1, 4)
    valid = torch.tensor([[[True, False, True, True]]])
    assert [x.item() for x in confident_share(target, valid, 0.97)] == [1, 3]
    assert [x.item() for x in confident_share(target, valid, 0.5)] == [3, 3]
