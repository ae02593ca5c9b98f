"""The journal of a run: one JSON line per logged step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from u2pl import distributed
from u2pl.errors import DiskError
from u2pl.files import plain, replace_file

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


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal, without a last one that a kill truncated."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


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
