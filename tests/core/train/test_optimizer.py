from typing import Literal

import pytest
import torch
from torch import nn

from u2pl.method import Method, MethodConfig
from u2pl.train.config import TrainConfig
from u2pl.train.optimizer import build_optimizer, set_learning_rate


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.decoder = nn.Linear(2, 2)
        self.my_encoder_head = nn.Linear(2, 2)  # a name that only looks like the encoder's


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_head_learns_faster_and_the_rate_follows_the_step(kind: Literal["sgd", "adamw"]) -> None:
    method = Method(MethodConfig(), Student(), 3)
    method.teacher = nn.Linear(2, 2).requires_grad_(False)
    config = TrainConfig(optimizer=kind, lr=0.016, batch=4, reference_batch=16, head_lr_factor=10)
    optimizer = build_optimizer(method, config)
    encoder, head = optimizer.param_groups
    assert [id(p) for p in encoder["params"]] == [id(p) for p in method.student.encoder.parameters()]
    assert len(head["params"]) == 4
    assert (encoder["lr"], head["lr"]) == pytest.approx((0.004, 0.04))
    assert set_learning_rate(optimizer, config, 50, 100) == pytest.approx(0.004 * 0.5**0.9)
    assert (encoder["lr"], head["lr"]) == pytest.approx((0.004 * 0.5**0.9, 0.04 * 0.5**0.9))


def test_a_step_moves_only_what_is_trained() -> None:
    method = Method(MethodConfig(), Student(), 3)
    method.teacher = nn.Linear(2, 2).requires_grad_(False)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimizer = build_optimizer(method, TrainConfig(lr=1.0))
    for value in method.student.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("student.")}
