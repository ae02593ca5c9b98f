"""What the commands of the semi-supervised app can be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from u2pl.cli.requests import CPU, SCORED
from u2pl.run.request import Request

DATA = (
    "demo, a folder (images/, masks/, classes.txt), what a labelling program exported (a folder, "
    ".zip or file), geotiff:PATH, voc:PATH, cityscapes:PATH, ade20k:PATH, coco:PATH or hf:NAME"
)
LABELED = (
    "which images count as labelled: a number, a fraction (1/16, 0.1), a split's name or a file of "
    "ids"
)
DETECTOR = typer.Argument(help="folder of a run of detector train")


@dataclass(frozen=True, kw_only=True)
class SemiRequest(Request):
    """What `u2pl-semi train` can be asked."""

    SOURCES: ClassVar[tuple[str, ...]] = ("data",)

    data: Annotated[str, typer.Option(help=DATA)] = "demo"
    labeled: Annotated[str | None, typer.Option(help=LABELED)] = None


@dataclass(frozen=True, kw_only=True)
class SuggestRequest:
    """What `u2pl-semi suggest` can be asked."""

    checkpoint: Annotated[Path, SCORED]
    count: Annotated[int, typer.Option(min=1, help="images to suggest")] = 20
    out: Annotated[
        Path | None,
        typer.Option(
            help="file for their ids, one per line, as --labeled takes it; must not exist"
        ),
    ] = None
    with_labeled: Annotated[
        bool,
        typer.Option(
            "--with-labeled",
            help="write the labelled images into the file too, as the next run needs them",
        ),
    ] = False
    split: Annotated[
        str | None,
        typer.Option(help="choose from this list; from all of training if left out"),
    ] = None
    data: Annotated[
        str | None, typer.Option(help="a data source; the one it was trained on if left out")
    ] = None
    labeled: Annotated[str | None, typer.Option(help=f"{LABELED}; as in the run if left out")] = (
        None
    )
    cpu: Annotated[bool, CPU] = False


@dataclass(frozen=True, kw_only=True)
class DetectorShowRequest:
    """What `u2pl-semi detector show` can be asked."""

    preset: Annotated[str, typer.Option(help="demo, light or resnet50")] = "light"
    set: Annotated[list[str] | None, typer.Option(help="section.key=value, repeatable")] = None


@dataclass(frozen=True, kw_only=True)
class BoxesRequest:
    """What `u2pl-semi detector predict` can be asked."""

    detector: Annotated[Path, DETECTOR]
    data: Annotated[
        str | None, typer.Option(help="a data source; the one it was trained on if left out")
    ] = None
    split: Annotated[str | None, typer.Option(help="which images; all of training if left out")] = (
        None
    )
    out: Annotated[
        Path | None,
        typer.Option(help="file to write; DETECTOR/boxes-<fingerprint>.json if left out"),
    ] = None
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="leave out boxes of a lower score")
    ] = 0.3
    cpu: Annotated[bool, CPU] = False


@dataclass(frozen=True, kw_only=True)
class PrecisionRequest:
    """What `u2pl-semi detector evaluate` can be asked."""

    detector: Annotated[Path, DETECTOR]
    data: Annotated[
        str | None, typer.Option(help="a data source; the one it was trained on if left out")
    ] = None
    split: Annotated[str, typer.Option(help="which images, those with masks")] = "val"
    run: Annotated[
        Path | None,
        typer.Option(
            help="a run of train: also say how right its confident pixels are, inside boxes of "
            "their class and outside"
        ),
    ] = None
    confidence: Annotated[
        float, typer.Option(min=0, max=1, help="probability above which a pixel is confident")
    ] = 0.95
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="score from which boxes are used")
    ] = 0.85
    limit: Annotated[
        int, typer.Option(min=0, help="only this many images, evenly spread; 0 = all")
    ] = 0
    cpu: Annotated[bool, CPU] = False
