from __future__ import annotations

import os

import pytest
import torch

from u2pl.training.threads import choose_threads, free_cores


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "load", "processes", "most", "expected"),
    [
        (8, 0.0, 1, 8, 8),
        (8, 0.2, 1, 4, 4),  # not more than torch would take
        (8, 5.6, 1, 8, 2),
        (8, 30.0, 1, 8, 1),
        (2, 1.0, 1, 2, 1),
        (16, 0.3, 4, 16, 4),
        (2, 0.0, 4, 2, 1),
    ],
)
def test_as_many_as_there_are_cores_without_load(
    cores: int,
    load: float,
    processes: int,
    most: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert free_cores(most) == expected
    torch.set_num_threads(most)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert choose_threads() == torch.get_num_threads() == expected


def test_what_the_user_says_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    monkeypatch.setattr(os, "getloadavg", lambda: (100.0, 0.0, 0.0))
    assert choose_threads() == choose_threads(known=2) == 3


def test_a_resumed_run_goes_on_with_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (100.0, 0.0, 0.0))
    assert choose_threads(known=3) == torch.get_num_threads() == 3
