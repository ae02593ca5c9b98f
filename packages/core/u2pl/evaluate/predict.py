"""Predict files of any size: masks of class ids, coloured masks and overlays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from u2pl.data.reading import read_rgb
from u2pl.errors import UserError
from u2pl.evaluate.inference import evaluating, predict_probabilities
from u2pl.evaluate.protocol import Protocol
from u2pl.report.overlays import colour_mask, overlay, write_ids, write_picture

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
FOLDERS = ("ids", "colour", "overlay")


class Failure(NamedTuple):
    """An image that could not be predicted, and why, in one line."""

    path: Path
    reason: str


def predict_files(
    network: nn.Module,
    palette: np.ndarray | Sequence[Sequence[int]],
    inputs: Sequence[Path],
    out: Path,
    protocol: Protocol,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None = None,
) -> list[Failure]:
    """Write `out/ids/NAME.png` (class ids, with palette), `out/colour/NAME.png` and `out/overlay/NAME.jpg` for every image.

    Args:
        network: on `device`; put into eval mode and back.
        palette: display colours, uint8 [C, 3].
        inputs: files, or folders that are searched with their sub-folders, whose names are kept below `out`.
        protocol: `center-crop` predicts the whole image, for a mask must cover its image.
        progress: called with (images done, images to do).

    Returns: the images that could not be read or did not fit in memory; all others were written.
    Raises UserError before anything is written when an input does not exist, holds no image, or two images would get the same name;
    and when `out` cannot be written.
    """
    named = find_images(inputs, out)
    palette = np.asarray(palette, dtype=np.uint8)
    failures = []
    with evaluating([network]):
        for done, (name, path) in enumerate(named.items(), 1):
            try:
                image = np.array(read_rgb(path))
                ids = _predict(network, image, protocol, device)
            except UserError as error:
                failures.append(Failure(path, str(error)))
            except torch.OutOfMemoryError:
                reason = f"{path}: {image.shape[1]}x{image.shape[0]} pixels do not fit in the device's memory; use --mode slide or --cpu"
                failures.append(Failure(path, reason))
            else:
                write_ids(ids, palette, out / "ids" / f"{name}.png")
                write_picture(colour_mask(ids, palette), out / "colour" / f"{name}.png")
                write_picture(overlay(image, ids, palette), out / "overlay" / f"{name}.jpg")
            if progress is not None:
                progress(done, len(named))
    return failures


def find_images(inputs: Sequence[Path], out: Path) -> dict[str, Path]:
    """The images that `inputs` mean, by the name their prediction gets: the path below the given folder, without its suffix.

    Files in folders count when their suffix is an image's and no part of their path starts with a dot; earlier predictions in `out` do not.
    `a.jpg` beside `a.png` become `a_jpg` and `a_png`; raises UserError when names still clash.
    """
    found: dict[Path, tuple[Path, Path]] = {}  # resolved -> (as typed, below its input): a file that is meant twice is predicted once
    for given in inputs:
        if given.is_dir():
            below = _images_below(given, [(out / folder).resolve() for folder in FOLDERS])
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
        name = (bare if stems[bare] == 1 else bare.with_name(f"{bare.name}_{relative.suffix[1:]}")).as_posix()
        if name in named:
            raise UserError(f"{path} and {named[name]} would both be written as {name}; predict them into two folders")
        named[name] = path
    return named


def _images_below(folder: Path, skipped: list[Path]) -> list[Path]:
    images = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not any(path.resolve().is_relative_to(own) for own in skipped)
    ]
    if not images:
        raise UserError(f"{folder}: this folder holds no image ({' '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def _predict(network: nn.Module, image_HW3: np.ndarray, protocol: Protocol, device: torch.device | str) -> np.ndarray:
    image = torch.from_numpy(image_HW3).permute(2, 0, 1).to(device)
    return predict_probabilities(network, image, protocol).argmax(0).to(torch.uint8).cpu().numpy()
