"""People's own annotations in COCO's format: one file, or one for each split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from u2pl.counting import Counting
from u2pl.data.file_source import IdList
from u2pl.data.ids import split_of
from u2pl.data.meta import UNLABELLED
from u2pl.data.shapes.coco import Instances, class_names, instances
from u2pl.data.shapes.drawing import Drawing
from u2pl.data.shapes.photos import ASIDE, Photos, base_of, inside
from u2pl.data.shapes.source import Annotations
from u2pl.errors import UserError
from u2pl.files import expanded

#: What Roboflow calls the file beside the images of a split.
BESIDE = "_annotations.coco.json"


def read_files(
    root: Path, files: Sequence[Path], images: str | None, counting: Counting
) -> Annotations:
    """Read files that belong together, and find their images.

    Args:
        root: folder of the images, or of images/.
        files: at least one.
        images: another folder that the images are in.
        counting: told how far it is.

    Raises:
        UserError: A file is broken, images are not there, or two files list the same.
    """
    found = [instances(file, counting) for file in files]
    names = [_names(file, root) for file in found]
    every = [name for some in names for name in some]
    if images is None:
        photos = Photos(base_of(every, (root / "images", root)))
    else:
        photos = Photos(expanded(images))
    drawings = Drawings(found)
    lists: dict[str, IdList] = {}
    empty: list[str] = []
    for file, own in zip(found, names, strict=True):
        advice = f"put them there, or write 'coco:{root}?images=FOLDER' to say where they are"
        ids = photos.all_of(own, str(file.file), advice)
        for row, id in enumerate(ids):
            if id in drawings:
                other = drawings.rows[id][0]
                raise UserError(f"{file.file} and {other} list the same image {id!r}: keep one")
            drawings.rows[id] = file.file, row
            if not file.objects[row]:
                empty.append(id)
        split = split_of(file.file.stem) or split_of(file.file.parent.name)
        if split in ("val", "test") and len(files) > 1:
            lists[split] = IdList(str(file.file), ids)
    used: Counter[str] = Counter()
    for file in found:
        for number, count in file.used.items():
            used[file.categories[number]] += count
    return Annotations(
        kind=f"COCO's {' and '.join(_below(file, root) for file in files)}",
        root=root,
        where=files[0],
        labels=class_names(found),
        used=used,
        images=photos.images,
        drawings=drawings,
        files={id: file for id, (file, _) in drawings.rows.items()},
        empty=frozenset(empty),
        empty_is=UNLABELLED,
        digest=hashlib.sha256(repr([file.digest for file in found]).encode()).hexdigest(),
        lists=lists,
        boxes=sum(file.boxes for file in found),
    )


class Drawings(Mapping[str, Drawing]):
    """Drawings that are read from their files' texts when they are asked for.

    Other processes find these texts by themselves, instead of being sent them.
    """

    def __init__(self, files: Sequence[Instances]) -> None:
        self.files = {file.file: file for file in files}
        self.digests = {file.file: file.digest for file in files}
        self.rows: dict[str, tuple[Path, int]] = {}  # id -> file, and number of the image in it

    def __getitem__(self, id: str) -> Drawing:
        file, row = self.rows[id]
        if file not in self.files:
            found = instances(file)
            if found.digest != self.digests[file]:
                raise UserError(f"{file} has changed since it was read: start again")
            self.files[file] = found
        return self.files[file].drawing(row)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "files": {}}


def _below(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _names(found: Instances, root: Path) -> list[str]:
    """The images of a file, as seen from the folder of all of them."""
    folder = found.file.parent
    own = folder == root or folder.name.lower() in ASIDE
    prefix = "" if own else f"{folder.name}/"
    return [prefix + inside(name) for name in found.names]
