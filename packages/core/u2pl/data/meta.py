"""meta.toml: optional facts about a folder of photos."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from u2pl.data.ids import first_three
from u2pl.data.orientation import STORED, UPRIGHT
from u2pl.errors import UserError, did_you_mean, one_line
from u2pl.files import parse_toml

#: How masks stand for classes: by ids, by colours, or as 0 and anything else.
IDS, COLOURS, BINARY = "ids", "colours", "binary"

#: What pixels in no shape are, and images in which nothing is drawn.
BACKGROUND, IGNORED, UNLABELLED = "background", "ignored", "unlabelled"

_MASK_KEYS, _SHAPE_KEYS = ("masks", "reduce_zero_label"), ("outside", "empty")
_SCENE_KEYS, _KEYS = ("things", "void_top", "void_bottom"), ("merge", "ignore", "exif")


class Meta(NamedTuple):
    """What the file says; class names are those of classes.txt, `things` those that remain."""

    things: tuple[str, ...] = ()
    void_rows: tuple[float, float] = (0.0, 0.0)
    masks: str = ""  # ids, colours or binary; empty: as the masks themselves tell
    reduce_zero_label: bool = False  # 0 in a mask is ignored, 1 is the first class
    merge: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # new class -> those it is made of
    ignore: tuple[str, ...] = ()  # classes whose pixels are ignored
    exif: str = UPRIGHT  # or stored: how photos lie whose masks do not tell
    outside: str = ""  # background or ignored: pixels in no shape; empty: as the classes tell
    empty: str = ""  # background or unlabelled: images without shapes; empty: as the format says

    def remaining(self, classes: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The classes after merging and ignoring, and for each of `classes` its new id or -1.

        A merged class stands where the first of its parts stood.
        """
        becomes = {part: name for name, parts in self.merge.items() for part in parts}
        renamed = [becomes.get(name, name) for name in classes]
        kept = dict.fromkeys(
            new for old, new in zip(classes, renamed, strict=True) if old not in self.ignore
        )
        ids = {name: id for id, name in enumerate(kept)}
        moved = (
            -1 if old in self.ignore else ids[new]
            for old, new in zip(classes, renamed, strict=True)
        )
        return tuple(kept), tuple(moved)


def read_meta(
    path: Path,
    classes: tuple[str, ...],
    listed: str = "classes.txt",
    drawn: bool = False,
    others: tuple[str, ...] = (),
) -> Meta:
    """Read meta.toml; without the file the defaults hold.

    Args:
        path: of the file.
        classes: names that it knows.
        listed: the file that names them.
        drawn: whether masks are drawn as shapes, instead of being files.
        others: keys that somebody else reads.

    Raises:
        UserError: It is not valid TOML, or has an unknown key or class, or a value that makes no
            sense.
    """
    if not os.path.lexists(path):  # a link that leads nowhere cannot be read
        return Meta()
    try:
        found = parse_toml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(
            f'{path} cannot be read as TOML ({error}): write lines such as things = ["car"] and '
            "void_top = 0.03"
        ) from None
    _check_keys(path, {key: found[key] for key in found if key not in others}, drawn)
    top, bottom = (_share(path, key, found.get(key, 0.0)) for key in ("void_top", "void_bottom"))
    if top + bottom >= 1:
        raise UserError(
            f"{path}: void_top {top} and void_bottom {bottom} leave nothing of the image: their "
            "sum must be below 1"
        )
    masks = _one_of(path, "masks", found, (IDS, COLOURS, BINARY), "")
    meta = Meta(
        (),
        (top, bottom),
        masks,
        _shifted(path, found.get("reduce_zero_label", False), masks),
        _merged(path, found.get("merge", {}), classes, f"{listed} does not have"),
        _known(path, "ignore", found.get("ignore", []), classes, f"{listed} does not have"),
        _one_of(path, "exif", found, (UPRIGHT, STORED), UPRIGHT),
        _one_of(path, "outside", found, (BACKGROUND, IGNORED), ""),
        _one_of(path, "empty", found, (BACKGROUND, UNLABELLED), ""),
    )
    remaining = _check_remaining(path, meta, classes)
    lacking = f"{listed} does not have" if remaining == classes else "do not remain"
    return meta._replace(things=_known(path, "things", found.get("things", []), remaining, lacking))


def _check_keys(path: Path, found: Mapping[str, object], drawn: bool) -> None:
    keys, others = (_SHAPE_KEYS, _MASK_KEYS) if drawn else (_MASK_KEYS, _SHAPE_KEYS)
    known = (*_SCENE_KEYS, *keys, *_KEYS)
    for key in sorted(found.keys() - set(known)):
        if key in others:
            about = "mask files, and here shapes are read" if drawn else "shapes, and here are none"
            raise UserError(f"{path}: {key} is about {about}: leave it out")
        raise UserError(
            f"{path} has an unknown key {key!r}{did_you_mean(key, known)}: it may hold "
            f"{', '.join(known[:-1])} and {known[-1]}"
        )


def _share(path: Path, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise UserError(
            f"{path}: {key} is {value!r}: write a share of the image's height, from 0 to below 1"
        )
    return float(value)


def _one_of(
    path: Path, key: str, found: Mapping[str, object], known: tuple[str, ...], default: str
) -> str:
    value = found.get(key, default)
    if key in found and value not in known:
        raise UserError(
            f"{path}: {key} is {value!r}: write "
            + " or ".join(f'{key} = "{choice}"' for choice in known)
        )
    return str(value)


def _shifted(path: Path, value: object, masks: str) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{path}: reduce_zero_label is {value!r}: write true or false")
    if value and masks in (COLOURS, BINARY):
        raise UserError(
            f'{path}: reduce_zero_label is about ids, but masks = "{masks}": leave one of them out'
        )
    return value


def _known(
    path: Path, key: str, value: object, classes: tuple[str, ...], lacking: str
) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError(f'{path}: {key} must be a list of class names, such as ["car", "person"]')
    unknown = [name for name in value if name not in classes]
    if unknown:
        raise UserError(
            f"{path}: {key} names classes that {lacking}: {first_three(unknown)}: correct the names"
        )
    return tuple(dict.fromkeys(value))


def _merged(
    path: Path, value: object, classes: tuple[str, ...], lacking: str
) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: merge must be a table of new names and classes, such as "
            'merge = {vehicle = ["car", "bus"]}'
        )
    merge = {
        name: _known(path, f"merge.{name}", parts, classes, lacking)
        for name, parts in value.items()
    }
    for name, parts in merge.items():
        if not name.strip() or one_line(name) != name or not parts:
            raise UserError(f"{path}: merge.{name} must name a class and list what it is made of")
        if name in classes:  # others join it
            merge[name] = tuple(dict.fromkeys((name, *parts)))
    listed = [part for parts in merge.values() for part in parts]
    twice = sorted({part for part in listed if listed.count(part) > 1})
    if twice:
        raise UserError(
            f"{path}: merge puts {first_three(twice)} into two classes: keep each class in one"
        )
    return merge


def _check_remaining(path: Path, meta: Meta, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that remain."""
    merged = {part for parts in meta.merge.values() for part in parts}
    both = sorted(merged & set(meta.ignore))
    if both:
        raise UserError(
            f"{path}: merge and ignore both name {first_three(both)}: keep each class in one"
        )
    remaining, _ = meta.remaining(classes)
    if len(remaining) < 2:
        raise UserError(
            f"{path}: merge and ignore leave {len(remaining)} class, and at least 2 are needed: "
            "merge or ignore fewer"
        )
    return remaining
