"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from u2pl.methods.method import AnyMethod
from u2pl.networks.encoder import Encoder
from u2pl.networks.parts import NORMS
from u2pl.schedules import linear_warmup, poly_lr
from u2pl.training.config import TrainConfig


def build_optimizer(method: AnyMethod, config: TrainConfig) -> torch.optim.Optimizer:
    """Two parameter groups: the encoder, and the rest at `head_lr_factor` times its learning rate.

    With `layer_decay` the encoder is a group for each of its layers; frozen, it is none. With
    `norm_decay` off, each group's normalisation layers form one more, without weight decay.
    On GPUs a step is one fused kernel per group.
    """
    encoder = [
        p for name, p in method.named_parameters() if p.requires_grad and ".encoder." in f".{name}"
    ]
    chosen = {id(p) for p in encoder}
    head = [p for p in method.parameters() if p.requires_grad and id(p) not in chosen]
    factors = layer_factors(method, config.layer_decay)
    layers: dict[float, list[nn.Parameter]] = {}
    for parameter in encoder:
        layers.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    norms = {
        id(p)
        for module in method.modules()
        if isinstance(module, NORMS)
        for p in module.parameters(recurse=False)
    }

    groups: list[dict[str, Any]] = []
    head_factor = config.head_lr_factor
    parts = [*((parameters, factor) for factor, parameters in layers.items()), (head, head_factor)]
    for parameters, factor in parts:
        undecayed = [] if config.norm_decay else [p for p in parameters if id(p) in norms]
        decayed = [p for p in parameters if config.norm_decay or id(p) not in norms]
        group = {"params": decayed, "lr": config.scaled_lr * factor, "factor": factor}
        groups += (
            [group, {**group, "params": undecayed, "weight_decay": 0.0}] if undecayed else [group]
        )
    # on CPUs torch's default implementations: foreach is slower, fused AdamW rounds differently
    options: dict[str, Any] = {"lr": config.scaled_lr, "weight_decay": config.weight_decay}
    options["fused"] = True if method.device.type == "cuda" else None
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **options)
    return torch.optim.SGD(groups, momentum=0.9, **options)


def layer_factors(method: AnyMethod, decay: float) -> dict[int, float]:
    """By id, what the learning rate of each parameter of an encoder is multiplied by.

    1 behind the last block, `decay` in it, and `decay` times less from block to block before it.

    Args:
        method: with one encoder or several.
        decay: 1: nothing is multiplied.

    Raises:
        UserError: An encoder has no blocks.
    """
    if decay == 1:
        return {}
    return {
        id(parameter): decay**depth
        for part in method.modules()
        if isinstance(part, Encoder) and not part.frozen
        for depth, layer in enumerate(reversed(part.layers()))
        for parameter in layer
    }


def set_learning_rate(
    optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, total: int
) -> float:
    """Set each group's learning rate for this step; returns the encoder's."""
    lr = poly_lr(config.scaled_lr, step, total, config.poly_power) * linear_warmup(
        step, round(config.warmup * total)
    )
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    return lr
