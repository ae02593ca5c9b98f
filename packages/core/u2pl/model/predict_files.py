"""Predict files of any size: masks of class ids, coloured masks and overlays."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np

from u2pl.counting import OnProgress
from u2pl.data.ids import IMAGE_SUFFIXES
from u2pl.data.reading import read_size
from u2pl.data.walking import files_below
from u2pl.errors import UserError, out_of_memory
from u2pl.model.model import Model, View
from u2pl.report.overlays import colour_key, colour_mask, write_ids, write_picture

#: Photos that cannot be read: said, where they lie among others, instead of passed over.
UNREAD_SUFFIXES = (".heic", ".heif", ".jxl")
FOLDERS = ("ids", "colour", "overlay")
#: Which colour is which class.
KEY = "classes.png"


class Failure(NamedTuple):
    """An image that could not be predicted, and why, in one line."""

    path: Path
    reason: str


def predict_files(
    model: Model,
    inputs: Sequence[Path],
    out: Path,
    progress: OnProgress | None = None,
    *,
    stored_pixels: bool = False,
    **view: Unpack[View],
) -> list[Failure]:
    """Write ids/NAME.png (with palette), colour/NAME.png and overlay/NAME.jpg for every image.

    classes.png says which colour is which class.

    Args:
        model: on any device.
        inputs: files, or folders that are searched with their sub-folders, whose names are kept.
        out: folder of the three.
        progress: called with (images done, images to do).
        stored_pixels: as in `Model.predict`.
        view: changes of the model's protocol; `center-crop` predicts the whole image, for a mask
            must cover its image.

    Returns: the images that could not be read or did not fit in memory; all others were written.
    Raises UserError before anything is written if an input does not exist, holds no image, or two
    images would get the same name; and if `out` cannot be written.
    """
    model.protocol(**view)  # a change that makes no sense is an error before anything is written
    named, palette = find_images(inputs, out), model.palette
    failures: list[Failure] = []
    write_picture(colour_key(model.classes, palette), out / KEY)
    for done, (name, path) in enumerate(named.items(), 1):
        try:
            found = model.predict(path, stored_pixels=stored_pixels, **view)
        except UserError as error:
            failures.append(Failure(path, str(error)))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            width, height = read_size(path)
            reason = (
                f"{path}: {width}x{height} pixels do not fit in the device's memory; use --mode "
                "slide with a smaller --crop, no larger --scales, or --cpu"
            )
            failures.append(Failure(path, reason))
        else:
            write_ids(found.ids, palette, out / "ids" / f"{name}.png")
            write_picture(colour_mask(found.ids, palette), out / "colour" / f"{name}.png")
            write_picture(np.asarray(found.overlay()), out / "overlay" / f"{name}.jpg")
        if progress is not None:
            progress(done, len(named))
    return failures


def find_images(inputs: Sequence[Path], out: Path) -> dict[str, Path]:
    """The images that `inputs` mean, by the name of their prediction: their path without suffix.

    The path is that below the given folder. In folders, files count if they have a photo's suffix
    and `files_below` does not skip them; earlier predictions in `out` do not count. `a.jpg`
    beside `a.png` become `a_jpg` and `a_png`; raises UserError if names still clash.
    """
    # resolved -> (as typed, below its input): a file that is named twice is predicted once
    found: dict[Path, tuple[Path, Path]] = {}
    for given in inputs:
        if given.is_dir():
            below = _images_below(given, [(out / folder).resolve() for folder in (*FOLDERS, KEY)])
        elif given.is_file():
            below = [Path(given.name)]
        else:
            raise UserError(f"{given}: there is no such file or folder")
        for relative in below:
            path = given / relative if given.is_dir() else given
            found.setdefault(path.resolve(), (path, relative))
    stems = Counter(relative.with_suffix("") for _, relative in found.values())
    named: dict[str, Path] = {}
    for path, relative in found.values():
        bare = relative.with_suffix("")
        alone = stems[bare] == 1
        own = bare if alone else bare.with_name(f"{bare.name}_{relative.suffix[1:]}")
        name = own.as_posix()
        if name in named:
            raise UserError(
                f"{path} and {named[name]} would both be written as {name}; predict them into two "
                "folders"
            )
        named[name] = path
    return named


def _images_below(folder: Path, skipped: list[Path]) -> list[Path]:
    images = [
        Path(file)
        for file in files_below(folder)
        if os.path.splitext(file)[1].lower() in (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES)
        and not any((folder / file).resolve().is_relative_to(own) for own in skipped)
    ]
    if not images:
        raise UserError(f"{folder}: this folder holds no image ({' '.join(IMAGE_SUFFIXES)})")
    return images
