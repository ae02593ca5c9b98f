"""The check that a step reads nothing back sees what reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.contract import Unread

READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "float": lambda x: float(x[0]),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "assigned mask": lambda x: x.clone().__setitem__(x > 0, torch.zeros(2)),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "where": lambda x: torch.where(x > 0),
}


@pytest.mark.parametrize("name", READS)
def test_reading_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError), Unread():
        READS[name](torch.tensor([1.0, -1.0, 2.0]))


def test_working_on_the_device_is_not() -> None:
    x = torch.tensor([1.0, -1.0, 2.0])
    with Unread():
        torch.where(x > 0, x, 0.0).sort().values.index_select(0, torch.tensor([0, 2]))
        x[torch.tensor([0, 1])].masked_fill(x[:2] > 0, 0.0).cumsum(0)
