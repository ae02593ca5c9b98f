"""Lists of image ids: reading, matching, checking; holding out images if there is no list."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from u2pl.errors import UserError

Item = TypeVar("Item")

#: Endings of images, for training and predicting alike: what Pillow reads as it is installed.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".gif", ".jp2", ".avif", ".ppm", ".pgm"),
)
#: Characters of a line: more than two paths may have.
LONGEST = 10_000

# Words for the splits in the names of files and folders.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def read_lines(path: Path, keep_blank: bool = False) -> list[str]:
    """Read a text file's lines, stripped, without blank ones.

    With `keep_blank` only trailing blank lines are dropped. Raises UserError if the file cannot be
    read as UTF-8 text, or a line is longer than any path.
    """
    try:
        # not splitlines(), which ends lines at characters that no editor shows as an end
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a text file ({error}): write one entry per line, UTF-8"
        ) from None
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST:
            raise UserError(
                f"{path}, line {number} has {len(line)} characters: write one entry per line, each "
                f"of at most {LONGEST} characters"
            )
    if not keep_blank:
        return [line for line in lines if line]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def composed(name: str) -> str:
    """A name with accents as one character each (NFC), as ids are.

    macOS unpacks names with the accent as a character of its own, other systems do not.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def match_id(line: str, known: Collection[str], ending: str = "") -> str | None:
    """The id that a line of a list refers to; None if there is none.

    Besides the id itself, a line may be a file name, or a pair of paths `image mask` as in the
    papers' published lists; with backslashes too, as Windows writes paths.
    """
    return next((id for id in _readings(line, ending) if id in known), None)


def _readings(line: str, ending: str) -> Iterator[str]:
    yield line
    line = composed(line).replace("\\", "/")
    yield line
    for text in dict.fromkeys((line, line.split()[0])):
        stem, dot, suffix = text.rpartition(".")
        text = stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else text
        parts = text.removesuffix(ending).split("/")
        for start in range(len(parts)):
            yield "/".join(parts[start:])


def check_ids(lines: list[str], known: Collection[str], where: str, ending: str = "") -> list[str]:
    """Turn the lines of a list into ids, in their order.

    Raises UserError if the list is empty, or if a line is an absolute path, contains `..`, repeats
    an id or matches no image.
    """
    if not lines:
        raise UserError(f"{where} is empty: write at least one id into it, one per line")
    outside = [
        line
        for line in lines
        if re.match(r"[/\\]|[A-Za-z]:[/\\]", line) or ".." in re.split(r"[/\\\s]", line)
    ]
    if outside:
        raise UserError(
            f"{where} leads out of the data folder: {first_three(outside)}: write ids relative to "
            "the images, without '..'"
        )
    matched = [(line, match_id(line, known, ending)) for line in lines]
    unknown = [line for line, id in matched if id is None]
    if unknown:
        raise UserError(
            f"{where} names images that are not there: {first_three(unknown)} of {len(lines)}: "
            "remove or correct these lines"
        )
    ids = [id for _, id in matched if id is not None]
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        repeated = [id for id in ids if id in seen or seen.add(id)]  # type: ignore[func-returns-value]
        raise UserError(
            f"{where} lists images more than once: {first_three(repeated)}: keep each id once"
        )
    return ids


def split_of(name: str) -> str | None:
    """The split that a word of a file's or folder's name says: train, val or test; else None."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def first_three(items: list[str]) -> str:
    """The first three items, quoted, and the total number."""
    named = ", ".join(repr(item) for item in items[:3])
    return f"{named}{', …' if len(items) > 3 else ''} ({len(items)})"


def few(items: Sequence[Item], most: int) -> list[Item]:
    """At most this many of the items, evenly spread."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def hold_out(masked: Collection[str], free: Collection[str]) -> list[str]:
    """Choose validation ids from the `free` ones, sorted: a fifth of the `masked` ids, rounded up.

    None if fewer than two are masked. The ids' hashes decide, so the choice does not depend on
    their order and hardly changes when images are added.
    """
    if len(masked) < 2:
        return []
    by_hash = sorted(free, key=lambda id: hashlib.sha256(id.encode()).hexdigest())
    return sorted(by_hash[: math.ceil(len(masked) / 5)])
