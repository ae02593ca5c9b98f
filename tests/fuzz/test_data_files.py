"""Mutated lists, descriptions and recipes: refused in a line, or read as a slow reader does."""

from __future__ import annotations

import csv
import io
import json
import math
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from harness.mutations import Mutate, in_json, in_text, in_toml
from harness.same import same
from harness.verdicts import Subject, expect
from u2pl.data.boxes import read_boxes
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.sources.folder import Folder
from u2pl.data.tags.tag_files import object_names
from u2pl.data.tags.tags import read_tags
from u2pl.errors import one_line
from u2pl.run.recipe import Recipe, flat_values
from u2pl.run.sweep.plan import plan, read_sweep
from u2pl_semi.app import APP

CLASSES = ("sky", "road", "street light", "car")
IMAGES = ("a", "b", "c", "d", "e", "2007_000392")

META = """\
things = ["both"]
void_top = 0.1
void_bottom = 0.05
masks = "ids"
reduce_zero_label = false
ignore = ["sky"]
exif = "stored"
[merge]
both = ["road", "car"]
"""

RECIPE = """\
# a recipe
[network]
encoder = "test_resnet"
decoder = "segformer"
width = 8
[data]
crop = 64
scale = [0.5, 1.5]
flip = false
[train]
steps = 20
lr = 3e-3
epochs = 2.5
optimizer = "adamw"
[evaluate]
scales = [0.5, 1.0]
mode = "slide"
crop = 48
[method]
warm_start = 0.25
[method.contrast]
tau = 0.4
queue = 30
"""

SWEEP = """\
methods = ["suponly", "u2pl"]
seeds = "0-2"
preset = "demo"
steps = 20
set = ["train.lr=1e-3"]
data = "demo"
[[variant]]
name = "large"
method = "u2plplus"
set = ["data.crop=96"]
"""

CSV = """image,classes
a,road car
b,street light;sky
c,
"d","car, road"
2007_000392.jpg,1 3
"""
TAGS = {"a": ["road", "car"], "b": ["street light"], "c": [], "2007_000392": ["3"]}

XML = """<annotation><filename>a.jpg</filename><size><width>4</width></size>
<object><name>car</name><part><name>wheel</name></part><difficult>1</difficult></object>
<object><name>street light</name></object></annotation>
"""


def classes_txt() -> str:
    return "".join(f"{name} {60 * id} 0 0\n" for id, name in enumerate(CLASSES))


def photos(folder: Path, **files: str) -> None:
    """A folder of data without masks."""
    (folder / "images").mkdir()
    for name in IMAGES:
        Image.new("RGB", (2, 2)).save(folder / "images" / f"{name}.png")
    (folder / "classes.txt").write_text(classes_txt())
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)


def place(name: str, text: str, mutate: Mutate, draw: Random, folder: Path) -> str:
    """A folder of data, and a file of it that is mutated."""
    photos(folder)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    content, words = mutate(draw, text.encode())
    path.write_bytes(content)
    return words


def source_of(folder: Path) -> Source:
    return open_source(str(folder))


def text_of(path: Path) -> str:
    """As editors show it: lines end in LF, CR LF or CR, and a mark of the encoding is not shown."""
    text = path.read_bytes().decode().removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(path: Path) -> list[str]:
    return [line.strip() for line in text_of(path).split("\n")]


def name_and_colour(line: str) -> tuple[str, list[int] | None]:
    """Numbers are taken from the end, one after the other, if there are three of them."""
    rest, colour = line, list[int]()
    for _ in range(3):
        digits = len(rest) - len(rest.rstrip("0123456789"))
        if not digits or rest[: len(rest) - digits].rstrip() in ("", *rest[:0]):
            return line.replace("\t", " "), None
        if rest[: len(rest) - digits][-1:] not in (*" \t,;\x1f\xa0\x1c\x0b\x0c",):
            return line.replace("\t", " "), None
        colour.insert(0, int(rest[len(rest) - digits :]))
        rest = rest[: len(rest) - digits].rstrip(" \t,;\x1f\xa0\x1c\x0b\x0c")
    return (" ".join(rest.split()), colour) if rest else (line.replace("\t", " "), None)


def named_as_written(folder: Path, source: Source) -> None:
    lines = lines_of(folder / "classes.txt")
    while lines and not lines[-1]:
        lines.pop()
    lines = lines[lines[:1] == ["__ignore__"] :]
    expected = [name_and_colour(line) for line in lines]
    expect(source.classes == tuple(name for name, _ in expected), f"classes {source.classes}")
    for (name, colour), shown in zip(expected, source.palette.tolist(), strict=True):
        expect(colour is None or colour == shown, f"{name} is shown in {shown}")
    expect(all(one_line(name) == name for name in source.classes), "names that mislead")


