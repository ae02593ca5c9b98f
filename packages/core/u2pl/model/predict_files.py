"""Predict files of any size: masks of class ids, pictures of them, and how sure they are."""

from __future__ import annotations

import csv
import io
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np

from u2pl.cache import digest
from u2pl.counting import Counting, OnProgress, silently
from u2pl.data.classes import is_background
from u2pl.data.geo.rasters import read_raster
from u2pl.data.geo.regions import RasterRegions
from u2pl.data.ids import IMAGE_SUFFIXES
from u2pl.data.outlines import outlines
from u2pl.data.reading import read_ids, read_size
from u2pl.data.regions import Regions
from u2pl.data.sources.folder import CLASSES, IMAGES
from u2pl.data.walking import files_below
from u2pl.errors import UserError, one_line, out_of_memory
from u2pl.evaluate.bands import Segmented, empty
from u2pl.files import write_text
from u2pl.model import formats
from u2pl.model.formats import Image
from u2pl.model.manifest import Found, Manifest, stored
from u2pl.model.model import LARGE, Model, View
from u2pl.model.prediction_page import (
    PAGE,
    thumbnail_files,
    write_prediction_page,
    write_thumbnails,
)
from u2pl.model.raster_files import (
    every_row,
    on_disk,
    raster_files,
    write_class_raster,
    write_grey_raster,
)
from u2pl.notation import IGNORE
from u2pl.report.overlays import (
    colour_key,
    colour_mask,
    overlay,
    write_grey,
    write_ids,
    write_picture,
)

#: Photos that cannot be read: said, where they lie among others, instead of passed over.
UNREAD_SUFFIXES = (".heic", ".heif", ".jxl")
#: Where predictions go, also those of versions without a manifest.
FOLDERS = ("ids", "colour", "overlay")
#: Which colour is which class; a table of all images.
KEY, TABLE = "classes.png", "predictions.csv"
#: Long side in pixels of the overlay of an image that is predicted in parts.
OVERLAY = 4096


class Failure(NamedTuple):
    """An image that could not be predicted, and why, in one line."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is written besides masks, and over what.

    Args:
        ignore_below: pixels that are less sure become 255 in masks and pictures.
        formats: of polygons.
        min_area: pixels of the smallest part of a class that gets a polygon; smaller ones are given
            to their neighbours.
        tolerance: pixels that a polygon may be off the mask.
        gallery: whether to write a page to look through the predictions.
        resume: leave out images that are done.
        overwrite: replace files that no prediction has written.
    """

    ignore_below: float = 0.0
    formats: tuple[str, ...] = ()
    min_area: int = 64
    tolerance: float = 0.75
    gallery: bool = False
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 0 <= self.ignore_below <= 1:
            raise UserError(
                f"--ignore-below {self.ignore_below:g}: a probability lies between 0 and 1"
            )
        if self.min_area < 0 or not self.tolerance >= 0:  # it may be no number
            raise UserError("--min-area and --tolerance must not be negative")
        for name in self.formats:
            formats.find_format(name)


class Predicted(NamedTuple):
    """What became of the images."""

    found: list[Found]  # those that are predicted, the most doubtful first
    skipped: int  # how many of them were done before
    failures: list[Failure]


