"""Seconds that a training crop of a large photo takes, beside decoding the whole photo for it.

    uv run benchmarks/large_crops.py [--json results/benchmark-large-crops.json]

A JPEG is decoded once, and crops are cut from the copy, which is in the page cache; a TIFF in
tiles, which rasterio writes, is read where the crop lies. Labels are not cut. Crops are those of
the `light` recipe, from photos as they are and from photos that are shrunk to `long_side` first.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from large_image import make
from measure import alternate, arguments, environment, ratios, spread, write

from u2pl.data import large_photos
from u2pl.data.sources.folder import Folder
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform

PARTS, WHOLE = "parts", "whole"
SUFFIX = {"jpeg": ".jpg", "geotiff": ".tif"}


def cutting(root: Path, kind: str, long_side: int, parts: bool, options: Any) -> Callable[[], None]:
    """Cuts the next crops of the photo of a kind when called."""
    transform = TrainTransform(options.crop, (0.5, 2.0), True, long_side)
    stream = Stream(Folder(root), [kind], transform, options.seed, "unlabelled", "never")
    position = iter(range(10**9))

    def cut() -> None:
        large_photos.LARGE = 0 if parts else 10**12
        for _ in range(options.crops):
            stream[next(position)]

    return cut


def main() -> None:
    """Measure, print and write."""
    options = arguments(
        __doc__, width=6000, height=4000, crop=321, crops=4, repeats=9, long_side=[0, 1024]
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "photos"
        os.environ["U2PL_CACHE"] = folder
        (root / "images").mkdir(parents=True)
        (root / "classes.txt").write_text("background\nother\n")
        for kind, suffix in SUFFIX.items():
            make(root / "images" / f"{kind}{suffix}", options.width, options.height, kind)
        for kind in SUFFIX:
            for long_side in options.long_side:
                rivals = {
                    name: cutting(root, kind, long_side, name == PARTS, options)
                    for name in (PARTS, WHOLE)
                }
                found = alternate(rivals, options.repeats, options.device)
                seconds = {
                    name: spread([each / options.crops for each in own])
                    for name, own in found.items()
                }
                times = ratios(found[WHOLE], found[PARTS])
                rows.append(
                    {"kind": kind, "long_side": long_side, "seconds": seconds, "times": times}
                )
                print(
                    f"{kind}, long_side {long_side}: {1000 * seconds[PARTS]['median']:.0f} ms from "
                    f"parts, {1000 * seconds[WHOLE]['median']:.0f} ms from the whole, "
                    f"{times['median']:.1f} times as long"
                )
    write(options.json, environment(options) | {"rows": rows})


if __name__ == "__main__":
    main()
