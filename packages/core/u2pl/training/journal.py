"""The journal of a run: one JSON line per logged step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from u2pl import distributed
from u2pl.errors import DiskError, UserError
from u2pl.evaluate.confusion import Score
from u2pl.files import parse_json, plain, replace_file

#: What to do about a journal that is no longer whole.
_BROKEN = "remove what is broken, or the file: only curves are lost"
#: What is logged of a step: numbers, or a number for each class.
Entries = dict[str, float | list[float]]


class Journal:
    """Appends lines to a file.

    Args:
        path: of the file; None writes nothing, for all processes but rank 0.
        step: lines of this step and later ones are dropped, since a resumed run writes them again.
    """

    def __init__(self, path: Path | None, step: int) -> None:
        self.path = path
        if path is not None and path.exists():
            kept = [line for line in read_journal(path) if line["step"] < step]
            replace_file(
                path,
                lambda beside: beside.write_text("".join(json.dumps(line) + "\n" for line in kept)),
            )

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


class _Evaluation(BaseModel):
    """Scores by network, after so many steps."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Score]

    step: int


class _Line(BaseModel):
    """A line: the step, and its entries or what an evaluation after it said."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | list[float | None] | None]

    step: int
    seconds: float = 0.0
    lr: float = 0.0
    evaluation: _Evaluation = None  # type: ignore[assignment]  # a default is not checked, a null is


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal, without a last one that a kill truncated.

    Raises:
        UserError: The file cannot be read, or a line in it is none of a journal.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {_BROKEN}") from None
    for number, text in enumerate(lines, 1):
        try:
            line: dict[str, Any] = parse_json(text)
        except ValueError as error:
            if number == len(lines):
                return
            raise UserError(f"{path}, line {number}: {error}; {_BROKEN}") from None
        try:
            _Line.model_validate(line)
        except ValidationError as error:
            name = " ".join(map(str, error.errors()[0]["loc"][:1])) or "a line"
            raise UserError(
                f"{path}, line {number}: {name} is none of a journal; {_BROKEN}"
            ) from None
        yield line


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
