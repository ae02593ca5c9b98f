"""The semi-supervised app: what it can be asked, and its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from u2pl.cli.program import new_program
from u2pl.run.app import App
from u2pl.run.request import Request


@dataclass(frozen=True, kw_only=True)
class SemiRequest(Request):
    """What `u2pl-semi train` can be asked."""

    data: Annotated[
        str,
        typer.Option(
            help="demo, a folder (images/, masks/, classes.txt), voc:PATH, cityscapes:PATH or "
            "hf:NAME"
        ),
    ] = "demo"
    labeled: Annotated[
        str | None,
        typer.Option(
            help="which images count as labelled: a number, a fraction (1/16, 0.1), a split's name "
            "or a file of ids"
        ),
    ] = None


APP = App(
    name="u2pl-semi",
    package="u2pl_semi",
    folder=Path(__file__).parent,
    request=SemiRequest,
    text="Train a segmenter from many images and few masks, with U2PL, U2PL+ and their "
    "baselines.\n\n"
    "Start with [bold]u2pl-semi train[/bold]: no arguments, a built-in demo, under four minutes on "
    "two cores. Then [bold]u2pl-semi doctor --data FOLDER[/bold] tells whether your own images and "
    "masks will do.",
    presets={"voc": "voc", "cityscapes": "cityscapes"},
)

program = new_program(APP)


def main() -> None:
    """Entry point of `u2pl-semi`."""
    program()
