"""Hugging Face datasets, from the hub, a parquet file or a folder."""

from __future__ import annotations

import glob
import hashlib
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from u2pl.data.classes import ClassFile, clear_palette, read_class_file
from u2pl.data.encoding_choice import PEEKED, choose_encoding
from u2pl.data.ids import few, hold_out, split_of
from u2pl.data.mask_colours import LOOKED_AT, propose_classes
from u2pl.data.meta import Meta
from u2pl.data.orientation import UPRIGHT, Size
from u2pl.data.reading import check_size, read_rgb, size_of_mask
from u2pl.data.source import Source
from u2pl.data.walking import files_below
from u2pl.errors import UserError
from u2pl.files import expanded

if TYPE_CHECKING:
    from datasets import Dataset

_IMAGE = "image"
_MASKS = ("mask", "label", "annotation", "segmentation_mask")


class Hub(Source):
    """A dataset with a column `image` and a column of masks.

    The latter is the first of `mask`, `label`, `annotation`, `segmentation_mask`. Rows whose mask
    is null are unlabelled. An id is `SPLIT/ROW`, such as `train/000012`. Without a split val or
    validation, a fifth of the masked rows of train is held out.

    Args:
        name: of a dataset on the hub, a .parquet file, or a folder (of parquet files, or written by
            `save_to_disk`).
        classes: file of class names; by default those of a column `classes` of class labels.

    Raises UserError if the dataset cannot be loaded, or columns or class names are missing.
    """

    exif = UPRIGHT

    def __init__(self, name: str, classes: str | None = None) -> None:
        tables = _load(name)
        self.name = Path(name).stem
        listed = _classes(name, tables, classes)
        self.classes, self.palette = listed.names, listed.palette
        self._tables = {
            "val" if split == "validation" and "val" not in tables else split: table
            for split, table in tables.items()
        }
        self._mask_column = _mask_column(name, self._tables)
        self._tables = {split: self._raw(table) for split, table in self._tables.items()}
        self._ids = {
            split: [f"{split}/{row:06d}" for row in range(len(table))]
            for split, table in self._tables.items()
        }
        self._masked = {
            id for split, table in self._tables.items() for id in self._masked_in(split, table)
        }
        masks = [self._file(id, self._mask_column) for id in few(sorted(self._masked), PEEKED)]
        self._encoding, note = choose_encoding(Meta(), listed, (), masks)
        self.notes += tuple(each for each in (listed.note, note) if each)
        self._lists = {split: ids for split, ids in self._ids.items() if ids}
        if "val" not in self._lists and "train" in self._lists:
            masked = [id for id in self._ids["train"] if id in self._masked]
            held = set(hold_out(masked, masked))
            if held:
                self._lists = {
                    **self._lists,
                    "val": sorted(held),
                    "train": [id for id in self._ids["train"] if id not in held],
                }
                self.held_out = tuple(sorted(held))

    def splits(self) -> tuple[str, ...]:
        """The names of the dataset's splits; `validation` is called `val`."""
        return tuple(sorted(self._lists))

    def split(self, name: str) -> list[str]:
        if name not in self._lists:
            raise self.unknown_split(name)
        return list(self._lists[name])

    def ids(self) -> Collection[str]:
        return {id for ids in self._ids.values() for id in ids}

    def image(self, id: str) -> Image.Image:
        """Decode an image to RGB, the way up that its mask was drawn."""
        return read_rgb(
            self._file(id, _IMAGE),
            self._where(id, _IMAGE),
            upright=lambda facing: facing.drawn_upright(self.mask_size(id), self.exif),
        )

    def mask_size(self, id: str) -> Size | None:
        return size_of_mask(self.files(id)[1])

    def files(self, id: str) -> tuple[Path | bytes, Path | bytes | None]:
        mask = self._file(id, self._mask_column) if id in self._masked else None
        return self._file(id, _IMAGE), mask

    def has_mask(self, id: str) -> bool:
        """Whether the row's mask is not null."""
        return id in self._masked

    def mask(self, id: str) -> np.ndarray:
        """Class ids, uint8 [H, W], 255 = ignore.

        Raises UserError if the mask is missing or broken, differs in size from its image, or holds
        ids that are no classes.
        """
        if id not in self._masked:
            raise UserError(
                f"{self.name}: row {id!r} has no mask: add one, or use the row without label"
            )
        where = self._where(id, self._mask_column)
        ids = self._encoding.decode(self._file(id, self._mask_column), where)
        return check_size(ids, self._file(id, _IMAGE), where, self._where(id, _IMAGE))

    def proposal(self, ids: Sequence[str]) -> str:
        """A file for `classes=`, if masks are painted in colours; looks at some of `ids`."""
        if self._encoding.colours:
            return ""
        masked = few([id for id in ids if id in self._masked], LOOKED_AT)
        masks = [self._file(id, self._mask_column) for id in masked]
        return propose_classes(masks, Path("classes.txt"), self.classes)

    def fingerprint(self) -> str:
        """12 hex digits over classes, ids and the stored sizes of images and masks."""
        import pyarrow.compute as pc

        digest = hashlib.sha256(repr(self.classes).encode())
        for split, table in sorted(self._tables.items()):
            columns = table.with_format("arrow")[:]
            for column in columns.column_names:
                lengths = pc.binary_length(pc.struct_field(columns[column], "bytes"))
                digest.update(f"{split} {column} {lengths.to_pylist()}".encode())
        digest.update(repr(sorted(self._lists.items())).encode())
        if facts := self._encoding.facts():
            digest.update(repr(facts).encode())
        return digest.hexdigest()[:12]

    def _raw(self, table: Dataset) -> Dataset:
        from datasets import Image as ImageColumn

        table = table.select_columns(
            [column for column in (_IMAGE, self._mask_column) if column in table.column_names]
        )
        for column in table.column_names:
            table = table.cast_column(column, ImageColumn(decode=False))
        return table

    def _masked_in(self, split: str, table: Dataset) -> list[str]:
        if self._mask_column not in table.column_names:
            return []
        null = table.with_format("arrow")[:][self._mask_column].is_null().to_pylist()
        return [id for id, empty in zip(self._ids[split], null, strict=True) if not empty]

    def _file(self, id: str, column: str) -> Path | bytes:
        split, _, row = id.partition("/")
        if split not in self._ids or not row.isdecimal() or int(row) >= len(self._ids[split]):
            raise UserError(f"{self.name} has no row {id!r}")
        cell = self._tables[split][int(row)][column] or {"bytes": b"", "path": None}
        stored: bytes | None = cell["bytes"]
        return stored if stored is not None else Path(cell["path"])

    def _where(self, id: str, column: str) -> str:
        return f"{self.name}: {column} of {id}"


