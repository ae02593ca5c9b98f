"""Files that somebody has damaged: each ends in one line, or is still what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.errors import UserError, one_line


def spoilt(text: str, times: int, seed: int = 0) -> Iterator[str]:
    """The text with some other characters, or cut short, or with a piece of it twice."""
    draw = np.random.default_rng(seed)
    for turn in range(times):
        begin, end = sorted(draw.integers(len(text), size=2).tolist())
        if turn % 5 == 0:
            yield text[:begin]
        elif turn % 5 == 1:
            yield text[:end] + text[begin:]
        else:
            changed = list(text)
            for place in draw.integers(len(text), size=draw.integers(1, 4)):
                changed[place] = chr(draw.integers(32, 127))
            yield "".join(changed)


def outcome(text: str) -> str:
    """What becomes of a source: "masks", or the error, of which a person is shown one line."""
    try:
        source = open_source(text)
        look_at_all(source)
    except UserError as error:
        assert one_line(str(error)) == str(error), str(error)
        return str(error)
    return "masks"


def look_at_all(source: Source) -> None:
    """Decode all images and masks, and check what a source promises of them."""
    for id in source.ids():
        size = source.image(id).size
        if source.has_mask(id):
            mask = source.mask(id)
            assert mask.dtype == np.uint8 and mask.shape == size[::-1]
            assert set(np.unique(mask).tolist()) <= {*range(len(source.classes)), 255}


def complaints(text: str, file: Path, content: str, times: int = 120) -> set[str]:
    """The kinds of outcomes of a source, after a file of it was damaged in several ways.

    Args:
        text: what opens the source.
        file: which is written anew each time.
        content: of the undamaged file.
        times: how often it is damaged.
    """
    kinds = set()
    for changed in spoilt(content, times):
        file.write_text(changed)
        found = outcome(text)
        kinds.add("masks" if found == "masks" else "error")
    return kinds
