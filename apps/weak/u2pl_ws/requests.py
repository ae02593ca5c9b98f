"""What the commands of the weakly supervised app can be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from u2pl.cli.requests import CPU, SCORED
from u2pl.run.request import Request

TAGS = "CSV or JSON of image and classes, or a folder of VOC XML; the data's own if left out"
DATA = (
    "demo-tags, a folder (images/, tags.csv, classes.txt), what a labelling program exported, "
    "voc:PATH or hf:NAME; masks only to score on"
)


@dataclass(frozen=True, kw_only=True)
class WeakRequest(Request):
    """What `u2pl-ws train` can be asked."""

    SOURCES: ClassVar[tuple[str, ...]] = ("data",)
    FILES: ClassVar[tuple[str, ...]] = ("tags",)

    data: Annotated[str, typer.Option(help=DATA)] = "demo-tags"
    tags: Annotated[str | None, typer.Option(help=TAGS)] = None


@dataclass(frozen=True, kw_only=True)
class TagsRequest:
    """What `u2pl-ws tags` can be asked."""

    data: Annotated[str, typer.Option(help=DATA)] = "demo-tags"
    split: Annotated[
        str | None, typer.Option(help="of which images; all that training may see if left out")
    ] = None
    out: Annotated[Path, typer.Option(help="file to write")] = Path("tags.csv")


@dataclass(frozen=True, kw_only=True)
class MapsRequest:
    """What `u2pl-ws cams` can be asked."""

    checkpoint: Annotated[Path, SCORED]
    data: Annotated[
        str | None, typer.Option(help="a data source; the one it was trained on if left out")
    ] = None
    split: Annotated[
        str | None,
        typer.Option(help="which images; those of training if left out, as far as they have masks"),
    ] = None
    tags: Annotated[str | None, typer.Option(help=TAGS)] = None
    limit: Annotated[
        int, typer.Option(min=0, help="score only this many images, evenly spread; 0 = all")
    ] = 0
    cpu: Annotated[bool, CPU] = False
