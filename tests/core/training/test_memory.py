from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from u2pl.errors import UserError
from u2pl.memory.class_queue import ClassQueue
from u2pl.methods.method import Method, MethodConfig
from u2pl.methods.step import StepResult
from u2pl.schedules import Progress
from u2pl.training import memory
from u2pl.training.config import DataConfig, TrainConfig
from u2pl.training.memory import check_memory, kept_bytes, memory_of

CPU = torch.device("cpu")


class Pointwise(nn.Sequential):
    """Keeps 3 + 8 + 8 numbers of each pixel for backward."""

    divisor, min_images, channels = 4, 2, 3

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())


class Still(Method):
    """Has a student and does nothing."""

    def __init__(self) -> None:
        super().__init__(MethodConfig(), Pointwise(), 2)

    def forward(self, batch: object, progress: Progress) -> StepResult:
        raise NotImplementedError


def limited(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda device: limit)


def check(batch: int, crop: int, **options: Any) -> None:
    check_memory(Still(), TrainConfig(batch=batch, **options), DataConfig(crop=crop), CPU)


def test_what_is_kept_grows_with_the_area() -> None:
    def kept(side: int) -> int:
        return kept_bytes(Pointwise(), torch.zeros(3, side, side))

    assert kept(8) == 8 * 8 * 19 * 4 and kept(64) == 64 * 64 * 19 * 4


def test_a_step_that_cannot_fit_says_the_batch_that_may(monkeypatch: pytest.MonkeyPatch) -> None:
    image = 100 * 100 * 19 * 4
    limited(monkeypatch, 40 * image)
    check(40, 100)
    with pytest.raises(UserError, match=r"at least 60\.8 MB .* train\.batch of at most 40;"):
        check(80, 100)
    check(80, 100, precision="bfloat16")
    # where no batch is small enough
    with pytest.raises(
        UserError, match=r"30\.4 MB: set a smaller data\.crop of at most 447; doctor"
    ):
        check(2, 1000)


def test_queues_are_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Still()
    limited(monkeypatch, 10_000_000)
    check_memory(method, TrainConfig(batch=2), DataConfig(crop=100), CPU)
    method.queue = ClassQueue([100_000, 100_000], 64)
    with pytest.raises(
        UserError, match=re.escape("there are 0 kB: set a smaller data.crop of at most 0")
    ):
        check_memory(method, TrainConfig(batch=2), DataConfig(crop=100), CPU)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1000000\n", 1_000_000), ("max\n", None), ("9223372036854771712\n", None)],
)
def test_a_container_may_have_less_than_the_machine(
    text: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_LIMITS", ())
    machine = memory_of(CPU)
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(memory, "_LIMITS", (tmp_path / "none", tmp_path / "memory.max"))
    assert memory_of(CPU) == (expected or machine)
