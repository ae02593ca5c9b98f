"""Pixels of each class in each mask: counted once, then kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from u2pl import distributed
from u2pl.counting import OnProgress
from u2pl.data.source import Source
from u2pl.errors import UserError
from u2pl.files import replace_file
from u2pl.notation import IGNORE

# Increase whenever the same files decode to different masks.
_FORMAT = 1


def class_counts(
    source: Source,
    ids: Sequence[str],
    progress: OnProgress | None = None,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Count the pixels of each class in each mask: int64 [len(ids), C]; 255 is not counted.

    Each process decodes its share of the masks. The counts are cached in $U2PL_CACHE, else
    $XDG_CACHE_HOME/u2pl, else ~/.cache/u2pl, under the source's fingerprint and the ids. The
    fingerprint covers names and sizes of the files, not their content: a mask edited without
    changing its size in bytes keeps its old counts until the cached file is deleted. If the cached
    file is damaged or the folder not writable, the masks are counted again.

    Args:
        source: where the masks come from.
        ids: images with masks.
        progress: called after each mask of this process with the numbers done and to do.
        device: where processes exchange their counts.

    Raises UserError on every process if a mask is missing or broken.
    """
    key, shape = _key(source, ids), (len(ids), len(source.classes))
    folder = _cache_folder()
    file = folder / f"class-counts-{key}.safetensors" if folder else None
    cached = _load(file, key, shape) if file else None
    # Each process may see another disk, but either all of them count or none does.
    if (
        distributed.gather(torch.tensor([cached is not None], device=device)).all()
        and cached is not None
    ):
        return cached
    counts = _count(source, ids, progress, device)
    if file and distributed.rank() == 0:
        _store(file, key, counts)
    return counts


def _count(
    source: Source, ids: Sequence[str], progress: OnProgress | None, device: torch.device | str
) -> np.ndarray:
    share = -(-len(ids) // distributed.world_size())
    own = ids[distributed.rank() * share :][:share]
    # Shares are padded to equal length; the padding comes last, behind the rows of all ids.
    rows = np.zeros((share, len(source.classes)), np.int64)
    for done, id in enumerate(own):
        try:
            rows[done] = _pixels(source, id)
        except UserError:
            rows[done : len(own)] = -1
            break
        if progress is not None:
            progress(done + 1, len(own))
    counts = distributed.gather(torch.from_numpy(rows).to(device)).cpu().numpy()[: len(ids)]
    # All processes open a broken mask again: each raises its error, and none waits for another.
    for row in np.flatnonzero(counts[:, 0] < 0).tolist():
        counts[row] = _pixels(source, ids[row])
    return counts


def _pixels(source: Source, id: str) -> np.ndarray:
    return np.bincount(source.mask(id).ravel(), minlength=IGNORE + 1)[: len(source.classes)]


def _key(source: Source, ids: Sequence[str]) -> str:
    # Includes the source's class: two classes may decode the same file differently.
    listed = hashlib.sha256(
        "\n".join((str(_FORMAT), type(source).__name__, *ids)).encode()
    ).hexdigest()
    return f"{source.fingerprint()}-{listed[:12]}"


def _cache_folder() -> Path | None:
    """None if the user has no home folder."""
    try:
        if os.environ.get("U2PL_CACHE"):
            return Path(os.environ["U2PL_CACHE"]).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "u2pl"
    except RuntimeError:
        return None


def _load(file: Path, key: str, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        with safe_open(file, framework="numpy") as stored:
            facts, counts = stored.metadata(), stored.get_tensor("counts")
    except (OSError, SafetensorError):
        return None
    fits = counts.shape == shape and counts.dtype == np.int64 and facts == _facts(key, counts)
    return counts if fits else None


def _store(file: Path, key: str, counts: np.ndarray) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(
            file, lambda beside: beside.write_bytes(save({"counts": counts}, _facts(key, counts)))
        )
    except (OSError, UserError):
        pass  # the next run counts again


def _facts(key: str, counts: np.ndarray) -> dict[str, str]:
    return {"key": key, "sha256": hashlib.sha256(counts.tobytes()).hexdigest()}
