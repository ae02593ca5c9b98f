"""How long AFA's affinity of all token pairs takes, forward and backward, in three versions.

    uv run benchmarks/affinity.py [--threads 1] [--json results/benchmark-affinity.json]

Ours is one product over all heads; `maps` keeps a map per head, as AFA's released code does; `rows`
multiplies each row of tokens only with the rows within the radius. The shapes are those of AFA's
recipe: 8 images of 512 pixels, 16 pixels per token, two blocks of 8 heads with 64 channels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measure import (
    alternate,
    arguments,
    environment,
    milliseconds,
    peak_bytes,
    ratios,
    spread,
    times,
    write,
)
from torch import Tensor

from u2pl.losses.affinity import radius_mask
from u2pl.networks.attention import BLOCKS, AffinityHead, Attention


def make_blocks(options: argparse.Namespace) -> list[Attention]:
    """Random queries and keys, with gradient."""
    shape = (options.batch, options.size**2, options.heads * options.channels)
    generator = torch.Generator(options.device).manual_seed(options.seed)
    rows = [
        (0.2 * torch.randn(shape, generator=generator, device=options.device)).requires_grad_()
        for _ in range(2 * BLOCKS)
    ]
    return [Attention(*pair) for pair in zip(rows[::2], rows[1::2], strict=True)]


def maps(head: AffinityHead, blocks: list[Attention], heads: int) -> Tensor:
    """A map per head, symmetrised, then the weighted sum."""
    parts = [[rows.unflatten(2, (heads, -1)).transpose(1, 2) for rows in block] for block in blocks]
    every = torch.cat([query @ key.mT for query, key in parts], dim=1)
    weight = head.weight.view(1, -1, 1, 1)
    return torch.sigmoid(
        torch.nn.functional.conv2d(every + every.mT, weight, head.bias.view(1))
    ).squeeze(1)


def near_rows(head: AffinityHead, blocks: list[Attention], size: int, radius: int) -> list[Tensor]:
    """For each row of tokens, its probabilities with the rows at most `radius` away.

    q k^T + k q^T is one product of twice the depth.
    """
    query, key = (torch.cat(parts, dim=2) for parts in zip(*blocks, strict=True))
    weighted = (query.unflatten(2, (len(head.weight), -1)) * head.weight.unsqueeze(1)).flatten(2)
    left, right = torch.cat([weighted, key], dim=2), torch.cat([key, weighted], dim=2)
    parts = []
    for row in range(size):
        here = slice(row * size, (row + 1) * size)
        near = slice(max(0, row - radius) * size, (row + radius + 1) * size)
        parts.append(torch.sigmoid(left[:, here] @ right[:, near].mT + head.bias))
    return parts


def main() -> None:
    """Measure, print, and write the figures if a file was named."""
    options = arguments(__doc__, batch=8, size=32, heads=8, channels=64, radius=8, repeats=4)
    device, blocks = options.device, make_blocks(options)
    head = AffinityHead(BLOCKS * options.heads).to(device)
    leaves = [*head.parameters(), *(rows for block in blocks for rows in block)]

    def step(total: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for leaf in leaves:
                leaf.grad = None
            total().backward()

        return run

    def rows() -> Tensor:
        parts = near_rows(head, blocks, options.size, options.radius)
        return torch.stack([part.sum() for part in parts]).sum()

    rivals = {
        "ours": step(lambda: head(blocks).sum()),
        "maps": step(lambda: maps(head, blocks, options.heads).sum()),
        "rows": step(rows),
    }
    seconds = alternate(rivals, options.repeats, device)
    with torch.no_grad():
        difference = (head(blocks) - maps(head, blocks, options.heads)).abs().max().item()
    near = radius_mask(options.size, options.size, options.radius)
    figures = environment(options) | {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "over_ours": {name: ratios(seconds[name], seconds["ours"]) for name in ("maps", "rows")},
        "peak_bytes": {name: peak_bytes(run, device) for name, run in rivals.items()},
        "pairs_within_radius": near.float().mean().item(),
        "difference": difference,
    }
    report(options, figures)
    write(options.json, figures)


def report(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the figures."""
    tokens, counted = options.size**2, figures["pairs_within_radius"]
    print(
        f"affinity of {options.batch} x {tokens} tokens, {BLOCKS} x {options.heads} heads of "
        f"{options.channels} channels, on {figures['device']} with {figures['threads']} "
        f"thread(s); {figures['clock']}, medians of {options.repeats} rounds (min … max); "
        f"{counted:.0%} of the pairs are within the radius"
    )
    for name, figure in figures["seconds"].items():
        over = f"; {times(figures['over_ours'][name])} times ours" if name != "ours" else ""
        peak = figures["peak_bytes"][name] / 2**20
        print(f"{name:>8} {milliseconds(figure)}; peak extra memory {peak:.0f} MiB{over}")
    print(f"largest difference of a probability {figures['difference']:.1e}")


if __name__ == "__main__":
    main()
