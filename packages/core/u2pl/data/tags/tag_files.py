"""Reading files of image tags (CSV, JSON, VOC's XML annotations); `tags.py` resolves the names."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from u2pl.errors import UserError
from u2pl.files import parse_json

COLUMNS = ("image", "classes")

#: Minimum similarity, 0 to 1, of a misspelt class name to the class.
ALIKE = 0.6

#: Characters of a cell of classes, each of which is compared with all of them.
LONGEST = 20_000

_BETWEEN = r"[\s,;]"


class Line(NamedTuple):
    """The tags that a file gives an image, as written."""

    image: str
    names: list[str]


def csv_lines(path: Path, classes: tuple[str, ...]) -> list[Line]:
    """Read a table with columns `image` and `classes`, separated by comma, semicolon or tab.

    Raises UserError if the file is not such a table.
    """
    text = _text(path)
    header, example = text.partition("\n")[0].strip(), f"'photo_1,{';'.join(classes[1:3])}'"
    mark = next((mark for mark in ",;\t" if {*COLUMNS} <= {*_cells(header, mark)}), None)
    if mark is None:
        raise UserError(
            f"{path} must begin with the line 'image,classes', not {header[:60]!r}; then lines "
            f"such as {example}"
        )
    columns = _cells(header, mark)
    image, shown = (columns.index(name) for name in COLUMNS)
    rows = csv.reader(io.StringIO(text), delimiter=mark, skipinitialspace=True)
    lines = []
    try:
        for row in rows:
            if rows.line_num == 1 or not any(cell.strip() for cell in row):
                continue
            if shown == len(columns) - 1:  # an unquoted list of classes fills several cells
                row[shown:] = [";".join(row[shown:])] * (len(row) > shown)
            if len(row) != len(columns) or not row[image].strip():
                raise UserError(
                    f"{path}, line {rows.line_num} must have one cell for each of "
                    f"{', '.join(columns)}: write {example}"
                )
            if len(row[shown]) > LONGEST:
                raise UserError(
                    f"{path}, line {rows.line_num} has {len(row[shown])} characters of classes: "
                    f"write at most {LONGEST}, such as {example}"
                )
            lines.append(Line(row[image].strip(), split_names(row[shown], classes)))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num} cannot be read ({error}): write lines such as {example}"
        ) from None
    return lines


def json_lines(path: Path, _: tuple[str, ...]) -> list[Line]:
    """Read {image: [class, ...]} or [{"image": image, "classes": [class, ...]}].

    Raises UserError if the file holds neither.
    """
    try:
        found = parse_json(_text(path))
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}): correct it, or write a CSV with columns "
            "image and classes"
        ) from None
    lines = []
    for image, names in _entries(found):
        if (
            not isinstance(image, str)
            or not image.strip()
            or not isinstance(names, list)
            or not all(map(_is_class, names))
        ):
            raise UserError(
                f'{path}: write {{"image": ["class", ...]}} or '
                f'[{{"image": "...", "classes": ["class", ...]}}]; see {image!r}'
            )
        lines.append(Line(image.strip(), [str(name).strip() for name in names]))
    return lines


def object_names(file: Path) -> list[str]:
    """The name of each object of a VOC annotation, without those of an object's parts.

    Raises UserError if the file is not XML, or declares a document type, since only there can it
    define entities, whose expansion is unbounded.
    """
    place: list[str] = []
    names: list[str] = []

    def start(tag: str, _: dict[str, str]) -> None:
        place.append(tag)
        if place[1:] == ["object", "name"]:
            names.append("")

    def text(data: str) -> None:
        if place[1:] == ["object", "name"]:
            names[-1] += data

    def refuse(*_: object) -> None:
        raise UserError(
            f"{file} declares a document type, which no VOC annotation does: remove the line "
            "<!DOCTYPE ...>"
        )

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EndElementHandler = lambda _: place.pop()
    try:
        parser.Parse(file.read_bytes(), True)
    except UserError:
        raise
    except (OSError, expat.ExpatError, LookupError, ValueError) as error:
        raise UserError(f"{file} cannot be read as XML ({error}): replace the file") from None
    return [name.strip() for name in names]


def split_names(text: str, classes: tuple[str, ...]) -> list[str]:
    """Split a cell into names and ids of classes, separated by spaces, commas or semicolons.

    Names containing separators: the longest matching class name wins. Text that is no class is
    returned as written: the words most similar to a class name, or else the first word.
    """
    longest_first = sorted(map(re.escape, classes), key=len, reverse=True)
    known = re.compile(rf"(?:{'|'.join(longest_first)}|\d+)(?={_BETWEEN}|$)")
    names, rest = [], _from_first_word(text)
    while rest:
        match = known.match(rest)
        names.append(match.group() if match else _unknown(rest, classes))
        rest = _from_first_word(rest[len(names[-1]) :])
    return names


def _from_first_word(text: str) -> str:
    return re.sub(rf"^{_BETWEEN}+", "", text)


def nearest(name: str, classes: Iterable[str]) -> str | None:
    """The class with the most similar name; None if none is similar."""
    return next(iter(difflib.get_close_matches(name, classes, n=1, cutoff=ALIKE)), None)


def _unknown(rest: str, classes: tuple[str, ...]) -> str:
    piece = re.split("[,;]", rest, maxsplit=1)[0].rstrip()
    most = max(len(name.split()) for name in classes)
    runs = [piece[: gap.start()] for gap in islice(re.finditer(r"\s+|$", piece), most)]
    best = max(runs, key=lambda run: _likeness(run, classes))
    return best if _likeness(best, classes) >= ALIKE else runs[0]


@lru_cache(10_000)  # misspelt once, misspelt for many images
def _likeness(text: str, classes: tuple[str, ...]) -> float:
    return max(difflib.SequenceMatcher(None, text, name).ratio() for name in classes)


def _cells(header: str, mark: str) -> list[str]:
    return [name.strip().strip('"').lower() for name in header.split(mark)]


def _entries(found: object) -> list[tuple[object, object]]:
    if isinstance(found, dict):
        return list(found.items())
    if isinstance(found, list):
        return [
            (item.get("image"), item.get("classes")) if isinstance(item, dict) else (item, None)
            for item in found
        ]
    return [(found, None)]


def _is_class(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a text file ({error}): write UTF-8") from None
