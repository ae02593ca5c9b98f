"""Memory and time that `predict` takes for one large image, with a tiny network.

    uv run benchmarks/large_image.py
    uv run benchmarks/large_image.py --side 20000 --kind jpeg
    uv run benchmarks/large_image.py --kind geotiff

Peak memory is what the process holds at most beyond what it holds with the network loaded, after a
small image was predicted. `tiff` is read strip by strip, `jpeg` is decoded once; `geotiff`, which
needs rasterio, lies in tiles, and its prediction is written on its grid.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from measure import WALL, arguments, environment, write
from PIL import Image

from u2pl.data.geo.rasters import load_rasterio
from u2pl.model.card import Card
from u2pl.model.model import Model
from u2pl.model.predict_files import Output, predict_files
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig

#: How the kinds of files are saved.
KINDS: dict[str, dict[str, Any]] = {
    "tiff": {"format": "TIFF", "compression": "tiff_deflate"},
    "jpeg": {"format": "JPEG", "quality": 80},
    "geotiff": {"driver": "GTiff", "crs": "EPSG:32633", "tiled": True, "compress": "deflate"},
}


def make(path: Path, width: int, height: int, kind: str) -> None:
    """Write an image of coloured blocks."""
    Image.MAX_IMAGE_PIXELS = None
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (height // 64 + 1, width // 64 + 1, 3)).astype(np.uint8)
    image = Image.fromarray(blocks).resize((width, height), Image.Resampling.BILINEAR)
    if kind != "geotiff":
        image.save(path, **KINDS[kind])
        return
    rasterio = load_rasterio()
    place = rasterio.Affine(10, 0, 400_000, 0, -10, 5_400_000)
    shape = {"width": width, "height": height, "count": 3, "dtype": "uint8", "transform": place}
    with rasterio.open(path, "w", **shape, **KINDS[kind]) as file:
        file.write(np.moveaxis(np.asarray(image), 2, 0))


def tiny_model(classes: int, device: torch.device) -> Model:
    """A network whose weights are a few megabytes."""
    torch.manual_seed(0)
    config = NetworkConfig(
        encoder="test_resnet", encoder_weights="none", decoder="segformer", width=16, embed_dim=0
    )
    names = ("background", *(f"class {number}" for number in range(1, classes)))
    card = Card(network=config, classes=names)
    return Model(build_segmentor(config, classes).eval(), card).to(device)


def most_held() -> int:
    """The most memory that this process has held so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Measure, print and write."""
    options = arguments(
        __doc__, side=10_000, width=0, classes=21, window=512, kind="tiff", polygons=0
    )
    width, height = options.width or options.side, options.side
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"large.{options.kind.removeprefix('geo')}"
        # another process, so that its memory is not counted
        context = multiprocessing.get_context("spawn")
        maker = context.Process(target=make, args=(path, width, height, options.kind))
        maker.start()
        maker.join()
        small = Path(folder) / "small.png"
        Image.new("RGB", (1024, 1024)).save(small)
        model = tiny_model(options.classes, options.device)
        output = Output(formats=("coco",) if options.polygons else ())
        predict_files(model, [small], Path(folder) / "small", output=output, window=options.window)
        before, begin, said = (
            psutil.Process().memory_info().rss,
            time.perf_counter(),
            time.perf_counter(),
        )

        @contextmanager
        def counting(what: str) -> Any:
            def show(done: float, total: int) -> None:
                nonlocal said
                if time.perf_counter() - said > 10:
                    said = time.perf_counter()
                    print(f"{what}: {100 * done / total:.0f} %", flush=True)

            yield show

        done = predict_files(
            model,
            [path],
            Path(folder) / "out",
            output=output,
            window=options.window,
            counting=counting,
        )
        seconds, peak = time.perf_counter() - begin, most_held() - before
    assert not done.failures, done.failures
    megapixels = width * height / 1e6
    print(
        f"{width}x{height} ({megapixels:.0f} megapixels, {options.kind}), {options.classes} "
        f"classes, windows of {options.window}: {peak / 1e9:.2f} GB beside the network and "
        f"PyTorch ({before / 1e9:.2f} GB), {seconds:.0f} s"
    )
    figures = {
        "megapixels": megapixels,
        "peak_bytes": peak,
        "before_bytes": before,
        "seconds": seconds,
    }
    write(options.json, {**environment(options), "clock": WALL, **figures})


if __name__ == "__main__":
    main()
