"""Hugging Face datasets, from the hub, a parquet file or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from u2pl.data.encoding_choice import PEEKED, choose_encoding
from u2pl.data.ids import few
from u2pl.data.mask_colours import LOOKED_AT, propose_classes
from u2pl.data.meta import Meta
from u2pl.data.orientation import Size
from u2pl.data.reading import check_size, size_of_mask
from u2pl.data.rows import IMAGE, Rows, Tables, class_file_of, load_tables
from u2pl.data.shapes.hf_objects import find_layout
from u2pl.data.shapes.hf_source import HubObjects
from u2pl.data.source import Source
from u2pl.errors import UserError

_MASKS = ("mask", "label", "annotation", "segmentation_mask")


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
        listed = class_file_of(name, tables, classes)
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
