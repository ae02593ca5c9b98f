"""The weakly supervised app: what it can be asked, and its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from u2pl.cli.program import command, new_program
from u2pl.cli.requests import CPU, SCORED
from u2pl.run.app import App
from u2pl.run.request import Request

TAGS = "CSV or JSON of image and classes, or a folder of VOC XML; the data's own if left out"
DATA = (
    "demo-tags, a folder (images/, tags.csv, classes.txt), voc:PATH or hf:NAME; masks only to "
    "score on"
)


@dataclass(frozen=True, kw_only=True)
class WeakRequest(Request):
    """What `u2pl-ws train` can be asked."""

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


#: The field's other usual evaluation: several sizes and mirrored, and with a dense CRF behind.
MULTI_SCALE = {"scales": (0.5, 1.0, 1.5), "flip": True}

APP = App(
    name="u2pl-ws",
    package="u2pl_ws",
    folder=Path(__file__).parent,
    request=WeakRequest,
    text="Train a segmenter from image tags alone, with U2PL+ on AFA or on plain class activation "
    "maps.\n\n"
    "Start with [bold]u2pl-ws train[/bold]: no arguments, a built-in demo, under four minutes on "
    "two cores. Then [bold]u2pl-ws doctor --data FOLDER --tags FILE[/bold] tells whether your own "
    "images and tags will do.",
    presets={"voc": "voc"},
    views=({}, MULTI_SCALE, MULTI_SCALE | {"crf": True}),
)

program = new_program(APP)


@command(program, TagsRequest)
def tags(request: TagsRequest) -> None:
    """Write down which classes the masks of a source show: perfect tags, for data with masks."""
    from u2pl_ws.tagging import tag_from_masks

    tag_from_masks(request)


@command(program, MapsRequest)
def cams(request: MapsRequest) -> None:
    """Score what training learnt from: activation maps, refined maps and labels of tagged images.

    The network's own masks are scored beside them.
    """
    from u2pl_ws.map_scores import score_maps

    score_maps(request)


def main() -> None:
    """Entry point of `u2pl-ws`."""
    program()
