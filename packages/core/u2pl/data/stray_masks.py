"""Files that look like masks and belong to no image: how many, and the likely habit behind it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from u2pl.data.ids import IMAGE_SUFFIXES

#: Where masks belong, and what other tools call that folder, in lower case.
MASKS = "masks"
OTHER_NAMES = (
    *("annotation", "annotations", "ground_truth", "groundtruth", "gt", "label", "labels", "mask"),
    *("masks", "segmentation", "segmentationclass", "segmentations", "target", "targets"),
)


class _Habit(NamedTuple):
    """Why a file's name is not that of its image."""

    kind: str  # ending, beginning, case, folders, suffix, or unknown
    part: str = ""  # what is too much, or wrong, in the name


def stray_words(root: Path, images: Collection[str]) -> str:
    """What is wrong with the names of masks in one line; empty if each belongs to an image.

    Args:
        root: a folder of photos, with masks/ or a folder of another name in its place.
        images: ids of the images.
    """
    files = _files(root / MASKS)
    if not files:
        return _other_folder(root)
    strays = [file for file in files if file.suffix.lower() != ".png" or _id(file) not in images]
    if not strays:
        return ""
    known = _Names(images)
    found = {file: known.habit(file) for file in strays}
    (habit, _), *_ = Counter(habit for habit, _ in found.values()).most_common(1)
    file, image = next((f, i) for f, (h, i) in found.items() if h == habit)
    place = f"files in {root.resolve().name}/{MASKS}/"
    if len(strays) == len(files):
        begin = f"none of the {len(files)} {place} has the name of an image"
    else:
        begin = f"{len(strays)} of the {len(files)} {place} have no image's name"
    return f"{begin}, such as {file}: {_advice(habit, image)}"


def _advice(habit: _Habit, image: str) -> str:
    if habit.kind in ("ending", "beginning"):
        return f"its image is called {image}, so leave {habit.part!r} out of the masks' names"
    if habit.kind == "case":
        return f"its image is called {image}; upper and lower case must be the same"
    if habit.kind == "folders":
        return f"its image is {image}; put the masks into the same sub-folders as the images"
    if habit.kind == "suffix":
        lossy = ", which changes class ids," if habit.part in (".jpg", ".jpeg", ".webp") else ""
        return f"masks are read from PNG files; convert {habit.part}{lossy} from the originals"
    return "give each mask the name of its image"


class _Names:
    """Looks for the image that a file may belong to.

    Args:
        images: ids.
    """

    def __init__(self, images: Collection[str]) -> None:
        self.images = images
        self.lower = {id.lower(): id for id in images}
        self.last = {PurePosixPath(id).name: id for id in images}

    def habit(self, file: PurePosixPath) -> tuple[_Habit, str]:
        """Why the file belongs to no image, and the image that is meant; empty if nobody knows."""
        id, suffix = _id(file), file.suffix.lower()
        if suffix != ".png":
            return _Habit("suffix", suffix), id
        if id.lower() in self.lower:
            return _Habit("case"), self.lower[id.lower()]
        if file.stem in self.last:
            return _Habit("folders"), self.last[file.stem]
        parent = "" if str(file.parent) == "." else f"{file.parent}/"
        name = file.stem
        for length in range(len(name) - 1, 0, -1):
            if parent + name[:length] in self.images:
                return _Habit("ending", name[length:]), parent + name[:length]
            if parent + name[-length:] in self.images:
                return _Habit("beginning", name[:-length]), parent + name[-length:]
        return _Habit("unknown"), ""


def _other_folder(root: Path) -> str:
    """A folder of another name that holds the masks, in words."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        files = _files(folder) if folder.name.lower() in OTHER_NAMES else []
        if files and folder.name != MASKS:
            return (
                f"there is no {root.resolve().name}/{MASKS}/, but {folder.name}/ holds "
                f"{len(files)} files, such as {files[0]}: if these are the masks, rename the "
                f"folder to {MASKS}"
            )
    return ""


def _files(folder: Path) -> list[PurePosixPath]:
    """The image files below a folder, relative to it, sorted; hidden ones are skipped."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                found.append(PurePosixPath(Path(where, name).relative_to(folder).as_posix()))
    return sorted(found)


def _id(file: PurePosixPath) -> str:
    return file.with_suffix("").as_posix()
