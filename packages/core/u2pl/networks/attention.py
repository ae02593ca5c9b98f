"""How alike two places of an image are, from what self-attention makes of them (AFA, Ru et al. 2022; 000, sec. 4.3).

n counts the tokens of the encoder's last feature map, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.networks.encoders.mit import MixTransformer

#: Blocks at the end of the last stage whose attention is looked at.
BLOCKS = 2

#: Deviation of the first weights, as in the released code.
DEVIATION = 3**-0.5


class Attention(NamedTuple):
    """What one block compares, before scaling and softmax; the heads lie side by side in D."""

    query_BnD: Tensor
    key_BnD: Tensor


class AffinityHead(nn.Module):
    """sigmoid(sum_h w_h (A_h + A_h^T) + bias) with A_h = Q_h K_h^T, h over the heads of all blocks.

    The sum over heads is one product of matrices, so that no n x n map of a single head is ever held:

        for h in heads: score += w[h] * query[h] @ key[h].T
        return sigmoid(score + score.T + bias)

    Full n x n maps, though only pairs at most 8 tokens apart count: 17 rows of keys for each row of tokens took four times as long
    at 32 x 32 tokens on a CPU (`benchmarks/affinity.py`).

    Args:
        heads: Attention heads of all blocks together.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(heads) * DEVIATION)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, blocks: Sequence[Attention]) -> Tensor:
        """Probabilities float32 [B, n, n], symmetric, of the blocks that `attention_of` gave."""
        query, key = (torch.cat(parts, dim=2).float() for parts in zip(*blocks, strict=True))
        with torch.autocast(
            query.device.type, enabled=False
        ):  # scores are tens: 16 bits would round them to quarters
            weighted = query.unflatten(2, (len(self.weight), -1)) * self.weight.unsqueeze(1)
            score = weighted.flatten(2) @ key.mT
            return torch.sigmoid(score + score.mT + self.bias)


def build_affinity(encoder: nn.Module) -> AffinityHead:
    """A head for the attention of `encoder`, with random weights.

    It belongs to the method, not to the network: trained and resumed with it, at the heads' learning rate, and no part of what is shared.

    Raises:
        UserError: The encoder has no such attention.
    """
    return AffinityHead(sum(block.num_heads for block in attention_blocks(encoder)))


def attention_blocks(encoder: nn.Module) -> list[Any]:
    """The self-attention of the last blocks of MiT, first to last; UserError for any other encoder."""
    if not isinstance(encoder, MixTransformer):
        raise UserError("affinity comes from the self-attention of MiT; set network.encoder=mit_b1")
    stages: Any = encoder.model.stages
    stage = stages[-1]
    return [block.attn for block in stage.blocks[-BLOCKS:]]


@contextmanager
def attention_of(encoder: nn.Module) -> Iterator[list[Attention]]:
    """Take the queries and keys of the last blocks in the forward of `encoder` that the body runs, with their gradients.

        with attention_of(network.encoder) as blocks:
            output = network(image)
        prob_Bnn = head(blocks)

    The list is filled when the body ends; of several forwards the last one counts. Nothing stays on the encoder, and what is not asked
    for is not kept.

    Raises:
        UserError: The encoder has no such attention.
    """
    blocks = attention_blocks(encoder)
    taken: list[Attention] = []
    answers: dict[nn.Module, Tensor] = {}

    def keep(linear: nn.Module, _: Any, answer: Tensor) -> None:
        answers[linear] = answer

    hooks = [
        linear.register_forward_hook(keep) for block in blocks for linear in (block.q, block.kv)
    ]
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()
    assert len(answers) == len(hooks), "no forward of the encoder"
    taken += [
        Attention(answers[block.q], answers[block.kv].chunk(2, dim=-1)[0]) for block in blocks
    ]  # keys, then values
