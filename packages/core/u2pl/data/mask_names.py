"""How the names of masks differ from those of their images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from u2pl.data.ids import composed

#: Endings of masks, the preferred ones first.
LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")
#: Endings of files whose compression changes pixels; colours and masks of 0 and 255 survive it.
LOSSY = (".jpg", ".jpeg", ".jfif")
SUFFIXES = (*LOSSLESS, *LOSSY)

# What stands in the names of images that hold something else than classes.
_NO_CLASSES = re.compile(
    r"(?<![a-z])(instance|inst(?![a-z])|depth|disparity|normal|edge|boundar|pred|overlay|vis(?![a-z]))",
    re.I,
)


class Habit(NamedTuple):
    """Why a mask has not the name of its image."""

    kind: str  # ending, beginning, case, folders, doubled; which, other, second, suffix, unknown
    part: str = ""  # what is too much, or wrong, in the name

    @property
    def followed(self) -> bool:
        """Whether masks are found in spite of it, if all share it."""
        return self.kind in ("ending", "beginning", "case", "folders", "doubled")

    @property
    def harmless(self) -> bool:
        """Whether nothing but a mask can be meant, even beside masks of the images' own names."""
        return self.kind in ("case", "doubled")

    def described(self) -> str:
        """How the masks are named, if they are followed."""
        return {
            "ending": f"as NAME{self.part}.png",
            "beginning": f"as {self.part}NAME.png",
            "case": "taking upper and lower case as equal",
            "folders": "by the files' names alone, since the sub-folders differ",
            "doubled": "as NAME.jpg.png",
        }[self.kind]

    def advice(self, image: str) -> str:
        """What to do about a file that was left out.

        Args:
            image: that is meant.
        """
        if self.kind in ("ending", "beginning"):
            return f"its image is called {image}, so leave {self.part!r} out of the masks' names"
        if self.kind == "doubled":
            return f"its image is called {image}, so leave the image's ending out of the names"
        if self.kind == "case":
            return f"its image is called {image}; upper and lower case must be the same"
        if self.kind in ("folders", "which"):
            return f"its image is {image}; put the masks into the same sub-folders as the images"
        if self.kind == "other":
            return f"{self.part!r} in its name says that it holds no classes"
        if self.kind == "second":
            return f"{self.part} is the mask of {image}; keep one of the two"
        if self.kind == "suffix":
            lossy = ", which changes class ids," if self.part in (*LOSSY, ".webp") else ""
            return f"masks are read from PNG files; convert {self.part}{lossy} from the originals"
        return "give each mask the name of its image"


class ImageNames:
    """Looks for the image that a file may belong to.

    Args:
        images: files by id.
    """

    def __init__(self, images: Mapping[str, Path]) -> None:
        self.images = images
        self.lower, twice = _index((id.lower(), id) for id in images)
        self.last, self.which = _index((PurePosixPath(id).name, id) for id in images)
        self.files, _ = _index((f"{id}{file.suffix}".lower(), id) for id, file in images.items())
        for id in twice:  # images that differ in case alone
            del self.lower[id]

    def habit(self, file: str) -> tuple[Habit, str]:
        """Why a file has not the name of an image, and the image meant; empty if nobody knows."""
        stem, suffix = os.path.splitext(file)
        id = composed(stem)
        if suffix.lower() not in SUFFIXES:
            return Habit("suffix", suffix.lower()), id
        if id.lower() in self.lower:
            return Habit("case"), self.lower[id.lower()]
        if id.lower() in self.files:
            return Habit("doubled"), self.files[id.lower()]
        folder, slash, name = id.rpartition("/")
        if name in self.last:
            return Habit("which" if name in self.which else "folders"), self.last[name]
        within = folder + slash
        for cut in reversed(range(1, len(name))):
            if _is_joint(name, cut) and within + name[:cut] in self.images:
                return _around("ending", name[cut:], within + name[:cut])
        for cut in range(1, len(name)):
            if _is_joint(name, cut) and within + name[cut:] in self.images:
                return _around("beginning", name[:cut], within + name[cut:])
        return Habit("unknown"), ""


def _around(kind: str, part: str, image: str) -> tuple[Habit, str]:
    """The habit of a name with a part too much; such files may be of something else."""
    return (Habit("other", part), "") if _NO_CLASSES.search(part) else (Habit(kind, part), image)


def _index(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], set[str]]:
    """The first value of each key, and the keys that come more than once."""
    found: dict[str, str] = {}
    twice = set()
    for key, value in pairs:
        if key in found:
            twice.add(key)
        found.setdefault(key, value)
    return found, twice


def _is_joint(name: str, cut: int) -> bool:
    """Whether a name may be cut here: not within a word or a number, where another one begins."""
    before, after = name[cut - 1], name[cut]
    if before.isalpha() and after.isalpha():
        return before.islower() and after.isupper()
    return not (before.isdecimal() and after.isdecimal())
