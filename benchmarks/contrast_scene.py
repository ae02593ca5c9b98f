"""Synthetic input of the contrast: blocks of classes, and a teacher that mostly recognises them."""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from measure import blocks
from torch import Tensor

from u2pl.notation import IGNORE, OUTPUT_STRIDE
from u2pl.pseudo.partition import Partition, partition

#: Share of unreliable pixels: alpha_0 of U2PL Eq 7.
ALPHA = 0.2
#: Side of a block of one class, in feature pixels.
CELL = 12


class Scene(NamedTuple):
    """What the networks pass to the contrast."""

    student: Tensor  # [B, D, h, w], with gradient
    teacher: Tensor
    logits: Tensor  # the teacher's, [B, C, h, w]
    label_l: Tensor  # [B / 2, H, W]
    label_u: Tensor
    part: Partition


def make_scene(options: argparse.Namespace, classes: int) -> Scene:
    """Blocks of classes, and a teacher that mostly recognises them; a few labels are 255."""
    generator = torch.Generator().manual_seed(options.seed)
    size, count = options.size, options.batch

    def noise(channels: int) -> Tensor:
        return torch.randn(2 * count, channels, size, size, generator=generator)

    truth = blocks(2 * count, classes, size, CELL, generator)
    logits = noise(classes).scatter_add_(1, truth.unsqueeze(1), 3.0 + noise(1))
    truth[torch.rand(truth.shape, generator=generator) < 0.05] = IGNORE
    logits, truth = logits.to(options.device, options.float), truth.to(options.device)
    embeds = [noise(options.width).to(options.device, options.float) for _ in range(2)]
    prob_u = logits[count:].float().softmax(dim=1)
    part = partition(prob_u, torch.ones_like(truth[count:], dtype=torch.bool), ALPHA)
    return Scene(
        student=embeds[0].requires_grad_(),
        teacher=embeds[1],
        logits=logits,
        label_l=full_size(truth[:count]),
        label_u=full_size(prob_u.argmax(dim=1)),
        part=part._replace(
            reliable_BHW=full_size(part.reliable_BHW),
            unreliable_BHW=full_size(part.unreliable_BHW),
        ),
    )


def full_size(map_Bhw: Tensor) -> Tensor:
    """Repeat each feature pixel as a block of image pixels."""
    return map_Bhw.repeat_interleave(OUTPUT_STRIDE, 1).repeat_interleave(OUTPUT_STRIDE, 2)
