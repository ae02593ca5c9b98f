"""Finding the masks of a folder of photos: by the same names, or by one habit that explains all."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from u2pl.data.ids import IMAGE_SUFFIXES, composed, few
from u2pl.data.mask_names import LOSSLESS, LOSSY, SUFFIXES, Habit, ImageNames
from u2pl.data.reading import read_mask_header
from u2pl.data.walking import files_below, is_clutter
from u2pl.errors import UserError

#: Where masks belong, and what other tools call that folder, in lower case.
MASKS = "masks"
OTHER_NAMES = (
    *("annotation", "annotations", "ground_truth", "groundtruth", "gt", "label", "labels", "mask"),
    *("masks", "segmentation", "segmentationclass", "segmentations", "target", "targets"),
)

# What masks have behind the names of their images, if both are in one folder.
_BESIDE = re.compile(
    r"[_.\- ](masks?|labels?|gt|ground_?truth|seg|segmentation|annotations?|semantic)", re.I
)
# JPEG files whose headers are looked at, to know whether they hold colours.
_PEEKED = 8


class FoundMasks(NamedTuple):
    """The masks of a folder."""

    masks: dict[str, Path]  # by the id of their image
    strays: str = ""  # what is wrong with files that look like masks and were left out, in words
    note: str = ""  # where masks were found, if not by the same names in masks/


def find_masks(root: Path, images: Mapping[str, Path], lossy: bool = False) -> FoundMasks:
    """Look for masks in masks/, or else in the one folder of another usual name that holds some.

    Names that are the same are taken first. If there are none, the one habit that the other names
    share is followed, if it gives no image two masks.

    Args:
        root: a folder of photos.
        images: files by id.
        lossy: whether JPEG files may be masks even if they hold no colours.

    Raises UserError if two files are equally good masks of one image.
    """
    files = _masks_below(root / MASKS)
    if files:
        found = _pair(root / MASKS, files, images, lossy)
        return found._replace(note=found.note and _read_from(MASKS, found.note))
    others = {
        name: below
        for name in sorted(os.listdir(root))
        if name.lower() in OTHER_NAMES and not is_clutter(name)
        if (below := _masks_below(root / name))
    }
    paired = {name: _pair(root / name, below, images, lossy) for name, below in others.items()}
    fitting = {name: found for name, found in paired.items() if found.masks}
    if len(fitting) == 1:
        ((name, found),) = fitting.items()
        return found._replace(note=_read_from(name, found.note))
    missing = f"there is no {root.resolve().name}/{MASKS}/"
    if fitting:
        listed = " and ".join(f"{name}/" for name in fitting)
        return FoundMasks({}, f"{missing}, and {listed} could be it: rename the right one")
    for name, below in others.items():
        return FoundMasks(
            {},
            f"{missing}, but {name}/ holds {len(below)} files, such as {below[0]}: if these are "
            f"the masks, rename the folder to {MASKS} and the files as their images",
        )
    return FoundMasks({})


def has_masks(root: Path) -> bool:
    """Whether a folder has image files in a folder that is called as those of masks are."""
    return any(
        _masks_below(root / name)
        for name in sorted(os.listdir(root))
        if name.lower() in OTHER_NAMES and not is_clutter(name)
    )


def split_beside(images: Mapping[str, Path], folder: str) -> tuple[dict[str, Path], FoundMasks]:
    """Tell masks from photos where both are in one folder, such as a_mask.png beside a.jpg.

    Args:
        images: all image files, by id.
        folder: the name of their folder, for the note.

    Returns: the photos, and the masks among the files; none unless one ending explains them all.
    """
    endings: dict[str, list[str]] = defaultdict(list)
    for id, file in images.items():
        if file.suffix.lower() in LOSSLESS:
            for start in (match.start() for match in re.finditer(r"[_.\- ]", id)):
                if _BESIDE.fullmatch(id, start) and id[:start] in images:
                    endings[id[start:]].append(id)
    if len(endings) != 1:
        return dict(images), FoundMasks({})
    ((ending, ids),) = endings.items()
    masks = {id.removesuffix(ending): images[id] for id in ids}
    photos = {id: images[id] for id in images.keys() - set(ids)}
    note = f"masks are read from {folder}/, where they lie beside the images as NAME{ending}.png"
    return dict(sorted(photos.items())), FoundMasks(masks, "", note)


def _pair(
    folder: Path, files: Sequence[str], images: Mapping[str, Path], lossy: bool
) -> FoundMasks:
    """The masks among the files of a folder; the note says how they are named, if otherwise."""
    same: dict[str, str] = {}
    strays: dict[str, tuple[Habit, str]] = {}
    rest = []
    for file in files:
        stem, suffix = os.path.splitext(file)
        if suffix.lower() in SUFFIXES and composed(stem) in images:
            _prefer(same, composed(stem), file, folder, strays)
        else:
            rest.append(file)
    names = ImageNames(images) if rest else None
    habits = {file: names.habit(file) for file in rest} if names else {}
    shared = _shared(habits, same)
    followed: dict[str, str] = {}
    for file, (habit, image) in habits.items():
        if habit == shared:
            _prefer(followed, image, file, folder, strays)
        else:
            strays[file] = habit, image
    chosen = same | followed
    compressed = {id: file for id, file in chosen.items() if file.lower().endswith(LOSSY)}
    if compressed and not lossy and not _any_painted(folder, list(compressed.values())):
        for id, file in compressed.items():
            strays[file] = Habit("suffix", os.path.splitext(file)[1].lower()), id
            del chosen[id]
    named = shared.described() if shared and followed.keys() & chosen.keys() else ""
    return FoundMasks(
        {id: folder / chosen[id] for id in sorted(chosen)},
        _stray_words(folder, len(files), strays),
        named,
    )


def _read_from(folder: str, named: str) -> str:
    return f"masks are read from {folder}/" + (f", {named}" if named else "")


def _shared(habits: Mapping[str, tuple[Habit, str]], same: Collection[str]) -> Habit | None:
    """The habit that explains most names, if following it leaves no image with two masks.

    Args:
        habits: of each file without the name of an image, and the image meant.
        same: images that have a mask of their own name already.
    """
    usual = Counter(habit for habit, _ in habits.values() if habit.followed)
    if not usual:
        return None
    ((habit, count),) = usual.most_common(1)
    # beside masks of the images' own names, others may be predictions, or show something else
    if 2 * count < len(habits) or (same and not habit.harmless):
        return None
    # the same name with another ending is the same mask
    claims = {(own, image, os.path.splitext(file)[0]) for file, (own, image) in habits.items()}
    meant = Counter(image for _, image, _ in claims) + Counter(set(same))
    return habit if all(meant[image] == 1 for own, image, _ in claims if own == habit) else None


def _prefer(
    chosen: dict[str, str],
    id: str,
    file: str,
    folder: Path,
    strays: dict[str, tuple[Habit, str]],
) -> None:
    """Keep the file with the better ending, and put the other to the strays."""
    best, other = chosen.setdefault(id, file), file
    if best == file:
        return
    ranks = [SUFFIXES.index(os.path.splitext(each)[1].lower()) for each in (best, other)]
    if ranks[0] == ranks[1]:
        raise UserError(
            f"{folder / best} and {folder / other} have the same id {id!r}: rename one of them"
        )
    if ranks[1] < ranks[0]:
        best, other = other, best
    chosen[id] = best
    strays[other] = Habit("second", best), id


def _any_painted(folder: Path, files: Sequence[str]) -> bool:
    """Whether one of a few files holds colours; broken ones do not."""
    for file in few(files, _PEEKED):
        try:
            if read_mask_header(folder / file).painted:
                return True
        except UserError:
            continue
    return False


def _stray_words(folder: Path, count: int, strays: Mapping[str, tuple[Habit, str]]) -> str:
    """What is wrong with the files that were left out, in one line; empty if there are none."""
    if not strays:
        return ""
    ((usual, _),) = Counter(habit for habit, _ in strays.values()).most_common(1)
    file, image = next((f, i) for f, (habit, i) in strays.items() if habit == usual)
    place = f"files in {folder.parent.resolve().name}/{folder.name}/"
    if len(strays) < count:
        begin = f"{len(strays)} of the {count} {place} were left out"
    elif usual.kind == "suffix":
        begin = f"none of the {count} {place} can be used"
    else:
        begin = f"none of the {count} {place} has the name of an image"
    return f"{begin}, such as {file}: {usual.advice(image)}"


def _masks_below(folder: Path) -> list[str]:
    if folder.is_file() and folder.name != MASKS:
        return []  # of another name it may be anything
    return [
        file for file in files_below(folder) if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES
    ]
