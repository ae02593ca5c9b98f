"""The optimizer and its learning rate, a formula of the step."""

from __future__ import annotations

import torch

from u2pl.method import Method
from u2pl.schedules import poly_lr
from u2pl.train.config import TrainConfig


def build_optimizer(method: Method, config: TrainConfig) -> torch.optim.Optimizer:
    """Two parameter groups: the pretrained encoder, and everything else with `head_lr_factor` times its learning rate."""
    encoder = [p for name, p in method.named_parameters() if p.requires_grad and ".encoder." in f".{name}"]
    chosen = {id(p) for p in encoder}
    head = [p for p in method.parameters() if p.requires_grad and id(p) not in chosen]
    groups = [
        {"params": encoder, "lr": config.scaled_lr, "factor": 1.0},
        {"params": head, "lr": config.scaled_lr * config.head_lr_factor, "factor": config.head_lr_factor},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.scaled_lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, lr=config.scaled_lr, momentum=0.9, weight_decay=config.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, total: int) -> float:
    """Give each group its learning rate of this step; returns the encoder's."""
    lr = poly_lr(config.scaled_lr, step, total, config.poly_power)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    return lr
