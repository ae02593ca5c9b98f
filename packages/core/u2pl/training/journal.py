"""The journal of a run: one JSON line per logged step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from u2pl import distributed
from u2pl.errors import DiskError, UserError, one_line
from u2pl.files import parse_json, plain, replace_file
from u2pl.training.history import EvaluationEntry

#: What is logged of a step: numbers, or a number for each class.
Entries = dict[str, float | list[float]]


class _Entry(BaseModel):
    """A line: the step, and its entries or what an evaluation after it said."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, float | list[float | None] | None]

    step: int
    seconds: float = 0.0
    lr: float = 0.0
    #: A default is not checked, a null is.
    evaluation: EvaluationEntry = None  # type: ignore[assignment]


class _Line(NamedTuple):
    """A line as it stands in the file, and what it says."""

    number: int  # from 1
    text: bytes
    entry: dict[str, Any] | None  # None: it cannot be read
    reason: str = ""  # why not
    torn: bool = False  # whether it is a last one without an end


class Reading(NamedTuple):
    """What a journal says."""

    lines: list[dict[str, Any]]
    doubt: str  # what cannot be read of it, for a person; empty if all can


class Journal:
    """Appends lines to a file.

    Of an older journal what a run that goes on writes again is dropped; so is an end that cannot be
    read. What cannot be read before that is kept as it is.

    Args:
        path: of the file; None writes nothing, for all processes but rank 0.
        step: the first one that is written.
        scores_missing: whether the scores after the step before it are written too.

    Raises UserError if the file cannot be read.
    """

    def __init__(self, path: Path | None, step: int, scores_missing: bool = False) -> None:
        self.path = path
        #: What is wrong with the older journal, for a person.
        self.notes: list[str] = []
        if path is None or not path.exists():
            return
        lines = _read(path)
        # the line of the last one that can be read
        end = max((line.number for line in lines if line.entry is not None), default=0)

        def comes_again(entry: dict[str, Any]) -> bool:
            scores = "evaluation" in entry and entry["step"] == step - 1
            return entry["step"] >= step or (scores and scores_missing)

        later = (line.number for line in lines if line.entry and comes_again(line.entry))
        again = min(later, default=end)
        broken = [line for line in lines if line.entry is None and line.number < again]
        kept = [*broken, *(line for line in lines if line.entry and not comes_again(line.entry))]
        if broken:
            self.notes.append(f"{path}: {_unread(broken)}, and is kept")
        if len(lines) > end:
            self.notes.append(f"{path}: {_unread(lines[end:])}, and is dropped")
        replace_file(path, b"".join(line.text + b"\n" for line in sorted(kept)))

    def write(self, step: int, **entries: object) -> None:
        """Append the entries of a step; DiskError if the disk is full."""
        if self.path is None:
            return
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(plain({"step": step, **entries})) + "\n")
        except OSError as error:
            raise DiskError(
                f"cannot write {self.path}: {error.strerror}; free some space"
            ) from error


def read_journal(path: Path) -> Reading:
    """The lines of a journal, and what of it cannot be read.

    A last line that is half written is no doubt: the run goes on, or was killed.

    Raises:
        UserError: The file cannot be read.
    """
    lines = _read(path)
    broken = [line for line in lines if line.entry is None and not line.torn]
    doubt = f"{path}: {_unread(broken)}: curves and best scores go without it" if broken else ""
    return Reading([line.entry for line in lines if line.entry is not None], doubt)


def _read(path: Path) -> list[_Line]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); mend that, or remove it: only curves are "
            "lost"
        ) from None
    # whatever another program made of the ends of lines
    *whole, last = text.splitlines() or [b""]
    torn = not text.endswith((b"\n", b"\r"))
    lines = [_parse(number, text) for number, text in enumerate(whole, 1)]
    return [*lines, _parse(len(whole) + 1, last, torn)] if last or not torn else lines


def _parse(number: int, text: bytes, torn: bool = False) -> _Line:
    try:
        entry: dict[str, Any] = parse_json(text)
        _Entry.model_validate(entry)
    except ValidationError as error:
        name = " ".join(map(str, error.errors()[0]["loc"][:1])) or "it"
        return _Line(number, text, None, f"{one_line(name)} is none of a journal", torn)
    except ValueError as error:
        return _Line(number, text, None, getattr(error, "msg", str(error)), torn)
    return _Line(number, text, entry)


def _unread(broken: Sequence[_Line]) -> str:
    """Which lines cannot be read, and why not the first of them."""
    first = broken[0]
    more = f", nor {len(broken) - 1} more behind it" if broken[1:] else ""
    return f"line {first.number} cannot be read ({first.reason}){more}"


def numbers(scalars: dict[str, Tensor | float]) -> Entries:
    """The scalars as plain numbers, averaged over processes; synchronises once with the device."""
    tensors = {
        name: value.detach().float() for name, value in scalars.items() if isinstance(value, Tensor)
    }
    joined = [value.flatten() for value in tensors.values()]
    flat = distributed.average(torch.cat(joined)).tolist() if joined else []
    out: Entries = {}
    for name, value in scalars.items():
        if isinstance(value, Tensor):
            taken, flat = flat[: value.numel()], flat[value.numel() :]
            out[name] = taken[0] if value.dim() == 0 else taken
        else:
            out[name] = value
    return out