def predict_files(
    model: Model,
    inputs: Sequence[Path],
    out: Path,
    *,
    output: Output | None = None,
    window: int | None = None,
    stored_pixels: bool = False,
    counting: Counting = silently,
    **view: Unpack[View],
) -> Predicted:
    """Write a mask, pictures and the confidence of every image, and a table of all.

    ids/NAME.png (with palette), colour/NAME.png, overlay/NAME.jpg and confidence/NAME.png; of a
    GeoTIFF ids/NAME.tif, overlay/NAME.jpg and confidence/NAME.tif, on its grid. classes.png says
    which colour is which class, and predictions.jsonl which files are of predictions: no other file
    is ever replaced.

    Args:
        model: on any device.
        inputs: files, or folders that are searched with their sub-folders, whose names are kept.
        out: folder of all that is written.
        output: what is written besides.
        window: side in pixels of the parts in which the network sees images, see `Model.segment`.
        stored_pixels: as in `Model.predict`.
        counting: opens a counter for each piece of work.
        view: changes of the model's protocol; `center-crop` predicts the whole image, for a mask
            must cover its image.

    Images that cannot be read or do not fit in memory are returned; all others are written.

    Raises UserError before anything is written if an input does not exist, holds no image, two
    images would get the same name, or a file that no prediction wrote is in the way; and if `out`
    cannot be written.
    """
    output = output or Output()
    protocol = model.protocol(**view)  # a change that makes no sense is said before all else
    manifest = Manifest(out)
    named = find_images(inputs, out, manifest.files)
    files = {
        name: raster_files(name) if model.is_raster(path) else image_files(name)
        for name, path in named.items()
    }
    formats.check(output.formats, [Image(name, path, 0, 0) for name, path in named.items()])
    settings = {
        "network": digest(model.network.state_dict()),
        "classes": list(model.classes),
        "protocol": protocol.model_dump(mode="json"),
        "window": window,
        "stored_pixels": stored_pixels,
        "ignore_below": output.ignore_below,
    }
    if output.resume:
        check_same(manifest, settings)
    done = {
        name
        for name, path in named.items()
        if output.resume and manifest.done(name, path, files[name])
    }
    missing = {name: path for name, path in named.items() if name not in done}
    strange = None if output.overwrite else manifest.foreign(planned(named, missing, files, output))
    if strange is not None:
        raise UserError(
            f"{out / strange} was not written by predict, or was changed since: choose another "
            "--out, or add --overwrite to replace it"
        )
    manifest.start(settings, done)
    with manifest.writing([KEY]):
        write_picture(colour_key(model.classes, model.palette), out / KEY)
    failures: list[Failure] = []
    with counting("predicting") as progress:
        for place, (name, path) in enumerate(missing.items()):
            shown = _within(progress, place, len(missing))
            try:
                regions = model.open_image(path, stored_pixels)
                large = isinstance(regions, RasterRegions) and regions.pixels > LARGE
                room = on_disk(out) if large else empty
                segmented = model.segment(regions, window, shown, room, **view)
            except UserError as error:
                failures.append(Failure(path, str(error)))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                failures.append(Failure(path, _too_large(model, path)))
            else:
                more = thumbnail_files(name) if output.gallery else []
                with manifest.writing([*files[name], *more]) as written:
                    written.append(write_image(model, name, path, regions, segmented, out, output))
            progress(place + 1, len(missing))
    found = sorted(
        (manifest.found[name] for name in named if name in manifest.found),
        key=lambda each: (-each.entropy, each.name),
    )
    with manifest.writing([TABLE]):
        write_table(found, model.classes, output.ignore_below > 0, out / TABLE)
    _write_formats(model, found, manifest, output, counting)
    if output.gallery:
        _write_gallery(model, found, manifest, output, counting)
    return Predicted(found, len(done), failures)


def planned(
    named: Mapping[str, Path],
    missing: Iterable[str],
    files: Mapping[str, list[str]],
    output: Output,
) -> Iterator[str]:
    """The files that will be written, by their path below the folder of all.

    Args:
        named: all images.
        missing: those that are not done.
        files: of each image.
        output: what is written.
    """
    yield from (KEY, TABLE)
    for name in missing:
        yield from files[name]
    images = [Image(name, path, 0, 0) for name, path in named.items()]
    yield from formats.planned(output.formats, images)
    if output.gallery:
        yield PAGE
        for name in named:
            yield from thumbnail_files(name)


def image_files(name: str) -> list[str]:
    """The files of an image, by their path below the folder of all."""
    places = ("ids/{}.png", "colour/{}.png", "overlay/{}.jpg", "confidence/{}.png")
    return [place.format(name) for place in places]


def check_same(manifest: Manifest, settings: Mapping[str, object]) -> None:
    """UserError if a folder holds no predictions, or others than would be written now."""
    if manifest.settings is None:
        raise UserError(
            f"--resume: {manifest.out} holds no predictions to go on with; leave --resume out"
        )
    other = [key for key, value in settings.items() if manifest.settings.get(key) != value]
    if other:
        words = ", ".join(key.replace("_", "-") for key in other)
        raise UserError(
            f"--resume: {manifest.out} was predicted with another {words}; leave --resume out to "
            "predict all anew, or choose another --out"
        )


