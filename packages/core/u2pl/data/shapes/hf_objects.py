"""Objects of Hugging Face datasets: a column in which each row lists its objects, as COCO does.

A row is a list of objects with fields, or a field is a list with an entry for each object. Which
rows have objects and which classes is asked of the column as a whole; a row's objects are read when
its mask is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from u2pl.data.orientation import Size
from u2pl.data.shapes.coco import box_of, drawing_of, region_of
from u2pl.data.shapes.drawing import Drawing, Polygons, Runs, Shape
from u2pl.data.shapes.fields import entries, fields, shown, whole, word
from u2pl.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

#: Names of the column, and of the fields of an object; the first that is there is read.
COLUMNS = ("objects", "annotations")
_CATEGORIES = ("category", "categories", "category_id", "label", "labels")
_SEGMENTATIONS = ("segmentation", "segmentations", "polygons", "polygon")
_BOXES = ("bbox",)
# Columns of a row's size.
_SIDES = ("width", "height")
# Rows of which a digest is taken together, however they are stored.
_AT_ONCE = 10_000


class Layout(NamedTuple):
    """Where a dataset has its objects."""

    column: str
    by_field: bool  # each field is a list, instead of each object having its fields
    category: str  # names of fields
    segmentation: str  # empty if there is none
    box: str
    names: tuple[str, ...]  # of the categories' numbers, if the dataset names them
    texts: bool  # the categories are names themselves

    @property
    def regions(self) -> tuple[str, ...]:
        """The fields that say where an object is."""
        return tuple(name for name in (self.segmentation, self.box) if name)


def find_layout(features: Mapping[str, Any], where: str) -> Layout | None:
    """The first column of objects; None if there is none.

    Args:
        features: of the columns, as `datasets` knows them.
        where: the dataset, in errors.

    Raises UserError if objects have no category, none that can be read, or are nowhere.
    """
    for column in COLUMNS:
        feature = features.get(column)
        by_field = isinstance(feature, dict)
        found = feature if by_field else getattr(feature, "feature", None)
        if not isinstance(found, dict):
            continue
        category, segmentation, box = (
            next((name for name in names if name in found), "")
            for names in (_CATEGORIES, _SEGMENTATIONS, _BOXES)
        )
        if not category or not (segmentation or box):
            raise UserError(
                f"{where}: {column} has {', '.join(found)}: an object needs a category, and a "
                "segmentation or a bbox: rename the fields"
            )
        single = [
            name
            for name in (segmentation, box)
            if by_field and name and getattr(found[name], "feature", None) is None
        ]
        if single:
            raise UserError(
                f"{where}: {column}.{single[0]} holds {found[single[0]]}: it must be a list with "
                "an entry for each object"
            )
        kind = getattr(found[category], "feature", None) if by_field else found[category]
        names = tuple(name.strip() for name in getattr(kind, "names", None) or ())
        dtype = str(getattr(kind, "dtype", ""))
        texts = dtype in ("string", "large_string")
        if not (names or texts or "int" in dtype):
            raise UserError(
                f"{where}: {column}.{category} holds {found[category]}: it must be class labels, "
                f"whole numbers or texts{', one for each object' if by_field else ''}"
            )
        return Layout(column, by_field, category, segmentation, box, names, texts)
    return None


def only_objects(table: Dataset, layout: Layout) -> Dataset:
    """The columns of a table that its masks follow from."""
    sides = _SIDES if set(_SIDES) <= set(table.column_names) else ()
    return table.select_columns([layout.column, *sides])


class Survey(NamedTuple):
    """What the rows of a table have, by row."""

    null: np.ndarray  # bool [N], those of which nothing is said
    empty: np.ndarray  # bool [N], those said to have no objects
    categories: frozenset[Any]  # that objects have, as they are stored
    boxes: int  # objects that are nothing but a box


def survey(table: Dataset, layout: Layout) -> Survey:
    """Look at a column of objects as a whole, at none of its polygons."""
    import pyarrow.compute as pc

    column = table.with_format("arrow")[:][layout.column]
    used = (layout.category, *layout.regions)
    if layout.by_field:
        lists = [pc.struct_field(column, name) for name in used]
        found = {name: pc.list_flatten(each) for name, each in zip(used, lists, strict=True)}
    else:
        lists, objects = [column], pc.list_flatten(column)
        found = {name: pc.struct_field(objects, name) for name in used}
    null = reduce(np.logical_and, (each.is_null().to_numpy() for each in lists))
    lengths = (pc.fill_null(pc.list_value_length(each), 0).to_numpy() for each in lists)
    categories = pc.unique(found[layout.category]).to_pylist()
    bare = len(found[layout.regions[0]])
    if layout.segmentation:
        bare = _without(found[layout.segmentation]) if layout.box else 0
    return Survey(
        null, ~null & (reduce(np.maximum, lengths) == 0), frozenset(categories) - {None}, bare
    )


def _without(segmentations: pa.ChunkedArray) -> int:
    """How many segmentations are null or an empty list."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = segmentations.type
    if not pa.types.is_nested(kind) or pa.types.is_struct(kind):
        return int(segmentations.null_count)
    lengths = pc.fill_null(pc.list_value_length(segmentations), 0)
    return int(pc.sum(pc.equal(lengths, 0)).as_py() or 0)


