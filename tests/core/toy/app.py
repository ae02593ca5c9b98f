"""What it can be asked, and its program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from u2pl.cli.program import new_program
from u2pl.run.app import App
from u2pl.run.request import Request


@dataclass(frozen=True, kw_only=True)
class ToyRequest(Request):
    """What its `train` can be asked."""

    SOURCES: ClassVar[tuple[str, ...]] = ("data",)

    data: Annotated[str, typer.Option(help="a data source")] = "demo"
    most_images: Annotated[
        int | None,
        typer.Option(min=1, help="images that are trained on, and scored; all if left out"),
    ] = None


APP = App(
    name="u2pl-toy",
    package="core.toy",
    folder=Path(__file__).parent,
    request=ToyRequest,
    baseline="plain",
    text="Nothing worth having.",
    presets={"voc": "large"},
)

program = new_program(APP)