def write_image(
    model: Model,
    name: str,
    path: Path,
    regions: Regions,
    segmented: Segmented,
    out: Path,
    output: Output,
) -> Found:
    """Write the files of an image."""
    palette, background = model.palette, is_background(0, model.classes[0])
    known = len(model.classes)
    # row by row, since counting takes eight bytes for each pixel
    rows = [np.bincount(row, minlength=known)[:known] for row in segmented.ids]
    ids = ignored_below(segmented, output.ignore_below)
    large = regions.pixels > LARGE
    if isinstance(regions, RasterRegions):
        mask, blended, confidence = (out / file for file in raster_files(name))
        write_class_raster(ids, palette, regions.raster, mask)
        write_grey_raster(segmented.confidence, regions.raster, confidence)
    else:
        mask, colour, blended, confidence = (out / file for file in image_files(name))
        write_ids(ids, palette, mask)
        write_grey(segmented.confidence, confidence)
        if large:  # colours by id take a third of the memory
            write_ids(ids, palette, colour)
        else:
            write_picture(colour_mask(ids, palette), colour)
    factor = -(-max(ids.shape) // OVERLAY) if large else 1
    small, small_ids = regions.reduced(factor), every(ids, factor)
    write_picture(overlay(small, small_ids, palette, background=background), blended)
    if output.gallery:
        write_thumbnails(small, small_ids, palette, background, out, name)
    return Found(
        name=name,
        image=str(path),
        stored=stored(path),
        width=regions.width,
        height=regions.height,
        confidence=round(segmented.mean_confidence, 6),
        entropy=round(segmented.mean_doubt, 6),
        ignored=round(sum(int((row == IGNORE).sum()) for row in ids) / ids.size, 6),
        shares={
            label: round(float(pixels) / ids.size, 6)
            for label, pixels in zip(model.classes, np.sum(rows, axis=0), strict=True)
            if pixels
        },
    )


def ignored_below(segmented: Segmented, least: float) -> np.ndarray:
    """Class ids, uint8 [H, W], 255 where the confidence, in its 255 steps, is below `least`.

    They are written into `segmented.ids`, which may be too large to be there twice.
    """
    if least > 0:
        steps = np.ceil(np.float64(least) * 255 - 1e-9)
        for ids, sure in zip(
            every_row(segmented.ids), every_row(segmented.confidence), strict=True
        ):
            ids[sure < steps] = IGNORE
    return segmented.ids


def every(ids_HW: np.ndarray, factor: int) -> np.ndarray:
    """The middle one of every factor x factor pixels, as `Regions.reduced` has the means."""
    if factor == 1:
        return ids_HW
    rows, columns = (
        np.minimum(np.arange(0, side, factor) + factor // 2, side - 1) for side in ids_HW.shape
    )
    return ids_HW[np.ix_(rows, columns)]


def write_table(found: Iterable[Found], classes: Sequence[str], ignored: bool, path: Path) -> None:
    """Write predictions.csv: a line for each image, in the given order."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = ["image", "confidence", "entropy", *(["ignored"] if ignored else [])]
    table.writerow([*head, *(f"share {name}" for name in classes)])
    for each in found:
        row = [each.name, each.confidence, each.entropy, *([each.ignored] if ignored else [])]
        table.writerow([*row, *(each.shares.get(name, 0) for name in classes)])
    write_text(path, text.getvalue())


def find_images(inputs: Sequence[Path], out: Path, written: Iterable[str] = ()) -> dict[str, Path]:
    """The images that `inputs` mean, by the name of their prediction: their path without suffix.

    The path is that below the given folder; of a folder of data, the photos are those in images/,
    and masks are none. In folders, files count if they have a photo's suffix
    and `files_below` does not skip them; earlier predictions in `out` do not count. `a.jpg`
    beside `a.png` become `a_jpg` and `a_png`; raises UserError if names still clash.

    Args:
        inputs: files and folders.
        out: where predictions go.
        written: files below `out` that are predictions.
    """
    own = {os.path.join(out.resolve(), file) for file in (*written, KEY)}
    # resolved -> (as typed, below its input): a file that is named twice is predicted once
    found: dict[Path, tuple[Path, Path]] = {}
    for typed in inputs:
        given = typed / IMAGES if is_data_folder(typed) else typed
        if given.is_dir():
            below = _images_below(given, [(out / folder).resolve() for folder in FOLDERS], own)
        elif given.is_file():
            below = [Path(given.name)]
        else:
            advice = ""
            if str(typed).startswith("hf:"):
                words = shlex.join(["convert", str(typed), "--to", "FOLDER"])
                advice = f": predict takes image files, which {words} writes into FOLDER/images"
            raise UserError(f"{given}: there is no such file or folder{advice}")
        for relative in below:
            path = given / relative if given.is_dir() else given
            found.setdefault(path.resolve(), (path, relative))
    stems = Counter(relative.with_suffix("") for _, relative in found.values())
    named: dict[str, Path] = {}
    for path, relative in found.values():
        bare = relative.with_suffix("")
        alone = stems[bare] == 1
        own_name = bare if alone else bare.with_name(f"{bare.name}_{relative.suffix[1:]}")
        name = own_name.as_posix()
        if name in named:
            raise UserError(
                f"{path} and {named[name]} would both be written as {name}; predict them into two "
                "folders"
            )
        if one_line(name) != name or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(f"{name!r} has letters that no text file can hold: rename the image")
        named[name] = path
    return named


def is_data_folder(path: Path) -> bool:
    """Whether a folder holds photos in images/ and what training needs beside them."""
    return (path / CLASSES).is_file() and (path / IMAGES).is_dir()


def _images_below(folder: Path, skipped: list[Path], own: set[str]) -> list[Path]:
    images = [
        Path(file)
        for file in files_below(folder)
        if os.path.splitext(file)[1].lower() in (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES)
        and os.path.join((folder / file).parent.resolve(), os.path.basename(file)) not in own
        and not any((folder / file).resolve().is_relative_to(each) for each in skipped)
    ]
    if not images:
        raise UserError(f"{folder}: this folder holds no image ({' '.join(IMAGE_SUFFIXES)})")
    return images


def _within(progress: OnProgress, place: int, total: int) -> OnProgress:
    """Tells how far an image is as a part of all."""

    def show(done: float, parts: int) -> None:
        progress(place + done / parts, total)

    return show


def _too_large(model: Model, path: Path) -> str:
    if model.is_raster(path):
        width, height = read_raster(path).size
    else:
        width, height = read_size(path)
    return (
        f"{path}: {width}x{height} pixels do not fit in the device's memory; use --window 512 or "
        "--cpu"
    )


def _read_back(model: Model, out: Path, name: str, path: Path) -> np.ndarray:
    """The ids of an image as they were written."""
    files = raster_files(name) if model.is_raster(path) else image_files(name)
    return read_ids(out / files[0])


def _write_formats(
    model: Model, found: Sequence[Found], manifest: Manifest, output: Output, counting: Counting
) -> None:
    images = [Image(each.name, Path(each.image), each.width, each.height) for each in found]
    images.sort(key=lambda image: image.name)
    numbers = {id: number for number, id in enumerate(formats.drawn(model.classes))}
    for name in output.formats:
        with counting(f"writing {name}") as progress:
            shapes = _shapes(model, manifest.out, output, numbers, progress, len(images))
            with manifest.writing(formats.planned([name], images)):
                formats.find_format(name).write(manifest.out, model.classes, images, shapes)


def _shapes(
    model: Model,
    out: Path,
    output: Output,
    numbers: dict[int, int],
    progress: OnProgress,
    total: int,
) -> Callable[[Image], list[formats.Shape]]:
    """Finds the shapes of an image in the mask that was written of it."""
    done = 0

    def find(image: Image) -> list[formats.Shape]:
        nonlocal done
        ids = _read_back(model, out, image.name, image.file)
        parts = outlines(ids, numbers, output.min_area, output.tolerance)
        done += 1
        progress(done, total)
        return formats.to_shapes(parts, model.classes, numbers)

    return find


def _write_gallery(
    model: Model, found: Sequence[Found], manifest: Manifest, output: Output, counting: Counting
) -> None:
    lacking = [
        each
        for each in found
        if not all((manifest.out / file).is_file() for file in thumbnail_files(each.name))
    ]
    background = is_background(0, model.classes[0])
    settings = manifest.settings or {}
    with counting("drawing thumbnails") as progress:
        for done, each in enumerate(lacking, 1):
            path = Path(each.image)
            regions = model.open_image(path, bool(settings["stored_pixels"]))
            factor = max(1, max(regions.width, regions.height) // 1024)
            ids = every(_read_back(model, manifest.out, each.name, path), factor)
            small = regions.reduced(factor)
            with manifest.writing(thumbnail_files(each.name)):
                write_thumbnails(small, ids, model.palette, background, manifest.out, each.name)
            progress(done, len(lacking))
    with manifest.writing([PAGE]):
        write_prediction_page(manifest.out, found, model.classes, model.palette, settings)
