"""Tensors by name in a safetensors file, with a digest that tells whether they are as written.

The digest is over facts, names, types, shapes and numbers and stands in the header's metadata, so
any reader of safetensors reads the file. Files of others have none: their tensors are taken as they
are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from u2pl.files import Content

#: Entry of the metadata that holds the digest.
SHA256 = "sha256"
#: Types of numbers as safetensors spells them.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
#: What is said of a file without a digest.
UNCHECKED = "has no digest, so damage cannot be told: an older version wrote it, or somebody else"
#: Stands for the digest until it is known.
_UNKNOWN = "0" * 64
#: How a header with a digest begins.
_START = f'{{"__metadata__":{{"{SHA256}":"'


class Damaged(Exception):
    """What is wrong with a file, in words without its name."""


class Kind(NamedTuple):
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: str  # as safetensors spells it

    @classmethod
    def of(cls, value: Tensor) -> Kind:
        """A tensor's."""
        return cls(tuple(value.shape), DTYPES.get(value.dtype, str(value.dtype)))

    def __str__(self) -> str:
        return f"{self.dtype} {[*self.shape]}"


class Held(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    facts: dict[str, str]
    checked: bool  # whether a digest told that all is as it was written


def tensor_file(tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> Content:
    """The content of a file, for `replace_file` and `replace_folder`.

    One tensor after the other is copied to the CPU and made contiguous when it is written.

    Args:
        tensors: by name, on any device; of a type in `DTYPES`.
        facts: texts by name.
    """
    return partial(_write, dict(tensors), dict(facts or {}))


def read_tensors(path: Path) -> Held:
    """What a file holds, in memory mapped to it; Damaged if that is not what was written."""
    try:
        with safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise Damaged(str(error)) from error
    said = facts.pop(SHA256, None)
    if said is not None and said != _digest(tensors, facts).hexdigest():
        raise Damaged("its content is not what was written there: the SHA-256 is another one")
    return Held(tensors, facts, said is not None)


def read_facts(path: Path) -> dict[str, str]:
    """The facts of a file, unchecked and without reading its tensors; Damaged if it has none."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise Damaged(str(error)) from error


def read_kinds(path: Path) -> dict[str, Kind]:
    """Shape and type of each tensor of a file, without reading any; Damaged if it is none."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {k: Kind(tuple(v.get_shape()), v.get_dtype()) for k, v in slices.items()}
    except (OSError, SafetensorError) as error:
        raise Damaged(str(error)) from error


def differing(wanted: Mapping[str, Kind], found: Mapping[str, Kind]) -> str:
    """How some tensors differ from those that are wanted, in words; nothing if they do not."""
    wrong = sorted(wanted.keys() ^ found.keys()) or [k for k in wanted if wanted[k] != found[k]]
    if not wrong:
        return ""
    name, said = wrong[0], ""
    if name in wanted and name in found:
        said = f" ({found[name]}, not {wanted[name]})"
    return (
        f"{len(wrong)} tensors are missing, unknown or of another shape or type; first: "
        f"{name}{said}"
    )


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Which tensors hold a number that is NaN or infinite, in words; nothing if none does."""
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if not broken:
        return ""
    return f"numbers that are not finite, in {len(broken)} tensors; first: {broken[0]}"


def _write(tensors: Mapping[str, Tensor], facts: Mapping[str, str], file: BinaryIO) -> None:
    """Write and hash in one pass; the digest takes its place in the header at the end."""
    entries: dict[str, object] = {}
    end = 0
    for name, value in _in_order(tensors):
        begin, end = end, end + value.numel() * value.element_size()
        kind = Kind.of(value)
        assert value.dtype in DTYPES, f"{name}: {value.dtype}"
        entries[name] = {"dtype": kind.dtype, "shape": kind.shape, "data_offsets": (begin, end)}
    header = {"__metadata__": {SHA256: _UNKNOWN, **facts}, **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    file.write(len(text).to_bytes(8, "little") + text)
    found = _digest(tensors, facts, file)
    file.seek(8 + len(_START))
    file.write(found.hexdigest().encode())
    file.seek(0, 2)


def _digest(
    tensors: Mapping[str, Tensor], facts: Mapping[str, str], file: BinaryIO | None = None
) -> hashlib._Hash:
    """SHA-256 over what is told about some tensors, then over their bytes, written on the way."""
    ordered = _in_order(tensors)
    told = [sorted(facts.items()), [(name, *Kind.of(value)) for name, value in ordered]]
    found = hashlib.sha256(json.dumps(told).encode())
    for _, value in ordered:
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        data = flat.numpy().data
        found.update(data)
        if file is not None:
            file.write(data)
    return found


def _in_order(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The widest numbers first, so that each tensor begins at a multiple of its numbers' size."""
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
