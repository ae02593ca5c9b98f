from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness.fixtures import assert_close
from u2pl.losses import contrast
from u2pl.losses.contrast import CONTRASTS, bank_similarity, binary_contrast, info_nce


def similarities(seed: int, anchors: int, negatives: int):
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.rand(*shape, generator=draw, dtype=torch.float64) * 2 - 1
        for shape in ((anchors,), (anchors, negatives))
    ]


@pytest.mark.parametrize("sizes", [(1, 1), (7, 3), (4, 50)])
@pytest.mark.parametrize("tau", [0.07, 0.5, 2.0])
def test_scores_equal_the_papers_fractions(sizes, tau):
    positive, negative = similarities(sum(sizes), *sizes)
    nce, binary = info_nce(positive, negative, tau), binary_contrast(positive, negative, tau)
    for a in range(sizes[0]):
        top = math.exp(positive[a] / tau)
        others = [math.exp(s / tau) for s in negative[a].tolist()]
        assert nce[a].item() == pytest.approx(-math.log(top / (top + sum(others))), rel=1e-9)
        assert binary[a].item() == pytest.approx(
            -sum(math.log(top / (top + other)) for other in others) / len(others), rel=1e-9
        )


@pytest.mark.parametrize("name", CONTRASTS)
def test_scores_pass_gradcheck(name):
    positive, negative = similarities(3, 4, 5)
    assert torch.autograd.gradcheck(
        lambda p, n: CONTRASTS[name](p, n, 0.5),
        [positive.requires_grad_(), negative.requires_grad_()],
    )


@pytest.mark.parametrize("name", CONTRASTS)
def test_scores_stay_finite_at_a_low_temperature(name):
    loss = CONTRASTS[name](
        torch.tensor([-1.0, 1.0]), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), 1e-3
    )
    assert torch.isfinite(loss).all() and loss[0] > 1000 and loss[1] < 1e-6


def bank_case(
    seed: int,
    anchors: int,
    negatives: int,
    rows: int = 13,
    width: int = 6,
    dtype=torch.float64,
    bank_dtype=None,
):
    draw = torch.Generator().manual_seed(seed)
    anchor = torch.randn(anchors, width, generator=draw, dtype=dtype, requires_grad=True)
    bank = torch.randn(rows, width, generator=draw, dtype=dtype).to(bank_dtype or dtype)
    return anchor, bank, torch.randint(0, rows, (anchors, negatives), generator=draw)


@pytest.mark.parametrize("chunk", [1, 7, 10, 15, 1000])
@pytest.mark.parametrize("sizes", [(1, 1), (9, 5), (10, 5), (6, 1)])
def test_bank_similarity_equals_the_explicit_rows(monkeypatch, chunk, sizes):
    monkeypatch.setitem(contrast.CHUNK, "cpu", chunk)
    anchor, bank, index = bank_case(chunk, *sizes)
    out = bank_similarity(anchor, bank, index)
    upstream = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    out.backward(upstream)
    slow = torch.zeros_like(anchor)
    for a, k in np.ndindex(*sizes):
        row = bank[index[a, k]]
        assert out[a, k].item() == pytest.approx(
            (anchor[a] * row).sum().item(), rel=1e-9, abs=1e-12
        )
        slow[a] += upstream[a, k] * row
    torch.testing.assert_close(anchor.grad, slow)


def test_bank_similarity_passes_gradcheck():
    anchor, bank, index = bank_case(0, 5, 4)
    assert torch.autograd.gradcheck(lambda a: bank_similarity(a, bank, index), [anchor])


def test_bank_similarity_takes_the_gradient_of_a_broadcast_sum():
    anchor, bank, index = bank_case(0, 5, 4)
    bank_similarity(anchor, bank, index).sum().backward()
    torch.testing.assert_close(anchor.grad, bank[index].sum(dim=1))


@pytest.mark.parametrize("bank_dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_bank_is_read_in_float32(bank_dtype):
    anchor, bank, index = bank_case(2, 9, 5, dtype=torch.float32, bank_dtype=bank_dtype)
    out = bank_similarity(anchor, bank, index)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.einsum("ad,akd->ak", anchor, bank.float()[index]))


def test_autocast_does_not_lower_the_precision():
    anchor, bank, index = bank_case(2, 9, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = bank_similarity(anchor, bank, index)
    assert torch.equal(lowered, bank_similarity(anchor, bank, index))


def test_the_bank_gets_no_gradient():
    anchor, bank, index = bank_case(0, 3, 2)
    bank.requires_grad_()
    bank_similarity(anchor, bank, index).sum().backward()
    assert bank.grad is None


def test_loss_with_class_ids_matches_the_fixture(shared):
    """Case D: a class is missing, and every class keeps its own anchors, positive and bank."""
    z = np.load(shared("fixtures/contrast.npz"))
    label = torch.tensor(np.concatenate([z["in_C_label_l"], z["in_C_label_u"]]))
    low, prob = torch.tensor(z["in_low_mask"]).squeeze(1) == 1, torch.tensor(z["in_prob_teacher"])
    student, teacher = (
        torch.tensor(z["in_rep_student"], requires_grad=True),
        torch.tensor(z["in_rep_teacher"]),
    )
    rows, keys = (x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in (student, teacher))
    losses = []
    for slot, c in enumerate(z["out_C_valid_classes"].tolist()):
        mine = (label == c) & low
        candidates = (mine & (prob[:, c] > float(z["cfg_delta_p"]))).flatten().nonzero().squeeze(1)
        anchors = F.normalize(rows[candidates[torch.tensor(z["in_D_anchor_idx"][slot])]], dim=1)
        positive = F.normalize(keys[mine.flatten()].mean(dim=0), dim=0)
        bank = F.normalize(torch.tensor(z["in_bank"][c]), dim=1)
        negative = bank_similarity(anchors, bank, torch.tensor(z["in_D_negative_idx"][slot]))
        losses.append(info_nce(anchors @ positive, negative, float(z["cfg_temperature"])).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    assert int(z["cfg_C_missing_class"]) not in z["out_C_valid_classes"]
    assert_close(loss, z["out_D_loss_classid"], scale=1)
    assert_close(student.grad, z["out_D_grad_rep_classid"])
