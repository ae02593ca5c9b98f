from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from u2pl import distributed
from u2pl.errors import LostError
from u2pl.training.loading import peer_failures


@pytest.mark.parametrize(
    ("world", "backend", "expected"),
    [
        (1, "nccl", "cpu"),
        (1, "gloo", "cpu"),
        (2, "gloo", "cpu"),
        (2, "nccl", "cuda"),
        (8, "nccl", "cuda"),
    ],
)
def test_tensors_are_sent_from_where_the_backend_takes_them(monkeypatch, world, backend, expected):
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: backend)
    assert distributed.device() == torch.device(expected)


def tensors(rank: int) -> list[torch.Tensor]:
    return [
        torch.full((2, 3), 1.0 + rank),
        torch.full((), 4.0 * rank),
        torch.tensor([8.0, 16.0], dtype=torch.float16) * (rank + 1),
    ]


def test_one_process_has_its_own_averages():
    values = tensors(1)
    distributed.average_all(values)
    assert all(torch.equal(a, b) for a, b in zip(values, tensors(1), strict=True))


def test_averages_of_all_tensors_are_written_into_them_after_one_exchange(connected, monkeypatch):
    exchanged, total = [], connected.total
    monkeypatch.setattr(
        distributed, "total", lambda value: exchanged.append(value.shape) or total(value)
    )
    values = [tensors(rank) for rank in (0, 1)]
    addresses = [value.data_ptr() for own in values for value in own]
    connected.run(lambda rank: distributed.average_all(values[rank]))
    assert exchanged == [(9,)] * 2  # one of each process
    assert addresses == [value.data_ptr() for own in values for value in own]
    for own in values:
        assert torch.equal(own[0], torch.full((2, 3), 1.5)) and own[1] == 2
        assert own[2].dtype == torch.float16 and own[2].tolist() == [12, 24]


def test_nothing_to_average_is_no_exchange(connected, monkeypatch):
    monkeypatch.setattr(distributed, "total", lambda value: pytest.fail("exchanged"))
    connected.run(lambda rank: distributed.average_all([]))


@pytest.mark.parametrize("world", [1, 2])
def test_all_processes_say_what_the_first_one_does(monkeypatch, world):
    def broadcast(said, device):
        assert world > 1 and device == torch.device("cpu")
        said[0] = "runs/a-7"

    monkeypatch.setattr(distributed, "world_size", lambda: world)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    monkeypatch.setattr("torch.distributed.broadcast_object_list", broadcast)
    assert distributed.from_first("mine") == ("mine" if world == 1 else "runs/a-7")


@pytest.mark.parametrize("dies", [True, False])
def test_a_process_that_is_gone_or_silent_is_one_line_within_the_longest_wait(
    dies: bool, tmp_path: Path
) -> None:
    """Two connected processes; a machine that disappears does not close its connections."""

    def connect(rank: int) -> None:
        store = dist.FileStore(str(tmp_path / "store"), 2)
        wait = timedelta(seconds=10 if dies else 1)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=wait)

    other = os.fork()
    if other == 0:
        try:
            connect(1)
            distributed.barrier()
            os.kill(os.getpid(), signal.SIGKILL if dies else signal.SIGSTOP)
        finally:
            os._exit(1)
    try:
        connect(0)
        distributed.barrier()
        with pytest.raises(LostError, match=r"^another process of this run"), peer_failures():
            distributed.total(torch.ones(1))
    finally:
        dist.destroy_process_group()
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
