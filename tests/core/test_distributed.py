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
