from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from u2pl.training import threads
from u2pl.training.threads import choose_threads, idle_cores

#: Sets which shares of each core's time go by idly.
Machine = Callable[..., None]


@pytest.fixture(autouse=True)
def numbers() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose counters run while one sleeps."""
    stat = tmp_path / "stat"
    monkeypatch.setattr(threads, "STAT", stat)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def set_up(*idle: float, usable: int = 0, processes: int = 1) -> None:
        def write(seconds: int) -> None:
            lines = ["cpu 1 2 3 4 5 6 7 8 0 0"]
            for core, share in enumerate(idle):
                free = round(100 * seconds * share)
                busy = 100 * seconds - free
                lines.append(f"cpu{core} {1000 + busy} 0 0 {5000 + free} 0 0 0 0 0 0")
            stat.write_text("\n".join([*lines, "intr 1 2 3"]))

        write(0)
        monkeypatch.setattr(time, "sleep", lambda _: write(1))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable or len(idle))))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))

    return set_up


@pytest.mark.parametrize(
    ("idle", "usable", "processes", "most", "expected"),
    [
        ((1.0,) * 8, 0, 1, 8, 8),
        ((1.0,) * 8, 0, 1, 4, 4),  # not more than torch would take
        ((1.0, 0.0, 0.1, 0.9), 0, 1, 4, 2),
        ((0.0,) * 8, 0, 1, 8, 1),
        ((0.0, 1.0), 0, 1, 2, 1),
        ((1.0,) * 16, 0, 4, 16, 4),
        ((1.0,) * 2, 0, 4, 2, 1),
        ((1.0, 1.0, 0.0, 0.0), 2, 1, 4, 2),  # the busy ones are not ours
    ],
)
def test_as_many_as_there_are_idle_cores(
    idle: tuple[float, ...],
    usable: int,
    processes: int,
    most: int,
    expected: int,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(*idle, usable=usable, processes=processes)
    monkeypatch.setattr(threads, "USUAL", most)
    assert choose_threads() == torch.get_num_threads() == expected
    machine(*idle, usable=usable, processes=processes)
    assert choose_threads() == expected  # again in the same process


def test_what_the_user_says_holds(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(0.0, 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    assert choose_threads() == choose_threads(known=2) == 3


def test_a_resumed_run_goes_on_with_its_own_number(machine: Machine) -> None:
    machine(0.0, 0.0)
    assert choose_threads(known=3) == torch.get_num_threads() == 3


def test_where_the_load_is_not_known_torch_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "STAT", Path("/nowhere"))
    assert idle_cores(5) == 5
