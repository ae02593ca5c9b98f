"""Contrastive losses of anchor pixels against a positive key and negative keys.

Shapes: A = anchors, K = negatives per anchor (the papers' N), R = rows of the bank of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Gathered rows per chunk: small enough for a CPU's cache, large enough to keep a GPU busy.
CHUNK = {"cpu": 2_048, "cuda": 131_072}


def info_nce(positive_A: Tensor, negative_AK: Tensor, tau: float = 0.5) -> Tensor:
    """-log( e^{s+/tau} / (e^{s+/tau} + sum_k e^{s-/tau}) ) of each anchor (U2PL Eq 4, U2PL+ Eq 10).

    Args:
        positive_A: float, cosine similarity to the positive key.
        negative_AK: float, cosine similarities to the negative keys.
        tau: temperature.

    Returns:
        InfoNCE loss of each anchor, [A], not yet averaged.
    """
    return (
        torch.cat([positive_A.unsqueeze(1), negative_AK], dim=1).div(tau).logsumexp(dim=1)
        - positive_A / tau
    )


def binary_contrast(positive_A: Tensor, negative_AK: Tensor, tau: float = 0.5) -> Tensor:
    """-log( e^{s+/tau} / (e^{s+/tau} + e^{s-/tau}) ), mean over an anchor's negatives.

    U2PL supp. Eq 1. Arguments and result as for `info_nce`.
    """
    return F.softplus((negative_AK - positive_A.unsqueeze(1)) / tau).mean(dim=1)


#: Contrastive losses by their name in a config: (positive, negatives, tau) -> loss of each anchor.
CONTRASTS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "info_nce": info_nce,
    "binary": binary_contrast,
}


class _BankSimilarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor_AD: Tensor, bank_RD: Tensor, index_AK: Tensor) -> Tensor:
        ctx.save_for_backward(bank_RD, index_AK)
        out = anchor_AD.new_empty(index_AK.shape)
        for part in _anchor_chunks(index_AK):
            # row-by-matrix bmm: matrix-by-column is ten times slower on a CPU
            torch.bmm(
                anchor_AD[part].unsqueeze(1),
                _rows(bank_RD, index_AK[part], anchor_AD).mT,
                out=out[part].unsqueeze(1),
            )
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        bank_RD, index_AK = ctx.saved_tensors
        (grad_AK,) = grads
        out = grad_AK.new_empty(index_AK.shape[0], bank_RD.shape[1])
        for part in _anchor_chunks(index_AK):
            torch.bmm(
                grad_AK[part].unsqueeze(1),
                _rows(bank_RD, index_AK[part], grad_AK),
                out=out[part].unsqueeze(1),
            )
        return out, None, None


def bank_similarity(anchor_AD: Tensor, bank_RD: Tensor, index_AK: Tensor) -> Tensor:
    """Dot products of anchors with rows of a bank: `out[a, k] = anchor[a] . bank[index[a, k]]`.

    Forward and backward gather in chunks, so the [A, K, D] rows are never in memory at once. The
    bank gets no gradient.

    Args:
        anchor_AD: float32 anchors.
        bank_RD: keys in any floating dtype, on the anchors' device or another.
        index_AK: int64 row numbers, on the bank's device.

    Returns:
        [A, K] in the anchors' dtype, on the anchors' device.
    """
    result: Tensor = _BankSimilarity.apply(anchor_AD, bank_RD, index_AK)
    return result


def _anchor_chunks(index_AK: Tensor) -> list[slice]:
    size = max(1, CHUNK.get(index_AK.device.type, CHUNK["cuda"]) // max(1, index_AK.shape[1]))
    return [slice(start, start + size) for start in range(0, index_AK.shape[0], size)]


def _rows(bank_RD: Tensor, index_AK: Tensor, like: Tensor) -> Tensor:
    # index_select, written as sums of single rows: embedding_bag prefetches on a CPU
    rows = F.embedding_bag(index_AK.view(-1, 1), bank_RD, mode="sum").view(*index_AK.shape, -1)
    return rows.to(device=like.device, dtype=like.dtype)