def described_as_written(folder: Path, source: Source) -> None:
    assert isinstance(source, Folder)
    said = tomllib.loads(text_of(folder / "meta.toml"))
    rows = tuple(said.pop(key, 0) for key in ("void_top", "void_bottom"))
    expect(source.void_rows == rows, f"{source.void_rows} rows")
    expect(not any(isinstance(each, bool) for each in rows), "a row that is true")
    expect(source.exif == said.pop("exif", "upright"), f"exif {source.exif}")
    merge, ignore = said.pop("merge", {}), said.pop("ignore", [])
    classes: list[str] = []
    for name in CLASSES:
        new = next((new for new, parts in merge.items() if name in (new, *parts)), name)
        if name not in ignore and new not in classes:
            classes.append(new)
    expect(source.classes == tuple(classes), f"{source.classes}, not {classes}")
    expect(source.things == tuple(dict.fromkeys(said.pop("things", []))), f"{source.things}")
    expect(said.pop("masks", "ids") == "ids", "other masks")
    expect(said.pop("reduce_zero_label", False) is source.encoding.from_one, "shifted")
    expect(not said, f"nobody has read {list(said)}")


def meant(line: str) -> str:
    """The image that a line, else its first word, means by its last part, without an ending."""
    for text in (line, line.split()[0]):
        last = text.replace("\\", "/").rpartition("/")[2]
        stem, dot, end = last.rpartition(".")
        named = stem if dot and end.lower() in ("png", "jpg", "jpeg", "tif", "bmp") else last
        for id in (line, last, named):
            if id in IMAGES:
                return id
    return line


def listed_as_written(folder: Path, ids: list[str]) -> None:
    expected = [meant(line) for line in lines_of(folder / "splits" / "val.txt") if line]
    expect(ids == expected, f"{ids}, not {expected}")


def tagged(folder: Path, tags: dict[str, frozenset[int]]) -> None:
    """Every image has the classes of all its lines."""
    file = next(path for path in folder.iterdir() if path.name in ("tags.csv", "tags.json"))
    entries = csv_entries(file) if file.suffix == ".csv" else json_entries(file)
    expected: dict[str, set[int]] = {}
    for image, names in entries:
        known = {str(id): id for id in range(len(CLASSES))} | {
            name: id for id, name in enumerate(CLASSES)
        }
        expected.setdefault(meant(image.strip()), set()).update(known[name] for name in names)
    right = {id: frozenset(shown - {0}) for id, shown in expected.items()}
    expect(tags == right, f"{tags}, not {right}")


def csv_entries(file: Path) -> list[tuple[str, list[str]]]:
    rows = list(csv.reader(io.StringIO(text_of(file)), skipinitialspace=True))
    columns = [cell.strip().strip('"').lower() for cell in rows[0]]
    image, classes = columns.index("image"), columns.index("classes")
    found = []
    for row in rows[1:]:
        if any(cell.strip() for cell in row):
            cells = row[classes:] if classes == len(columns) - 1 else [row[classes]]
            found.append((row[image], words_of(" ".join(cells))))
    return found


def words_of(text: str) -> list[str]:
    """Names and numbers, of which one name has a blank."""
    joined = text.replace(",", " ").replace(";", " ").replace("street light", "street+light")
    return [word.replace("+", " ") for word in joined.split()]


def json_entries(file: Path) -> list[tuple[str, list[str]]]:
    found: Any = json.loads(text_of(file), object_pairs_hook=list)
    if found and isinstance(found[0][0], (list, tuple)):
        found = [(dict(entry)["image"], dict(entry)["classes"]) for entry in found]
    return [(image, [str(name).strip() for name in names]) for image, names in found]


def objects_of(folder: Path, names: list[str]) -> None:
    root = ElementTree.fromstring((folder / "a.xml").read_bytes())
    expected = [
        "".join([name.text or "", *((child.tail or "") for child in name)]).strip()
        for object in root.findall("object")
        for name in object.findall("name")
    ]
    expect(names == expected, f"{names}, not {expected}")


def boxes_json(source: Source) -> str:
    boxes = {"a": [[1, 0, 0, 4, 4, 0.9], [3, 1, 1, 2, 2, 0.95]], "b": []}
    facts = {"format": "u2pl-boxes-1", "fingerprint": source.fingerprint()}
    return json.dumps({**facts, "classes": CLASSES, "threshold": 0.5, "boxes": boxes})


