"""The source of Hugging Face datasets whose masks are columns of objects."""

from __future__ import annotations

from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from u2pl.data.classes import is_background
from u2pl.data.meta import BACKGROUND, IGNORED, UNLABELLED, Meta
from u2pl.data.orientation import Size
from u2pl.data.rows import IMAGE, Rows, Tables, class_file_of
from u2pl.data.shapes.drawing import Drawing
from u2pl.data.shapes.hf_objects import (
    Layout,
    digest_of,
    drawing_of_row,
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
from u2pl.errors import UserError

_ALPHABET = (
    "the classes are the labels in the order of the alphabet; ?classes=FILE behind hf:NAME names "
    "others"
)


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
        numbered = not (layout.texts or layout.names)
        own = classes is not None or numbered
        if own:
            listed = class_file_of(name, tables, classes)
        else:
            listed = classes_of_labels(Path(name), layout.names or labels_of(used, layout, ()))
        self._names = layout.names or listed.names
        if numbered and 0 in used and is_background(0, listed.names[0]):
            raise UserError(
                f"hf:{name} has objects with the number 0, and line 1 of {listed.path} is "
                f"{listed.names[0]}: if 0 is the first class of the objects take that line out, "
                f"and add &outside={BACKGROUND}"
            )
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
            *([note_on_boxes(boxes)] if boxes else []),
            *([listed.note] if listed.note else []),
            self.meaning.note_on_outside(),
            *([_ALPHABET] if layout.texts and not own else []),
            *([note_on_empty(bare, self.empty, "hf:NAME")] if self.bare else []),
            *notes_on_case(labels, "correct the labels"),
        )

    def mask_size(self, id: str) -> Size | None:
        try:
            return self._drawing(id).size if id in self.masked else None
        except UserError:  # whoever needs the mask will say so
            return None

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
