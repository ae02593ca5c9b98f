"""The run's diary: one JSON line per logged step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from u2pl import distributed
from u2pl.errors import UserError
from u2pl.files import plain, replace_file


class Journal:
    """Appends lines to a file; without a file it is silent (processes other than the first).

    Args:
        path: the file, or None.
        step: lines of this step and later ones are dropped: a resumed run writes them again.
    """

    def __init__(self, path: Path | None, step: int) -> None:
        self.path = path
        if path is not None and path.exists():
            kept = [line for line in read_journal(path) if line["step"] < step]
            replace_file(
                path,
                lambda beside: beside.write_text("".join(json.dumps(line) + "\n" for line in kept)),
            )

    def write(self, step: int, **entries: Any) -> None:
        """Append what happened up to and including a step."""
        if self.path is None:
            return
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(plain({"step": step, **entries})) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; free some space, then --resume"
            ) from error


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal; a last line that a kill cut short is left out."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def numbers(scalars: dict[str, Tensor | float]) -> dict[str, Any]:
    """Plain numbers, averaged over processes; this is where the device is waited for, once for all of them."""
    tensors = {
        name: value.detach().float() for name, value in scalars.items() if isinstance(value, Tensor)
    }
    if not tensors:
        return dict(scalars)
    flat = distributed.average(torch.cat([value.flatten() for value in tensors.values()])).tolist()
    out: dict[str, Any] = {}
    for name, value in scalars.items():
        if isinstance(value, Tensor):
            taken, flat = flat[: value.numel()], flat[value.numel() :]
            out[name] = taken[0] if value.dim() == 0 else taken
        else:
            out[name] = value
    return out
