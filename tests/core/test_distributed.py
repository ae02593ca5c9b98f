from __future__ import annotations

import pytest
import torch

from u2pl import distributed


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
