"""Affinity of token pairs from MiT's self-attention (AFA, Ru et al. 2022; U2PL+ sec. 4.3).

Shapes: n = tokens of the encoder's last feature map, row-major; D = channels of all heads together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.networks.encoders.mit import MixTransformer

#: Number of last blocks of the last stage whose attention is used.
BLOCKS = 2

#: Standard deviation of the initial weights, as in the released code.
DEVIATION = 3**-0.5


class Attention(NamedTuple):
    """Queries and keys of one block, before scaling and softmax, heads concatenated in D."""

    query_BnD: Tensor
    key_BnD: Tensor


class AffinityHead(nn.Module):
    """sigmoid(sum_h w_h (A_h + A_h^T) + bias) with A_h = Q_h K_h^T, h over the heads of all blocks.

        for h in heads:
            score += w[h] * query[h] @ key[h].T
        return sigmoid(score + score.T + bias)

    The sum over heads is a single matrix product, so the n x n map of one head is never stored.
    All pairs are computed, although the loss uses only those at most 8 tokens apart: a banded
    version took four times as long at 32 x 32 tokens on a CPU (`benchmarks/affinity.py`).

    Args:
        heads: number of attention heads of all blocks together.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(heads) * DEVIATION)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, blocks: Sequence[Attention]) -> Tensor:
        """Affinity of all pairs, float32 [B, n, n] in (0, 1), symmetric.

        Args:
            blocks: queries and keys in any floating dtype, as from `attention_of`.
        """
        query, key = (torch.cat(parts, dim=2).float() for parts in zip(*blocks, strict=True))
        # no autocast: scores are in the tens, where bfloat16 has a precision of a quarter
        with torch.autocast(query.device.type, enabled=False):
            weighted = query.unflatten(2, (len(self.weight), -1)) * self.weight.unsqueeze(1)
            score = weighted.flatten(2) @ key.mT
            return torch.sigmoid(score + score.mT + self.bias)


def build_affinity(encoder: nn.Module) -> AffinityHead:
    """An affinity head for `encoder`, with random weights.

    It belongs to the method, not to the network: it is trained at the heads' learning rate and
    saved in checkpoints, but it is not part of a saved model.

    Raises:
        UserError: The encoder is not a MiT.
    """
    return AffinityHead(sum(block.num_heads for block in attention_blocks(encoder)))


def attention_blocks(encoder: nn.Module) -> list[Any]:
    """Self-attention modules of MiT's last blocks, in order; UserError for any other encoder."""
    if not isinstance(encoder, MixTransformer):
        raise UserError("affinity comes from the self-attention of MiT; set network.encoder=mit_b1")
    stages: Any = encoder.model.stages
    stage = stages[-1]
    return [block.attn for block in stage.blocks[-BLOCKS:]]


@contextmanager
def attention_of(encoder: nn.Module) -> Iterator[list[Attention]]:
    """Record the queries and keys of the last blocks, in the graph, from a forward of `encoder`.

        with attention_of(network.encoder) as blocks:
            output = network(image)
        prob_Bnn = head(blocks)

    The list is filled on exit, from the last forward in the body; the hooks are then removed.

    Raises:
        UserError: The encoder is not a MiT.
    """
    blocks = attention_blocks(encoder)
    taken: list[Attention] = []
    outputs: dict[nn.Module, Tensor] = {}

    def keep(linear: nn.Module, _: Any, output: Tensor) -> None:
        outputs[linear] = output

    hooks = [
        linear.register_forward_hook(keep) for block in blocks for linear in (block.q, block.kv)
    ]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()
    assert len(outputs) == len(hooks), "no forward of the encoder"
    # `kv` holds the keys, then the values
    taken += [
        Attention(outputs[block.q], outputs[block.kv].chunk(2, dim=-1)[0]) for block in blocks
    ]
