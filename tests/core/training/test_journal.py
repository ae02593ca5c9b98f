from __future__ import annotations

from pathlib import Path

import pytest
import torch

from u2pl.training.journal import Journal, numbers, read_journal


@pytest.mark.parametrize("rest", ["", '{"step": 4, "lo', "\x00\x00"])
def test_a_resumed_journal_drops_what_is_written_again(rest: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, 0)
    for step in range(4):
        journal.write(step, loss=step / 8)
    with open(path, "a") as file:
        file.write(rest)  # what a kill cut short

    Journal(path, 2).write(2, loss=9.0)
    assert list(read_journal(path)) == [
        {"step": 0, "loss": 0.0},
        {"step": 1, "loss": 0.125},
        {"step": 2, "loss": 9.0},
    ]


def test_a_journal_without_a_file_is_silent() -> None:
    Journal(None, 0).write(1, loss=1.0)


def test_numbers_keep_their_names_order_and_shape() -> None:
    scalars = {
        "a": torch.tensor(2.5),
        "lr": 0.5,
        "per_class": torch.tensor([1, 2, 3]),
        "one": torch.tensor([4.0]),
        "b": torch.tensor(True),
    }
    assert numbers(scalars) == {
        "a": 2.5,
        "lr": 0.5,
        "per_class": [1.0, 2.0, 3.0],
        "one": [4.0],
        "b": 1.0,
    }
    assert list(numbers(scalars)) == list(scalars)
    assert numbers({"lr": 0.5}) == {"lr": 0.5}