def labels_of(categories: Iterable[Any], layout: Layout, names: Sequence[str]) -> list[str]:
    """The labels of some categories, sorted; those that are broken are left to whoever reads them.

    Args:
        categories: as they are stored.
        layout: of the dataset.
        names: of their numbers, if they are numbers.
    """
    if layout.texts:
        return sorted({text.strip() for text in categories} - {""})
    return sorted({names[number] for number in categories if 0 <= number < len(names)})


def digest_of(table: Dataset) -> str:
    """24 hex digits over the content of all columns, in whatever pieces it is stored."""
    digest = hashlib.sha256()
    columns = table.with_format("arrow")[:]
    for field in columns.schema:
        digest.update(f"{field.name} {field.type}".encode())
    for start in range(0, len(columns), _AT_ONCE):
        for batch in columns.slice(start, _AT_ONCE).combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()[:24]


def drawing_of_row(
    row: Mapping[str, Any], layout: Layout, names: Sequence[str], where: str
) -> Drawing:
    """The objects of a row, in their order.

    Args:
        row: what it holds, by column.
        layout: of the dataset.
        names: of the categories' numbers, if they are numbers.
        where: the row's objects, in errors.

    Raises UserError that names object and field, if something of it is broken.
    """
    shapes = []
    for number, each in enumerate(_objects(row[layout.column], layout, where)):
        place = f"[{number}]"
        found, at = fields(each, f"{where}: {place}"), f"{where}: {place}."
        category = found[layout.category]
        if layout.texts:
            label = word(category, at + layout.category)
        elif isinstance(category, int) and 0 <= category < len(names):
            label = names[category]
        else:
            raise UserError(
                f"{at}{layout.category} is {shown(category)}: it must be the number of a class, "
                f"from 0 to {len(names) - 1}; correct it, or name more classes"
            )
        shapes.append(Shape(label, _region(found, layout, at), place))
    return drawing_of(where, _size(row, where), shapes)


def _objects(found: Any, layout: Layout, where: str) -> list[Any]:
    if not layout.by_field:
        return entries(found, where)
    lists = {name: found[name] for name in (layout.category, *layout.regions)}
    lengths = {name: len(each) for name, each in lists.items() if each is not None}
    if len(set(lengths.values())) > 1:
        words = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise UserError(f"{where} are lists of different lengths, {words}: correct them")
    count = max(lengths.values(), default=0)
    filled = ([None] * count if each is None else each for each in lists.values())
    return [dict(zip(lists, each, strict=True)) for each in zip(*filled, strict=True)]


def _region(found: Mapping[str, Any], layout: Layout, at: str) -> Polygons | Runs:
    segmentation, box = found.get(layout.segmentation), found.get(layout.box)
    if not layout.segmentation or (segmentation in ([], None) and box):
        return box_of(box, at + layout.box)
    return region_of(segmentation, at + layout.segmentation)


def _size(row: Mapping[str, Any], where: str) -> Size | None:
    if all(row.get(side) is None for side in _SIDES):
        return None
    width, height = (whole(row[side], f"{where}: the row's {side}", 1) for side in _SIDES)
    return width, height
