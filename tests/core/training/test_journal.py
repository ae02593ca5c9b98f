from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from u2pl.errors import UserError
from u2pl.training.journal import Journal, numbers, read_journal


def written(path: Path, steps: int = 4) -> list[bytes]:
    """The lines of a journal of so many steps."""
    journal = Journal(path, 0)
    for step in range(steps):
        journal.write(step, loss=step / 8)
    return path.read_bytes().splitlines(keepends=True)


def losses(path: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_journal(path).lines}


@pytest.mark.parametrize(
    "rest", [b"", b'{"step": 4, "lo', b"\x00\x00", b"[1]\n\x00\n{", b"\xff\xfe"]
)
def test_a_resumed_journal_drops_what_is_written_again_and_an_end_that_is_damaged(
    rest: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "journal.jsonl"
    written(path)
    with open(path, "ab") as file:
        file.write(rest)  # what a kill cut short, or a power cut left

    journal = Journal(path, 2)
    journal.write(2, loss=9.0)
    assert losses(path) == {0: 0.0, 1: 0.125, 2: 9.0}
    assert path.read_bytes().count(b"\n") == 3
    assert len(journal.notes) == bool(rest)
    assert all(
        "line 5 cannot be read (" in n and n.endswith(", and is dropped") for n in journal.notes
    )


@pytest.mark.parametrize("end", [b"\r", b"\r\n"])
def test_lines_are_kept_whatever_they_end_in(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(written(path)).replace(b"\n", end))
    journal = Journal(path, 2)
    assert losses(path) == {0: 0.0, 1: 0.125} and not journal.notes


@pytest.mark.parametrize(
    "damage", [b"\x00\x00", b"{", b"", b"[1]", b"\xff\xfe", b'{"step": "x"}'], ids=repr
)
def test_a_damaged_line_in_the_middle_is_kept_and_named_and_none_behind_it_is_lost(
    damage: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "journal.jsonl"
    lines = written(path, 6)
    lines[2] = damage + b"\n"
    path.write_bytes(b"".join(lines))

    journal = Journal(path, 5)
    assert path.read_bytes() == b"".join(lines[:5])
    (note,) = journal.notes
    assert note.startswith(f"{path}: line 3 cannot be read (") and note.endswith("and is kept")
    lines[3] = damage + b"\n"
    path.write_bytes(b"".join(lines))
    assert "nor 1 more behind it, and is kept" in Journal(path, 4).notes[0]
    assert path.read_bytes() == b"".join(lines[:4])
    # they are of steps that are trained again: what they said is said again
    path.write_bytes(b"".join(lines))
    assert Journal(path, 1).notes == [] and path.read_bytes() == lines[0]


def test_scores_that_the_state_does_not_know_are_written_again(tmp_path: Path) -> None:
    """A run that was stopped in a scoring goes on with it, and is killed behind it."""
    path = tmp_path / "journal.jsonl"
    before = written(path)
    score = {"step": 2, "student": {"per_class_iou": [1.0], "miou": 1.0, "pixel_accuracy": 1.0}}
    Journal(path, 9).write(1, evaluation=score)
    lines = path.read_bytes().splitlines(keepends=True)
    for missing in (False, True):
        path.write_bytes(b"".join([*lines[:2], lines[-1], *lines[2:-1]]))
        Journal(path, 2, missing)
        assert path.read_bytes() == b"".join([*before[:2], *([] if missing else lines[-1:])])


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
        ("[" * 100_000, "it is nested too deep"),
        ("[1]", "it is none of a journal"),
        ('{"lr": 0.1}', "step is none of a journal"),
        ('{"step": "x"}', "step is none of a journal"),
        ('{"step": "1"}', "step is none of a journal"),
        ('{"step": true}', "step is none of a journal"),
        ('{"step": 1, "loss/sup": "y"}', "loss/sup is none of a journal"),
        ('{"step": 1, "fill": [[1]]}', "fill is none of a journal"),
        ('{"step": 1, "evaluation": null}', "evaluation is none of a journal"),
        ('{"step": 1, "evaluation": {}}', "evaluation is none of a journal"),
        ('{"step": 1, "evaluation": {"step": 2, "ema": 3}}', "evaluation is none of a journal"),
        ('{"step": 1, "\\u001b[2J": "x"}', " [2J is none of a journal"),
    ],
)
def test_a_line_that_is_none_is_named_and_the_others_are_read(
    line: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f"{GOOD}\n{line}\n{GOOD}\n")
    lines, doubt = read_journal(path)
    assert lines == [json.loads(GOOD)] * 2
    assert doubt == f"{path}: line 2 cannot be read ({says}): curves and best scores go without it"


def test_a_run_that_goes_on_may_have_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f"{GOOD}\n{GOOD[:20]}")
    assert read_journal(path) == ([json.loads(GOOD)], "")
    path.write_text(f"{GOOD}\n{GOOD[:20]}\n")
    assert "line 2 cannot be read" in read_journal(path).doubt


def test_a_journal_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.mkdir()
    for read in (read_journal, lambda path: Journal(path, 0)):
        with pytest.raises(UserError, match=r"journal\.jsonl cannot be read"):
            read(path)
