"""Hugging Face datasets, from the hub, a parquet file or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from u2pl.data.classes import ClassFile, clear_palette, read_class_file
from u2pl.data.encoding_choice import PEEKED, choose_encoding
from u2pl.data.ids import few
from u2pl.data.mask_colours import LOOKED_AT, propose_classes
from u2pl.data.meta import BACKGROUND, IGNORED, UNLABELLED, Meta
from u2pl.data.orientation import Size
from u2pl.data.reading import check_size, size_of_mask
from u2pl.data.rows import IMAGE, Rows, Tables, load_tables
from u2pl.data.shapes.drawing import Drawing
from u2pl.data.shapes.hf_objects import (
    Layout,
    digest_of,
    drawing_of_row,
    find_layout,
    labels_of,
    only_objects,
    survey,
)
from u2pl.data.shapes.meaning import (
    choice,
    classes_of_labels,
    note_on_boxes,
    note_on_empty,
    notes_on_case,
    read_meaning,
)
from u2pl.data.source import Source
from u2pl.errors import UserError
from u2pl.files import expanded

_MASKS = ("mask", "label", "annotation", "segmentation_mask")
_ALPHABET = (
    "the classes are the labels in the order of the alphabet; ?classes=FILE behind hf:NAME names "
    "others"
)


class HubMasks(Rows):
    """A dataset with a column of mask images; rows whose mask is null are unlabelled.

    Args:
        name: as of `load_tables`.
        tables: of that name.
        column: of the masks.
        classes: file of class names; by default those of a column `classes` of class labels.

    Raises UserError if class names are missing.
    """

    def __init__(self, name: str, tables: Tables, column: str, classes: str | None) -> None:
        super().__init__(name, tables, (IMAGE, column))
        listed = _classes(name, tables, classes)
        self.classes, self.palette = listed.names, listed.palette
        self.column = column
        self.take_masked(id for split in tables for id in self._masked_in(split))
        masks = [self.file(id, column) for id in few(sorted(self.masked), PEEKED)]
        self._encoding, note = choose_encoding(Meta(), listed, (), masks)
        self.notes = tuple(each for each in (listed.note, note) if each)

    def mask_size(self, id: str) -> Size | None:
        return size_of_mask(self.files(id)[1])

    def files(self, id: str) -> tuple[Path | bytes, Path | bytes | None]:
        mask = self.file(id, self.column) if id in self.masked else None
        return self.file(id, IMAGE), mask

    def mask(self, id: str) -> np.ndarray:
        """Class ids, uint8 [H, W], 255 = ignore.

        Raises UserError if the mask is missing or broken, differs in size from its image, or holds
        ids that are no classes.
        """
        if id not in self.masked:
            raise self.without_mask(id)
        where = self.where(id, self.column)
        ids = self._encoding.decode(self.file(id, self.column), where)
        return check_size(ids, self.file(id, IMAGE), where, self.where(id, IMAGE))

    def proposal(self, ids: Sequence[str]) -> str:
        """A file for `classes=`, if masks are painted in colours; looks at some of `ids`."""
        if self._encoding.colours:
            return ""
        masked = few([id for id in ids if id in self.masked], LOOKED_AT)
        masks = [self.file(id, self.column) for id in masked]
        return propose_classes(masks, Path("classes.txt"), self.classes)

    def label_facts(self) -> tuple[object, ...]:
        return self._encoding.facts()

    def _masked_in(self, split: str) -> list[str]:
        if self.column not in self._tables[split].column_names:
            return []
        column = self._tables[split].with_format("arrow")[:][self.column]
        return list(compress(self.rows[split], column.is_valid().to_pylist()))


class HubObjects(Rows):
    """A dataset with a column of objects; a mask is painted when it is read.

    Later objects lie on top of earlier ones. Rows whose objects are null are unlabelled.

    Args:
        name: as of `load_tables`.
        tables: of that name.
        layout: of the objects.
        classes: file of class names; by default `background` and the names of the categories.
        outside: what pixels in no object are, BACKGROUND or IGNORED.
        empty: what rows without objects are, BACKGROUND or UNLABELLED.

    Raises UserError if class names are missing, objects have unknown categories, or an option has
    another value.
    """

    from_shapes = True

    def __init__(
        self,
        name: str,
        tables: Tables,
        layout: Layout,
        classes: str | None,
        outside: str | None,
        empty: str | None,
    ) -> None:
        super().__init__(name, tables)
        self.layout = layout
        self._objects = {
            split: only_objects(table, layout)
            for split, table in tables.items()
            if layout.column in table.column_names
        }
        found = {split: survey(table, layout) for split, table in self._objects.items()}
        used = frozenset[Any]().union(*(one.categories for one in found.values()))
        own = classes is not None or not (layout.texts or layout.names)
        if own:
            listed = _classes(name, tables, classes)
        else:
            listed = classes_of_labels(Path(name), layout.names or labels_of(used, layout, ()))
        self._names = layout.names or listed.names
        labels = labels_of(used, layout, self._names)
        written = own or listed.names[0] in (layout.names or labels)
        meta = Meta(outside=choice("outside", outside, (BACKGROUND, IGNORED)))
        self.meaning = read_meaning(listed, written, labels, f"hf:{name}", meta)
        self.classes, self.palette = self.meaning.classes, self.meaning.palette
        default = self.meaning.of_empty(UNLABELLED)
        self.empty = choice("empty", empty, (BACKGROUND, UNLABELLED)) or default
        said = {id for s, one in found.items() for id in compress(self.rows[s], ~one.null)}
        self.bare = {id for s, one in found.items() for id in compress(self.rows[s], one.empty)}
        self.take_masked(said if self.empty == BACKGROUND else said - self.bare)
        bare = f"{len(self.bare)} annotated rows"
        boxes = sum(one.boxes for one in found.values())
        self.notes = (
            self._note_on_rows(len(said)),
            *([listed.note] if listed.note else []),
            self.meaning.note_on_outside(),
            *([_ALPHABET] if layout.texts and not own else []),
            *([note_on_empty(bare, self.empty, "hf:NAME")] if self.bare else []),
            *notes_on_case(labels, "correct the labels"),
            *([note_on_boxes(boxes)] if boxes else []),
        )

    def mask_size(self, id: str) -> Size | None:
        return self._drawing(id).size if id in self.masked else None

    def mask(self, id: str) -> np.ndarray:
        """Class ids, uint8 [H, W], 255 = ignore.

        Raises UserError if the row has none, its image has another size than it says, or an object
        is broken or outside of the image.
        """
        if id not in self.masked:
            raise self.without_mask(id)
        photo = self.file(id, IMAGE)
        return self.meaning.mask(self._drawing(id), photo, self.where(id, IMAGE), self.exif)

    def label_facts(self) -> tuple[object, ...]:
        return self._digest, self.layout, self._names, self.empty, *self.meaning.facts()

    def where_masks_lack(self, advice: str) -> str:
        if self.bare and not self.masked:
            return (
                f"{len(self.bare)} rows have no objects, which count as unlabelled; if they show "
                f"background alone write ?empty={BACKGROUND} behind hf:NAME"
            )
        return advice

    @cached_property
    def _digest(self) -> str:
        return repr([(split, digest_of(table)) for split, table in sorted(self._objects.items())])

    def _note_on_rows(self, said: int) -> str:
        rows, drawn = sum(map(len, self.rows.values())), said - len(self.bare)
        return (
            f"{self.name} is read by its column {self.layout.column}: {drawn} of {rows} rows have "
            f"shapes{f', {rows - said} have no annotation' if rows > said else ''}; where shapes "
            "overlap the later one is on top"
        )

    def _drawing(self, id: str) -> Drawing:
        split, row = self.place(id)
        where = self.where(id, self.layout.column)
        return drawing_of_row(self._objects[split][row], self.layout, self._names, where)


def open_scheme(
    name: str,
    classes: str | None = None,
    outside: str | None = None,
    empty: str | None = None,
) -> Source:
    """A dataset with a column `image`, and one of mask images or one of objects.

    The former is the first of `mask`, `label`, `annotation`, `segmentation_mask`; if there is none,
    the latter is `objects` or `annotations`. Options as of `HubMasks` and `HubObjects`.

    Raises UserError if the dataset cannot be loaded, or columns or class names are missing.
    """
    tables = load_tables(name)
    features: dict[str, Any] = {
        column: feature for table in tables.values() for column, feature in table.features.items()
    }
    if IMAGE not in features:
        raise UserError(
            f"hf:{name} has no column {IMAGE!r}, it has {', '.join(features)}: rename the column "
            "that holds the images"
        )
    for column in _MASKS:
        if column in features and _holds_files(features[column]):
            if outside or empty:
                raise UserError(
                    f"hf:{name}: outside and empty are about objects, and the masks are images in "
                    f"the column {column}: leave them out"
                )
            return HubMasks(name, tables, column, classes)
    layout = find_layout(features, f"hf:{name}")
    if layout is None:
        raise UserError(
            f"hf:{name} has no column of mask images, and none of objects: it has "
            f"{', '.join(features)}; name that of the masks 'mask', or that of the objects "
            "'objects', each with a category and a segmentation or a bbox"
        )
    for split, table in tables.items():
        if table.features.get(layout.column, features[layout.column]) != features[layout.column]:
            raise UserError(
                f"hf:{name}: {layout.column} has other fields in the split {split} than in others: "
                "make them alike"
            )
    return HubObjects(name, tables, layout, classes, outside, empty)


def _holds_files(feature: Any) -> bool:
    from datasets import Image as ImageColumn

    return (
        isinstance(feature, ImageColumn)
        or getattr(feature, "dtype", None) == "binary"
        or (isinstance(feature, dict) and "bytes" in feature)
    )


def _classes(name: str, tables: Tables, file: str | None) -> ClassFile:
    if file is not None:
        return read_class_file(expanded(file))
    for table in tables.values():
        feature: Any = table.features.get("classes")
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            bare = (False,) * len(names)
            return ClassFile(Path(name), tuple(names), clear_palette(names), bare)
    raise UserError(
        f"hf:{name} does not name its classes: write hf:{name}?classes=FILE with one name per "
        "line, line 1 = id 0"
    )
