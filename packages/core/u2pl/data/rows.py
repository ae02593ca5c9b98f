"""Rows of a Hugging Face dataset as images, from the hub, a parquet file or a folder."""

from __future__ import annotations

import glob
import hashlib
import logging
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from u2pl.data.classes import ClassFile, clear_palette, read_class_file
from u2pl.data.ids import hold_out, split_of
from u2pl.data.orientation import UPRIGHT
from u2pl.data.reading import read_rgb
from u2pl.data.source import Source
from u2pl.data.walking import files_below
from u2pl.errors import UserError
from u2pl.files import expanded

if TYPE_CHECKING:
    from datasets import Dataset

#: Tables by split.
Tables = Mapping[str, "Dataset"]

#: The column of the images.
IMAGE = "image"


class Rows(Source):
    """Tables with a column `image`; an id is `SPLIT/ROW`, such as `train/000012`.

    Without a split val, a fifth of the masked rows of train is held out. A subclass calls
    `take_masked`.

    Args:
        name: of the dataset, as on the command line.
        tables: by split.
        columns: those that hold files, the images first.
    """

    exif = UPRIGHT
    naming_val = "give the dataset a split validation"

    def __init__(self, name: str, tables: Tables, columns: Sequence[str] = (IMAGE,)) -> None:
        self.name = Path(name).stem
        self._tables = {
            split: _files_of(table, columns, f"{self.name}: the split {split}")
            for split, table in tables.items()
        }
        self.rows = {
            split: [f"{split}/{row:06d}" for row in range(len(table))]
            for split, table in tables.items()
        }

    def take_masked(self, ids: Iterable[str]) -> None:
        """Take over which rows have masks, and make the lists."""
        self.masked = frozenset(ids)
        self.lists = {split: ids for split, ids in self.rows.items() if ids}
        if "val" not in self.lists and "train" in self.lists:
            masked = [id for id in self.rows["train"] if id in self.masked]
            held = hold_out(masked, masked)
            if held:
                self.held_out, chosen = tuple(held), set(held)
                train = [id for id in self.rows["train"] if id not in chosen]
                self.lists = {**self.lists, "val": held, "train": train}

    def splits(self) -> tuple[str, ...]:
        """The names of the dataset's splits; `validation` is called `val`."""
        return tuple(sorted(self.lists))

    def split(self, name: str) -> list[str]:
        if name not in self.lists:
            raise self.unknown_split(name)
        return list(self.lists[name])

    def ids(self) -> Collection[str]:
        return {id for ids in self.rows.values() for id in ids}

    def image(self, id: str) -> Image.Image:
        """Decode an image to RGB, the way up that its mask was drawn."""
        return read_rgb(
            self.file(id, IMAGE),
            self.where(id, IMAGE),
            upright=lambda facing: facing.drawn_upright(self.mask_size(id), self.exif),
        )

    def files(self, id: str) -> tuple[Path | bytes, Path | bytes | None]:
        return self.file(id, IMAGE), None

    def has_mask(self, id: str) -> bool:
        """Whether the row's mask is not null."""
        return id in self.masked

    def fingerprint(self) -> str:
        """12 hex digits over classes, ids, the stored sizes of files, and `label_facts`."""
        import pyarrow.compute as pc

        digest = hashlib.sha256(repr(self.classes).encode())
        for split, table in sorted(self._tables.items()):
            columns = table.with_format("arrow")[:]
            for column in columns.column_names:
                lengths = pc.binary_length(pc.struct_field(columns[column], "bytes"))
                digest.update(f"{split} {column} {lengths.to_pylist()}".encode())
        digest.update(repr(sorted(self.lists.items())).encode())
        if facts := self.label_facts():
            digest.update(repr(facts).encode())
        return digest.hexdigest()[:12]

    @abstractmethod
    def label_facts(self) -> tuple[object, ...]:
        """What labels follow from beyond files, classes and lists."""

    def place(self, id: str) -> tuple[str, int]:
        """Split and number of a row; UserError if there is none."""
        split, _, row = id.partition("/")
        if split not in self.rows or not row.isdecimal() or int(row) >= len(self.rows[split]):
            raise UserError(f"{self.name} has no row {id!r}")
        return split, int(row)

    def file(self, id: str, column: str) -> Path | bytes:
        """What a row holds in a column of files; UserError if there is no such row."""
        split, row = self.place(id)
        cell = self._tables[split][row][column] or {"bytes": b"", "path": None}
        stored: bytes | None = cell["bytes"]
        return stored if stored is not None else Path(cell["path"]) if cell["path"] else b""

    def where(self, id: str, column: str) -> str:
        """A cell in errors."""
        return f"{self.name}: {column} of {id}"

    def without_mask(self, id: str) -> UserError:
        """The error for a row that has no mask."""
        advice = self.where_masks_lack("add one, or use the row without label")
        return UserError(f"{self.name}: row {id!r} has no mask: {advice}")


def class_file_of(name: str, tables: Tables, file: str | None) -> ClassFile:
    """The classes that a file names, or else a column `classes` of class labels.

    Args:
        name: of the dataset, as on the command line.
        tables: by split.
        file: as on the command line.

    Raises UserError if nothing names them, or as `read_class_file`.
    """
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


def _files_of(table: Dataset, columns: Sequence[str], where: str) -> Dataset:
    """The columns of files that a table has, undecoded.

    Raises UserError if it has no images, or a column holds something else.
    """
    from datasets import Image as ImageColumn

    if IMAGE not in table.column_names:
        raise UserError(f"{where} has no column {IMAGE!r}: add it, or take the split out")
    table = table.select_columns([column for column in columns if column in table.column_names])
    for column in table.column_names:
        try:
            table = table.cast_column(column, ImageColumn(decode=False))
        except (ValueError, TypeError, NotImplementedError):  # of pyarrow, which names its kernels
            raise UserError(
                f"{where} holds no images in the column {column!r}, but "
                f"{table.features[column]}: rename the column that holds them"
            ) from None
    return table


def load_tables(name: str) -> Tables:
    """The tables of a dataset by split; `validation` is called `val`, if there is no such split.

    Args:
        name: of a dataset on the hub, a .parquet file, or a folder (of parquet files, or written by
            `save_to_disk`).

    Raises UserError if it cannot be loaded.
    """
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
    tables = {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    return {
        "val" if split == "validation" and "val" not in tables else split: table
        for split, table in tables.items()
    }


def _parquet_files(folder: Path) -> dict[str, list[str]]:
    """The parquet files of a folder by split, as patterns; a word of its path says which split.

    For folders whose names are patterns themselves, in which `datasets` finds nothing.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for file in files_below(folder):
        if file.endswith(".parquet"):
            files[split_of(file) or "train"].append(glob.escape(str(folder / file)))
    return dict(files)
