"""Two processes that train together, played by two threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor


class Twins:
    """Runs a function as rank 0 and as rank 1 at the same time; `gather` and `total` then mean what `u2pl.distributed` says."""

    def __init__(self) -> None:
        self._here = threading.local()
        self._sent: list[Tensor] = [torch.empty(0)] * 2
        self._meeting = threading.Barrier(2, timeout=20)

    def run(self, function: Callable[[int], Any]) -> list[Any]:
        def enter(rank: int) -> Any:
            self._here.rank = rank
            try:
                return function(rank)
            except BaseException:
                self._meeting.abort()
                raise

        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(enter, rank) for rank in (0, 1)]
            return [future.result() for future in futures]

    def rank(self) -> int:
        return self._here.rank

    def gather(self, value: Tensor) -> Tensor:
        return torch.cat(self._exchange(value))

    def total(self, value: Tensor) -> Tensor:
        first, second = self._exchange(value)
        return first + second

    def _exchange(self, value: Tensor) -> list[Tensor]:
        self._sent[self.rank()] = value.detach()
        self._meeting.wait()
        both = list(self._sent)
        self._meeting.wait()
        return both


@pytest.fixture
def twins() -> Twins:
    return Twins()
