"""Results that take a while, kept in the user's cache folder for the next run.

The folder is that of `cache_folder`. A file that is damaged, of
another key or not there counts as absent, and one that cannot be written is not missed: the work is
then done again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from u2pl.errors import UserError
from u2pl.files import cache_folder, replace_file
from u2pl.tensor_file import Damaged, read_tensors, tensor_file


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and values of tensors, sorted by name: 64 hex digits."""
    found = hashlib.sha256()
    for key in sorted(state):
        found.update(key.encode())
        values = state[key].detach().cpu().contiguous().view(-1).view(torch.uint8)
        found.update(values.numpy().tobytes())
    return found.hexdigest()


def load_cached(name: str, key: str) -> dict[str, Tensor] | None:
    """What `store_cached` has kept under this name and key, or None."""
    file = _file(name, key)
    if file is None:
        return None
    try:
        held = read_tensors(file)
    except Damaged:
        return None
    return held.tensors if held.checked and held.facts == {"key": key} else None


def store_cached(name: str, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Keep some tensors for the next run, if the folder can be written.

    Args:
        name: of the kind of result.
        key: what it follows from; part of the file's name.
        tensors: at least one.
    """
    file = _file(name, key)
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, tensor_file(tensors, {"key": key}))
    except (OSError, UserError):
        pass


def _file(name: str, key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / f"{name}-{key}.safetensors"
