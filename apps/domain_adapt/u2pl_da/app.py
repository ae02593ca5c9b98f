"""The domain adaptation app: what it can be asked, and its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from u2pl.cli.program import new_program
from u2pl.run.app import App
from u2pl.run.request import Request

SOURCES = (
    "demo-source or demo-target, a folder (images/, masks/, classes.txt), gta5:PATH, synthia:PATH, "
    "cityscapes:PATH, voc:PATH or hf:NAME"
)


@dataclass(frozen=True, kw_only=True)
class AdaptRequest(Request):
    """What `u2pl-da train` can be asked."""

    SOURCES: ClassVar[tuple[str, ...]] = ("source", "target")

    source: Annotated[str, typer.Option(help=f"labelled images: {SOURCES}")] = "demo-source"
    target: Annotated[
        str,
        typer.Option(
            help="images to adapt to, of the same classes: the same choices; masks only to score on"
        ),
    ] = "demo-target"
    source_split: Annotated[
        str | None,
        typer.Option(help="one of the source's lists; all its images with masks if left out"),
    ] = None
    target_split: Annotated[
        str | None,
        typer.Option(help="one of the target's lists; all that training may see if left out"),
    ] = None
    target_labeled: Annotated[
        str | None,
        typer.Option(
            help="target images whose masks are learnt from too: a number, a share such as 1/16, a "
            "list's name, or a file of ids; none if left out"
        ),
    ] = None
    score_split: Annotated[
        str,
        typer.Option(help="the target's list that networks are scored on; needs masks"),
    ] = "val"


APP = App(
    name="u2pl-da",
    package="u2pl_da",
    folder=Path(__file__).parent,
    request=AdaptRequest,
    baseline="source_only",
    text="Adapt a segmenter from labelled images of one domain to unlabelled images of another, "
    "with DAFormer and U2PL+.\n\n"
    "Start with [bold]u2pl-da train[/bold]: no arguments, a built-in pair of domains, under four "
    "minutes on two cores. Then [bold]u2pl-da doctor --source FOLDER --target FOLDER[/bold] tells "
    "whether your own images and masks will do.",
    presets={"gta5": "gta5-cityscapes", "synthia": "synthia-cityscapes"},
    options="u2pl_da.sections:AdaptSections",
)

program = new_program(APP)


def main() -> None:
    """Entry point of `u2pl-da`."""
    program()
