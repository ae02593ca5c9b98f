from __future__ import annotations

from pathlib import Path

import pytest
import torch

from u2pl.errors import UserError
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


GOOD = '{"step": 0, "lr": 0.1, "fill": [0.5, null], "seconds": 1.5}'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("\x00\x00", "line 2: Expecting value"),
        ("[" * 100_000, "line 2: it is nested too deep"),
        ("[1]", "line 2: a line is none of a journal"),
        ('{"lr": 0.1}', "line 2: step is none of a journal"),
        ('{"step": "x"}', "line 2: step is none of a journal"),
        ('{"step": 1, "loss/sup": "y"}', "line 2: loss/sup is none of a journal"),
        ('{"step": 1, "fill": [[1]]}', "line 2: fill is none of a journal"),
        ('{"step": 1, "evaluation": null}', "line 2: evaluation is none of a journal"),
        ('{"step": 1, "evaluation": {}}', "line 2: evaluation is none of a journal"),
        ('{"step": 1, "evaluation": {"step": 2, "ema": 3}}', "line 2: evaluation is none of"),
    ],
)
def test_a_line_that_is_none_is_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f"{GOOD}\n{line}\n{GOOD}\n")
    with pytest.raises(UserError) as refused:
        list(read_journal(path))
    assert says in str(refused.value) and "remove what is broken" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_text_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"journal\.jsonl cannot be read"):
        list(read_journal(path))
