"""The page to look through predictions: thumbnails, the most doubtful first."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from u2pl.data.channels import as_photo
from u2pl.data.classes import IGNORE_COLOUR
from u2pl.model.manifest import Found
from u2pl.report.overlays import write_picture, write_shown_ids
from u2pl.report.page import read_script, render, write_page
from u2pl.version import __version__

PAGE = "gallery.html"
#: Long side of a thumbnail in pixels, at most.
SIDE = 384
#: Classes that are named below a thumbnail, at most.
NAMED = 3


class Shown(NamedTuple):
    """An image of the page."""

    name: str
    label: str  # for screen readers
    text: str
    photo: str  # addresses
    mask: str
    overlay: str
    width: int  # of the thumbnail
    height: int


def thumbnail_files(name: str) -> list[str]:
    """The image and its mask, by their path below the folder of all predictions."""
    return [f"thumbnails/{name}.jpg", f"thumbnails/{name}.png"]


def write_thumbnails(
    image_HWC: np.ndarray,
    ids_HW: np.ndarray,
    palette: np.ndarray,
    background: bool,
    out: Path,
    name: str,
) -> None:
    """Write the thumbnails of an image; a background shows the image as it is.

    Args:
        image_HWC: uint8, of any number of channels.
        ids_HW: class ids, 255 = ignore.
        palette: uint8 [C, 3].
        background: whether class 0 is one.
        out: folder of all predictions.
        name: of the image.
    """
    size = fitted(image_HWC.shape[1], image_HWC.shape[0])
    whole = Image.fromarray(as_photo(image_HWC))
    small = whole.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    mask = Image.fromarray(ids_HW).resize(size, Image.Resampling.NEAREST)
    photo, shown = (out / file for file in thumbnail_files(name))
    write_picture(np.asarray(small), photo)
    write_shown_ids(np.asarray(mask), palette, background, shown)


def write_prediction_page(
    out: Path,
    found: Sequence[Found],
    classes: Sequence[str],
    palette: np.ndarray,
    settings: dict[str, Any],
) -> None:
    """Write gallery.html, which shows the thumbnails beside it.

    Args:
        out: folder of all predictions.
        found: the images, in the order of the page.
        classes: names by id.
        palette: uint8 [C, 3].
        settings: how the images were predicted: other ones begin without decisions.
    """
    script = read_script("predictions.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    seen = [(each.name, each.image, each.stored) for each in found]
    storage = hashlib.sha256(json.dumps([settings, seen]).encode()).hexdigest()[:24]
    values: dict[str, object] = {
        "title": "Predictions",
        "subtitle": f"{len(found)} images, the most doubtful first. Doubt is the mean entropy, "
        "100 % if all classes are equally likely. A click on an image opens its overlay.",
        "key": colour_names(classes, palette, any(each.ignored for each in found)),
        "images": [shown(each) for each in found],
        "storage": f"u2pl-predictions-{storage}",
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "program": f"u2pl {__version__}",
    }
    write_page(out / PAGE, render("predictions.html.j2", values))


def colour_names(
    classes: Sequence[str], palette: np.ndarray, ignored: bool
) -> list[tuple[str, Sequence[int]]]:
    """The key of the colours, with that of ignored pixels if there are any."""
    key: list[tuple[str, Sequence[int]]] = list(zip(classes, palette.tolist(), strict=True))
    return [*key, ("ignored: too unsure", IGNORE_COLOUR)] if ignored else key


def shown(found: Found) -> Shown:
    """An image as the page shows it."""
    largest = sorted(found.shares.items(), key=lambda share: -share[1])[:NAMED]
    parts = ", ".join(
        f"{name} {'<1' if 0 < share < 0.005 else f'{100 * share:.0f}'}\u00a0%"
        for name, share in largest
    )
    doubt = f"doubt {100 * found.entropy:.0f}\u00a0%"
    photo, mask = thumbnail_files(found.name)
    width, height = fitted(found.width, found.height)
    return Shown(
        found.name,
        f"{found.name}, {doubt}, {parts}",
        f"{doubt}: {parts}",
        quote(photo),
        quote(mask),
        quote(f"overlay/{found.name}.jpg"),
        width,
        height,
    )


def fitted(width: int, height: int) -> tuple[int, int]:
    """Width and height of a thumbnail."""
    scale = min(1.0, SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
