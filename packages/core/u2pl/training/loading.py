"""The batches of a run, and one line for what ends its data workers or its other processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from u2pl import distributed
from u2pl.counting import amount
from u2pl.errors import LoadingError, LostError, UserError

#: Where workers hand batches over.
SHARED = Path("/dev/shm")
#: Signals by which a run is asked to stop. A terminal or a scheduler sends them to the whole group,
#: so workers leave them to the process that trains: ended, they would abort the step in progress.
STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)
#: Batches that a worker has ready in front of the one in use.
_AHEAD = 2
#: Seconds in which the system is done with a worker that it ends.
_ENDING = 1.0


def load_batches(
    dataset: Dataset[tuple[Tensor, ...]],
    sampler: Sampler[list[int]],
    workers: int,
    device: torch.device,
) -> Generator[tuple[Tensor, ...]]:
    """The batches at the sampler's positions, on the device.

    However this ends, no worker is left: close it.

    Raises LoadingError for what the dataset cannot read, and if a worker is ended while it hands
    a batch over.
    """
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals,
    )
    batches: Any = iter(loader)
    try:
        for batch in batches:
            yield type(batch)(*(tensor.to(device, non_blocking=True) for tensor in batch))
    except UserError as error:  # from a worker the message starts with the worker's traceback
        prefix = rf"^{re.escape(UserError.__module__)}\.\w+: "
        raise LoadingError(re.sub(prefix, "", str(error).rstrip().splitlines()[-1])) from None
    except (ConnectionError, EOFError, FileNotFoundError):  # what its end of the line may leave
        if not wait([worker.sentinel for worker in getattr(batches, "_workers", [])], _ENDING):
            raise
        raise LoadingError(_ended(workers)) from None
    finally:
        _end_workers(batches)


@contextmanager
def worker_failures(workers: int) -> Iterator[None]:
    """Say in one line that workers were ended by the system, or could not hand over a batch.

    PyTorch raises what ends a worker wherever the training process is at that moment.

    Args:
        workers: of this process.

    Raises LoadingError instead of such errors.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        words = _failure(str(error), workers) if workers else None
        if words is None:
            raise
        raise LoadingError(words) from None


@contextmanager
def peer_failures() -> Iterator[None]:
    """Say in one line that another process of the run has ended, or its machine is gone.

    Raises LostError instead of such errors.
    """
    try:
        yield
    except RuntimeError as error:
        if not distributed.is_peer_lost(error):
            raise
        raise LostError(
            "another process of this run has ended or does not answer; if it says nothing itself, "
            "the system or the launcher ended it"
        ) from None


def check_shared_memory(dataset: Dataset[tuple[Tensor, ...]], batch: int, workers: int) -> None:
    """UserError if the batches that workers have ready do not fit where they hand them over.

    Containers often have 64 MB there.

    Args:
        dataset: of samples, one of which is made.
        batch: samples of a batch.
        workers: of this process.
    """
    if not workers or not SHARED.is_dir():
        return
    batch_bytes = batch * sum(tensor.nbytes for tensor in dataset[0])
    room, needed = shutil.disk_usage(SHARED).free, workers * _AHEAD * batch_bytes
    if room < needed:
        fitting = room // (_AHEAD * batch_bytes)
        raise UserError(
            f"{SHARED} has {amount(room)} free, and the data workers need {amount(needed)} there: "
            f"set data.workers={fitting}, or give the container more (docker run --shm-size=2g)"
        )


def _failure(text: str, workers: int) -> str | None:
    """What to say of an error of PyTorch's; None if it is none of a worker."""
    fewer = _fewer(workers)
    if re.search(r"shared memory|Bus error|torch_\S+.*No space left", text):
        room = amount(shutil.disk_usage(SHARED).total) if SHARED.is_dir() else "too little"
        return (
            f"the data workers cannot hand over a batch: {SHARED} has {room}; {fewer}, or give the "
            "container more (docker run --shm-size=2g)"
        )
    if re.search(r"DataLoader worker \(pid\S* [\d, ]+\) (is killed by signal: |exited)", text):
        return _ended(workers)
    if "Too many open files" in text:
        return f"the system allows too few open files (ulimit -n) for the data workers: {fewer}"
    return None


def _ended(workers: int) -> str:
    return f"the system ended a data worker, mostly because the memory was full: {_fewer(workers)}"


def _fewer(workers: int) -> str:
    return f"set fewer data.workers than {workers}, 0 for none"


def _leave_signals(worker: int) -> None:
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)


def _end_workers(batches: Any) -> None:
    """End the workers of a loader's iterator, also if an error's frames keep it alive."""
    workers = getattr(batches, "_workers", [])
    if workers:
        batches._shutdown_workers()
    for worker in workers:  # the loader ends them by SIGTERM, which they ignore
        if worker.is_alive():
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
