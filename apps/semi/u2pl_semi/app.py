"""The semi-supervised app: what it can be asked, and its command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from u2pl.cli.errors import say_starting
from u2pl.cli.program import OneLineErrors, command, new_program
from u2pl.run.app import App
from u2pl_semi.requests import (
    BoxesRequest,
    DetectorShowRequest,
    PrecisionRequest,
    SemiRequest,
    SuggestRequest,
)

APP = App(
    name="u2pl-semi",
    package="u2pl_semi",
    folder=Path(__file__).parent,
    request=SemiRequest,
    baseline="suponly",
    text="Train a segmenter from many images and few masks, with U2PL, U2PL+ and their "
    "baselines.\n\n"
    "Start with [bold]u2pl-semi train[/bold]: no arguments, a built-in demo, under four minutes on "
    "two idle cores. Then [bold]u2pl-semi doctor --data FOLDER[/bold] tells whether your own "
    "images and masks will do.",
    presets={"voc": "voc", "cityscapes": "cityscapes"},
    options="u2pl_semi.sections:SemiSections",
)

program = new_program(APP)


@command(program, SuggestRequest)
def suggest(request: SuggestRequest) -> None:
    """Say which unlabelled images to label next: doubtful ones that differ from each other."""
    say_starting()
    from u2pl_semi.suggestion import suggest as body

    body(request)


detector = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    help="Boxes of objects in unlabelled images, from a detector that the labelled ones train.",
)
program.add_typer(detector, name="detector")


@command(
    detector,
    SemiRequest,
    left_out=("init", "baseline", "track", "deterministic", "method_file"),
    instead={
        "method": Annotated[
            str,
            typer.Argument(
                metavar="[RUN]", show_default=False, help="with --resume: the folder of a run"
            ),
        ],
        "preset": Annotated[str | None, typer.Option(help="demo, light or resnet50, see `show`")],
        "out": Annotated[
            Path | None,
            typer.Option(help="folder of the run; runs/<data>-detector-<n> if left out"),
        ],
    },
)
def train(request: SemiRequest) -> int:
    """Train Faster R-CNN on the labelled images: boxes around the parts of their masks."""
    say_starting()
    from u2pl_semi.detector.commands import train as body

    return body(request)


@command(detector, DetectorShowRequest)
def show(request: DetectorShowRequest) -> None:
    """Print every option of a detector under a preset: its value, and what it means."""
    from u2pl_semi.detector.commands import show as body

    body(request)


@command(detector, BoxesRequest)
def predict(request: BoxesRequest) -> None:
    """Find boxes in the training images once, in a file for train --set data.boxes=FILE."""
    say_starting()
    from u2pl_semi.detector.commands import predict as body

    body(request)


@command(detector, PrecisionRequest)
def evaluate(request: PrecisionRequest) -> None:
    """Score the boxes (AP50) and, with --run, how right a network's pixels inside them are."""
    say_starting()
    from u2pl_semi.detector.commands import evaluate as body

    body(request)


def main() -> None:
    """Entry point of `u2pl-semi`."""
    program()
