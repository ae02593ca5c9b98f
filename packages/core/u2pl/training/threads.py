"""How many threads to compute with on a machine that others use too."""

from __future__ import annotations

import os

import torch


def choose_threads(known: int = 0) -> int:
    """Set torch's number of threads, unless `OMP_NUM_THREADS` does, and return it.

    A busy core costs more than it gives: threads wait for the slowest of them. So as many are taken
    as there are cores without load, shared by the processes of this machine, and at least one.

    Args:
        known: what a run began with, to go on with the same rounding; 0 for a new one.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(known or free_cores(torch.get_num_threads()))
    return torch.get_num_threads()


def free_cores(most: int) -> int:
    """Cores of this process without load in the last minute; from 1 to `most`."""
    try:
        usable, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    except (AttributeError, OSError):  # not Linux
        return most
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(most, round(usable - load)) // processes)
