"""How many threads to compute with on a machine that others use too."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

#: Threads that torch would take by itself.
USUAL = torch.get_num_threads()
#: Seconds in which the load is looked at.
LOOK = 0.2
STAT = Path("/proc/stat")


def choose_threads(known: int = 0) -> int:
    """Set torch's number of threads, unless `OMP_NUM_THREADS` does, and return it.

    A busy core costs more than it gives: threads wait for the slowest of them. So as many are taken
    as there are idle cores, shared by the processes of this machine, and at least one.

    Args:
        known: what a run began with, to go on with the same rounding; 0 for a new one.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(known or idle_cores(USUAL))
    return torch.get_num_threads()


def idle_cores(most: int) -> int:
    """Cores that this process may use and nobody does, from 1 to `most`; all if it is not known."""
    try:
        usable, before = os.sched_getaffinity(0), _times()
        time.sleep(LOOK)
        after = _times()
        idle = sum(
            (after[core][0] - before[core][0]) / max(after[core][1] - before[core][1], 1)
            for core in usable
        )
    except (AttributeError, OSError, KeyError, ValueError):  # not Linux
        return most
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(most, round(idle)) // processes)


def _times() -> dict[int, tuple[int, int]]:
    """Idle time and all time of each core since the machine started, in ticks."""
    found: dict[int, tuple[int, int]] = {}
    for line in STAT.read_text(encoding="ascii").splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            numbers = [int(tick) for tick in ticks[:8]]
            found[int(name[3:])] = numbers[3] + numbers[4], sum(numbers)
    return found
