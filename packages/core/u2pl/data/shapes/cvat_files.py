"""A task of CVAT with its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from u2pl.counting import Counting
from u2pl.data.file_source import IdList
from u2pl.data.ids import split_of
from u2pl.data.meta import UNLABELLED
from u2pl.data.shapes.cvat import Photo, read_task
from u2pl.data.shapes.photos import Photos, base_of, inside, root_of
from u2pl.data.shapes.source import Annotations
from u2pl.files import expanded


def read_file(file: Path, images: str | None, counting: Counting) -> Annotations:
    """Read a file, and find its images.

    Args:
        file: annotations.xml; the images are beside it or in images/.
        images: another folder that the images are in.
        counting: told how far it is.

    Raises:
        UserError: The file is broken, or images are not there.
    """
    task, root = read_task(file, counting), root_of(file)
    names = [_name(photo) for photo in task.photos]
    if images is None:
        photos = Photos(base_of(names, (root / "images", root)))
    else:
        photos = Photos(expanded(images))
    advice = f"put them there, or write 'cvat:{root}?images=FOLDER' to say where they are"
    ids = photos.all_of(names, str(file), advice)
    drawings = {id: photo.drawing for id, photo in zip(ids, task.photos, strict=True)}
    return Annotations(
        kind=f"CVAT's {file.name}",
        root=root,
        where=file,
        labels=task.labels,
        used=Counter(shape.label for each in drawings.values() for shape in each.shapes),
        images=photos.images,
        drawings=drawings,
        files=dict.fromkeys(ids, file),
        empty=frozenset(id for id, drawing in drawings.items() if not drawing.shapes),
        empty_is=UNLABELLED,
        digest=task.digest,
        lists=_lists(task.photos, ids, file),
        boxes=task.boxes,
        left_out=task.left_out,
    )


def _name(photo: Photo) -> str:
    """Where an image lies: images of a project are in a folder for each subset."""
    name = inside(photo.name)
    return f"{photo.subset}/{name}" if photo.subset else name


def _lists(photos: Sequence[Photo], ids: Sequence[str], file: Path) -> dict[str, IdList]:
    """Subsets to score on, which a project may have; all other images train."""
    splits = [split_of(photo.subset) for photo in photos]
    return {
        name: IdList(f"{file}: subset {name}", own)
        for name in ("val", "test")
        if (own := [id for id, split in zip(ids, splits, strict=True) if split == name])
    }
