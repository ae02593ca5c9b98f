"""Batches from workers: whatever happens to these is one line, and none of them is left."""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributed import DistBackendError
from torch.utils.data import Dataset

from u2pl.data.streams import StepSampler
from u2pl.errors import LoadingError, LostError, UserError
from u2pl.training import loading
from u2pl.training.loading import check_shared_memory, load_batches, peer_failures, worker_failures


class Sample(NamedTuple):
    """A sample, or a batch of them."""

    number: Tensor


class Failing(Dataset[tuple[Tensor, ...]]):
    """Samples of one number; something happens at number 4."""

    def __init__(self, fail: Callable[[], object]) -> None:
        self.fail = fail

    def __getitem__(self, position: int) -> tuple[Tensor, ...]:
        if position == 4:
            self.fail()
        return Sample(torch.tensor(position))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise UserError("4.png cannot be decoded: replace the file")


def fail() -> None:
    raise RuntimeError("a mistake of the program")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not answer is waited for a moment instead of five seconds."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)


def load(fail: Callable[[], object], workers: int = 1) -> list[list[int]]:
    """The numbers of all batches of two."""
    found = []
    batches = load_batches(Failing(fail), StepSampler(0, 5, 2), workers, torch.device("cpu"))
    try:
        with worker_failures(workers):
            for (numbers,) in batches:
                found.append(numbers.tolist())
    finally:
        batches.close()
    return found


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order_and_leave_no_worker(workers: int) -> None:
    before = active_children()
    assert load(lambda: None, workers) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert active_children() == before


@pytest.mark.parametrize(
    ("fail", "kind", "says"),
    [
        (refuse, LoadingError, "^4.png cannot be decoded: replace the file$"),
        (die, LoadingError, "^the system ended a data worker, .* fewer data.workers than 1, 0"),
        (fail, RuntimeError, "a mistake of the program"),
    ],
)
def test_what_happens_in_a_worker_is_said_and_ends_it(
    fail: Callable[[], object], kind: type[Exception], says: str
) -> None:
    before = active_children()
    with pytest.raises(kind, match=says) as caught:
        load(fail)
    assert active_children() == before
    assert (type(caught.value) is RuntimeError) == (fail is not refuse and fail is not die)


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), ConnectionRefusedError(), EOFError(), FileNotFoundError()]
)
@pytest.mark.parametrize("ended", [True, False])
def test_a_worker_may_end_while_it_hands_a_batch_over(
    monkeypatch: pytest.MonkeyPatch, error: Exception, ended: bool
) -> None:
    """Tensors follow through a socket of the worker's, which then fails as sockets do."""
    monkeypatch.setattr(loading, "_ENDING", 5 if ended else 0.1)
    before = active_children()
    batches = load_batches(Failing(lambda: None), StepSampler(0, 5, 2), 1, torch.device("cpu"))
    next(batches)
    (worker,) = set(active_children()) - set(before)

    def receive(queue: object, timeout: float) -> object:
        if ended:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
        raise error

    monkeypatch.setattr("multiprocessing.queues.Queue.get", receive)
    seen = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # by which PyTorch sees the end sooner
    try:
        with pytest.raises(LoadingError if ended else type(error)) as caught:
            next(batches)
    finally:
        signal.signal(signal.SIGCHLD, seen)
    assert str(caught.value).startswith("the system ended a data worker" if ended else "")
    assert active_children() == before


def test_a_worker_that_does_not_answer_is_ended() -> None:
    before, begin = active_children(), time.monotonic()
    batches = load_batches(
        Failing(lambda: time.sleep(600)), StepSampler(0, 5, 2), 1, torch.device("cpu")
    )
    assert next(batches)[0].tolist() == [0, 1]
    batches.close()
    assert active_children() == before and time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: ..."),
            "hand",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. ..."),
            "hand over",
        ),
        (OSError(errno.ENOSPC, "No space left on device: '/dev/shm/torch_1'"), None),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "the system ended"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("shapes do not match"), None),
    ],
)
def test_errors_of_workers_are_one_line_and_others_stay(error: Exception, says: str | None) -> None:
    kind = type(error) if says is None else LoadingError
    with pytest.raises(kind, match=re.escape(says or str(error))), worker_failures(3):
        raise error
    with pytest.raises(type(error)), worker_failures(0):  # without workers it is none of theirs
        raise error


def test_too_little_shared_memory_is_said_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = (torch.zeros(3, 100, 100), torch.zeros(100, 100))  # 160 kB
    dataset: Dataset[tuple[Tensor, ...]] = [sample]  # type: ignore[assignment]
    monkeypatch.setattr(loading, "SHARED", tmp_path)
    free = 2 * 2 * 5 * 160_000
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    check_shared_memory(dataset, 5, 2)
    check_shared_memory(dataset, 500, 0)
    with pytest.raises(UserError, match=r"3\.2 MB free, .* need 4\.8 MB .*workers=2,"):
        check_shared_memory(dataset, 5, 3)
    monkeypatch.setattr(loading, "SHARED", tmp_path / "none")  # not every system has such a place
    check_shared_memory(dataset, 5, 3)


@pytest.mark.parametrize(
    ("error", "connected", "announced", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer"), 2, 2, True),
        (RuntimeError("Gloo connectFullMesh failed with [gloo/transport/tcp/pair.cc]"), 1, 2, True),
        (DistBackendError("NCCL communicator was aborted on rank 0"), 2, 2, True),
        (RuntimeError("shapes do not match"), 2, 2, False),
        (RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer"), 1, 1, False),
    ],
)
def test_the_end_of_another_process_is_one_line(
    error: RuntimeError, connected: int, announced: int, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("u2pl.distributed.world_size", lambda: connected)
    monkeypatch.setenv("WORLD_SIZE", str(announced))
    with pytest.raises(LostError if lost else type(error)), peer_failures():
        raise error
