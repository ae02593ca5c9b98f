"""The parts of the loop that need no run; whole runs are in tests/semi."""

import signal
import threading
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from u2pl.batches import PairBatch
from u2pl.errors import UserError
from u2pl.train.config import DataConfig, TrainConfig
from u2pl.train.loop import Job, _batches, _evaluation_steps, _StopSignal


class Broken(Dataset[PairBatch]):
    """Has images until number 4, which cannot be read."""

    def __getitem__(self, position: int) -> PairBatch:
        if position == 4:
            raise UserError("4.png cannot be decoded: replace the file")
        image = torch.full((3, 2, 2), position, dtype=torch.uint8)
        return PairBatch(image, image[0], image, image[0].bool(), image[0])


def job(workers: int = 0, **train: Any) -> Job:
    values = {"batch": 2, **train}
    return Job(None, Broken(), TrainConfig(**values), DataConfig(workers=workers), 5, 0, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_cannot_read_is_one_line_too(workers: int) -> None:
    batches = _batches(job(workers), 1, torch.device("cpu"))
    assert next(batches).image_l[:, 0, 0, 0].tolist() == [2, 3]
    with pytest.raises(UserError) as caught:
        next(batches)
    assert str(caught.value) == "4.png cannot be decoded: replace the file"


@pytest.mark.parametrize(("total", "evaluations", "steps"), [(5, 1, {5}), (10, 4, {2, 5, 8, 10}), (2, 4, {0, 1, 2}), (500, 2, {250, 500})])
def test_the_last_step_is_always_scored(total: int, evaluations: int, steps: set[int]) -> None:
    assert _evaluation_steps(Job(None, None, TrainConfig(evaluations=evaluations), DataConfig(), total, 0, None, None)) == steps  # type: ignore[arg-type]


def test_sigterm_is_caught_inside_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with _StopSignal() as stop:
        assert not stop.asked(0)
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked(0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_loop_in_another_thread_does_without_the_signal() -> None:
    asked = []

    def loop() -> None:
        with _StopSignal() as stop:
            asked.append(stop.asked(0))

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert asked == [False]
