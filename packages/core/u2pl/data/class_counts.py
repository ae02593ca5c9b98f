"""Pixels of each class in each mask: counted once, then kept in the user's cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from u2pl import distributed
from u2pl.cache import load_cached, store_cached
from u2pl.counting import OnProgress
from u2pl.data.source import Source
from u2pl.errors import UserError
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

    Each process decodes its share of the masks. The counts are cached (`u2pl.cache`) under the
    source's fingerprint and the ids. The fingerprint covers names and sizes of the files, not their
    content: a mask edited without changing its size in bytes keeps its old counts until the cached
    file is deleted.

    Args:
        source: where the masks come from.
        ids: images with masks.
        progress: called after each mask of this process with the numbers done and to do.
        device: where processes exchange their counts.

    Raises UserError on every process if a mask is missing or broken.
    """
    key, shape = _key(source, ids), (len(ids), len(source.classes))
    stored = (load_cached("class-counts", key) or {}).get("counts")
    fits = stored is not None and stored.shape == shape and stored.dtype == torch.int64
    # Each process may see another disk, but either all of them count or none does.
    everywhere = distributed.gather(torch.tensor([fits], device=device)).all()
    if stored is not None and everywhere:
        return stored.numpy()
    counts = _count(source, ids, progress, device)
    if distributed.rank() == 0:
        store_cached("class-counts", key, {"counts": torch.from_numpy(counts)})
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