def boxed(mutate: Mutate, draw: Random, folder: Path) -> str:
    photos(folder)
    content, words = mutate(draw, boxes_json(source_of(folder)).encode())
    (folder / "boxes.json").write_bytes(content)
    return words


def boxed_as_written(folder: Path, found: dict[str, np.ndarray]) -> None:
    said = json.loads(text_of(folder / "boxes.json"))
    expect(found.keys() == said["boxes"].keys(), "boxes of other images")
    for id, rows in said["boxes"].items():
        flat = [value for row in rows for value in row]
        expect(not any(isinstance(value, (bool, str)) for value in flat), f"boxes {rows}")
        expect(all(math.isfinite(value) for value in flat), f"boxes {rows}")
        expected = sorted((row for row in rows if row[5] >= said["threshold"]), key=lambda r: -r[5])
        expect(found[id].tolist() == expected, f"{found[id].tolist()}, not {expected}")


def recipe_of(folder: Path) -> Recipe:
    return Recipe.of(APP, "u2plplus", str(folder / "recipe.toml"))


def as_the_recipe_says(folder: Path, recipe: Recipe) -> None:
    said = flat_values(tomllib.loads(text_of(folder / "recipe.toml")))
    resolved = flat_values(recipe.dump())
    for key, value in said.items():
        if key in resolved or not key.startswith("method."):
            expect(same(value, resolved.get(key)), f"{key} is {resolved.get(key)!r}, not {value!r}")


def sweep_of(folder: Path) -> list[tuple[str, int, int | None]]:
    runs = plan(APP, read_sweep(folder / "sweep.toml", APP))
    return [(each.variant, each.request.seed, each.request.steps) for each in runs]


def as_the_sweep_says(folder: Path, runs: list[tuple[str, int, int | None]]) -> None:
    said = tomllib.loads(text_of(folder / "sweep.toml"))
    variants = {name: {} for name in said.get("methods", [])}
    for table in said.get("variant", []):
        variants[table.get("name", table["method"])] = table
    written = said.get("seeds", "0")
    seeds: list[int] = []
    for part in written if isinstance(written, list) else str(written).split(","):
        first, dash, last = str(part).strip().partition("-")
        seeds += range(int(first), int(last if dash else first) + 1)
    usual = said.get("steps")
    expected = [
        (name, seed, table.get("steps", usual))
        for seed in dict.fromkeys(seeds)
        for name, table in variants.items()
    ]
    own = any("train.steps" in str(table) for table in variants.values())
    expect(own or runs == expected, f"{runs}, not {expected}")
    expect(not any(isinstance(steps, bool) for *_, steps in expected), "steps that are true")


SUBJECTS = {
    each.name: each
    for each in (
        Subject.of_file(
            "classes.txt",
            partial(place, "classes.txt", classes_txt()),
            in_text,
            source_of,
            named_as_written,
        ),
        Subject.of_file(
            "meta.toml",
            partial(place, "meta.toml", META),
            in_toml,
            source_of,
            described_as_written,
        ),
        Subject.of_file(
            "split",
            partial(place, "splits/val.txt", "a\nc.png\nimages/e\n2007_000392\n"),
            in_text,
            lambda folder: source_of(folder).split("val"),
            listed_as_written,
        ),
        Subject.of_file(
            "tags.csv",
            partial(place, "tags.csv", CSV),
            in_text,
            lambda folder: read_tags(folder / "tags.csv", source_of(folder)),
            tagged,
        ),
        Subject.of_file(
            "tags.json",
            partial(place, "tags.json", json.dumps(TAGS)),
            in_json,
            lambda folder: read_tags(folder / "tags.json", source_of(folder)),
            tagged,
        ),
        Subject.of_file(
            "annotation",
            partial(place, "a.xml", XML),
            in_text,
            lambda folder: object_names(folder / "a.xml"),
            objects_of,
        ),
        Subject.of_file(
            "boxes.json",
            boxed,
            in_json,
            lambda folder: read_boxes(folder / "boxes.json", source_of(folder)),
            boxed_as_written,
        ),
        Subject.of_file(
            "recipe",
            partial(place, "recipe.toml", RECIPE),
            in_toml,
            recipe_of,
            as_the_recipe_says,
        ),
        Subject.of_file(
            "sweep",
            partial(place, "sweep.toml", SWEEP),
            in_toml,
            sweep_of,
            as_the_sweep_says,
        ),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_file_of_data_or_options(name: str, fuzzed: Callable[[Subject], None]) -> None:
    fuzzed(SUBJECTS[name])