def _load(name: str) -> dict[str, Dataset]:
    try:
        import datasets
    except ImportError:
        raise UserError(f"hf:{name} needs the package datasets: pip install datasets") from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    path = expanded(name)
    if path.suffix == ".parquet" and not path.is_file():
        raise UserError(
            f"{path} does not exist: give a .parquet file, a folder or a dataset's name on the hub"
        )
    try:
        if path.suffix == ".parquet":
            # escaped, for `datasets` takes every path as a pattern
            return {"train": datasets.Dataset.from_parquet(glob.escape(str(path)))}
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded: Any = datasets.load_from_disk(str(path))
        elif path.is_dir() and glob.has_magic(str(path)):
            loaded = datasets.load_dataset("parquet", data_files=_parquet_files(path))
        else:
            loaded = datasets.load_dataset(str(path) if path.is_dir() else name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"hf:{name} cannot be loaded ({reason}): check the name and the connection, or give a "
            "parquet file or folder"
        ) from None
    return {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)


def _parquet_files(folder: Path) -> dict[str, list[str]]:
    """The parquet files of a folder by split, as patterns; a word of its path says which split.

    For folders whose names are patterns themselves, in which `datasets` finds nothing.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for file in files_below(folder):
        if file.endswith(".parquet"):
            files[split_of(file) or "train"].append(glob.escape(str(folder / file)))
    return dict(files)


def _mask_column(name: str, tables: dict[str, Dataset]) -> str:
    features = {
        column: feature for table in tables.values() for column, feature in table.features.items()
    }
    if _IMAGE not in features:
        raise UserError(
            f"hf:{name} has no column {_IMAGE!r}, it has {', '.join(features)}: rename the column "
            "that holds the images"
        )
    for column in _MASKS:
        if column in features and _holds_files(features[column]):
            return column
    raise UserError(
        f"hf:{name} has no column of mask images: it has {', '.join(features)}; name that column "
        "'mask'"
    )


def _holds_files(feature: Any) -> bool:
    from datasets import Image as ImageColumn

    return (
        isinstance(feature, ImageColumn)
        or getattr(feature, "dtype", None) == "binary"
        or (isinstance(feature, dict) and "bytes" in feature)
    )


def _classes(name: str, tables: dict[str, Dataset], file: str | None) -> ClassFile:
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
