"""What `predict` does."""

from __future__ import annotations

from pathlib import Path

from u2pl.cli.console import ConsoleReporter, standard_output
from u2pl.cli.errors import fail
from u2pl.cli.requests import PredictRequest
from u2pl.data.content import count_turned
from u2pl.data.geo.rasters import has_place
from u2pl.evaluate.crf import load_crf
from u2pl.model.formats import find_format
from u2pl.model.model import choose_device, load
from u2pl.model.predict_files import (
    TABLE,
    Output,
    Predicted,
    is_data_folder,
    predict_files,
)
from u2pl.model.prediction_page import PAGE
from u2pl.model.raster_files import raster_files
from u2pl.training.threads import choose_threads


def predict(request: PredictRequest) -> None:
    """Write masks, pictures and whatever else is asked for, and say where."""
    reporter = ConsoleReporter(standard_output())
    output = Output(
        ignore_below=request.ignore_below,
        formats=tuple(dict.fromkeys(request.format or ())),
        min_area=request.min_area,
        tolerance=request.tolerance,
        gallery=request.gallery,
        resume=request.resume,
        overwrite=request.overwrite,
    )
    choose_threads()
    model = load(request.checkpoint, choose_device(request.cpu))
    if request.crf:
        load_crf()
    done = predict_files(
        model,
        request.images,
        request.out,
        output=output,
        window=request.window,
        stored_pixels=request.stored_pixels,
        counting=reporter.counting,
        **request.view,
    )
    for line in result_lines(request, done):
        reporter.say(line)
    if done.failures:
        more = " ..." if done.failures[1:] else ""
        count, reason = len(done.failures), done.failures[0].reason
        fail(f"{count} of the images could not be predicted: {reason}{more}")


def result_lines(request: PredictRequest, done: Predicted) -> list[str]:
    """What was written where; nothing if nothing was."""
    if not done.found:
        return []
    out, count = request.out, len(done.found)
    before = f", {done.skipped} of them before" if done.skipped else ""
    rasters = [each for each in done.found if (out / raster_files(each.name)[0]).is_file()]
    colour = "" if len(rasters) == count else "colour/, "
    lines = [
        f"{count} image{'s' * (count > 1)} in {out}{before}: ids/, {colour}overlay/, confidence/, "
        "and classes.png, which colour is which class"
    ]
    lines[:0] = [
        f"{path} is a folder of data: its images/ were predicted, not its masks"
        for path in request.images
        if is_data_folder(path)
    ]
    first = done.found[0]
    lines.append(
        f"most doubtful: {first.name}, entropy {first.entropy:.2f} of 1; all in {out / TABLE}"
    )
    if rasters:
        lines.append(f"{len(rasters)} of them are GeoTIFFs: ids/ and confidence/ lie on their grid")
    lost = 0 if rasters else sum(has_place(Path(each.image)) for each in done.found)
    if lost:
        lines.append(
            f"{lost} of them are GeoTIFFs, predicted as plain images: uv sync --extra geo keeps "
            "their places"
        )
    turned = count_turned(Path(each.image) for each in done.found)
    if turned:
        lie = "as they are stored" if request.stored_pixels else "as viewers show them, upright"
        other = "" if request.stored_pixels else "; --stored-pixels leaves them as they are stored"
        lines.append(f"EXIF turns {turned} of them: predicted {lie}{other}")
    lines += [f"{name}: {out / find_format(name).PLACE}" for name in request.format or ()]
    return [*lines, *([f"look through them: {out / PAGE}"] if request.gallery else [])]
