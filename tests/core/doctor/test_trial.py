from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from u2pl.doctor.trial import (
    OneImage,
    peak_memory,
    state_bytes,
    tensor_bytes,
    try_one_image,
    try_steps,
)
from u2pl.errors import UserError
from u2pl.methods.method import Method, MethodConfig
from u2pl.methods.step import StepResult
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.schedules import Progress
from u2pl.training.checkpoint import FILE, save_checkpoint
from u2pl.training.config import TrainConfig
from u2pl.training.memory import memory_of
from u2pl.training.optimizer import build_optimizer


class Mean(Method):
    """Brings the mean of a convolution to 0, and remembers which steps it was asked for."""

    def __init__(self, factor: float = 1.0) -> None:
        student = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        super().__init__(MethodConfig(), student, 2)
        self.factor = factor
        self.steps: list[int] = []

    def forward(self, batch: Any, progress: Progress) -> StepResult:
        self.steps.append(progress.step)
        loss = self.student(batch).mean() * self.factor
        return StepResult(loss, {"loss/mean": loss.detach()})


def image() -> Tensor:
    return torch.zeros(3, 16, 16)


def test_bytes_kept_for_backward_are_counted_without_the_weights() -> None:
    method = Mean()
    one = try_one_image(method.student, image())
    maps = 16 * 16 * 4
    # the convolution and BatchNorm keep their inputs, ReLU its output
    assert one.kept == 3 * maps + 8 * maps + 8 * maps
    assert one.seconds > 0 and method.training and method.student.training


def test_a_frozen_encoder_keeps_nothing_and_its_time_is_told_apart() -> None:
    def one(**options: bool) -> OneImage:
        network = {"decoder": "dpt", "encoder": "test_vit", "encoder_weights": "none", "width": 8}
        torch.manual_seed(0)
        student = build_segmentor(NetworkConfig(**network, **options), 3)
        return try_one_image(student, torch.zeros(3, 160, 160))

    plain, frozen, saving = one(), one(freeze_encoder=True), one(checkpointing=True)
    assert plain.fixed == saving.fixed == 0 and 0 < frozen.fixed <= frozen.seconds
    assert frozen.kept < saving.kept < plain.kept


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_stated_size_is_that_of_the_file(tmp_path: Path, optimizer: Any) -> None:
    method, train = Mean(), TrainConfig(optimizer=optimizer)
    method.student.append(nn.Linear(16, 20_000))
    update = build_optimizer(method, train)
    method(torch.stack([image()] * 2), Progress(0, 1)).loss.backward()
    update.step()
    save_checkpoint(tmp_path, method, update, {})
    assert (tmp_path / FILE).stat().st_size == pytest.approx(state_bytes(method, train), rel=0.01)
    assert tensor_bytes(method.student) == tensor_bytes(method)


def test_the_beginning_and_the_end_of_a_run_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("u2pl.doctor.trial.LONGEST_STEP", 1e9)  # however busy the machine is
    method = Mean()
    times = try_steps(method, TrainConfig(), torch.stack([image()] * 2), 1000, 0)
    assert method.steps == [999] * 3 + [0] * 3
    assert times.first > 0 and times.last > 0


def test_slow_steps_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("u2pl.doctor.trial.LONGEST_STEP", 0.0001)
    method = Mean()
    try_steps(method, TrainConfig(), torch.stack([image()] * 2), 1000, 0)
    assert method.steps == [999, 0]


def test_a_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(UserError, match=r"the loss is not finite at step \d: mean"):
        try_steps(Mean(float("nan")), TrainConfig(), torch.stack([image()] * 2), 10, 0)


def test_memory_is_plausible() -> None:
    device = torch.device("cpu")
    assert 50e6 < peak_memory(device) < memory_of(device) < 1e15
