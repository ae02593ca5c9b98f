"""The command line of the semi-supervised app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from u2pl.cli.app import App, Cpu, console, new_app, one_line_errors

APP = App("u2pl-semi", "u2pl_semi", Path(__file__).parent)

program = new_app(
    APP,
    "Train a segmenter from many images and few masks, with U2PL, U2PL+ and their baselines.\n\n"
    "Start with [bold]u2pl-semi train[/bold]: no arguments, a built-in demo, under three minutes on two cores. "
    "Then [bold]u2pl-semi doctor --data FOLDER[/bold] tells whether your own images and masks will do.",
)

Data = Annotated[str, typer.Option(help="demo, a folder (images/, masks/, classes.txt), voc:PATH, cityscapes:PATH or hf:NAME")]
Labeled = Annotated[
    str | None, typer.Option(help="which images count as labelled: a number, a fraction (1/16, 0.1), a split's name or a file of ids")
]
Preset = Annotated[str | None, typer.Option(help="a recipe, see `presets`; chosen by the data if left out")]
Set = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, repeatable; `show` lists all options")]


@program.command()
@one_line_errors
def train(
    method: Annotated[str, typer.Argument(help="a method, see `methods`")] = "u2plplus",
    preset: Preset = None,
    data: Data = "demo",
    labeled: Labeled = None,
    set: Set = None,
    steps: Annotated[int | None, typer.Option(min=1, help="optimizer steps, instead of the preset's")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of everything random")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder of the run; runs/<data>-<method>-<n> if left out")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out, or with the latest one of this command")] = False,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="the same numbers on every run on a GPU too; slower")] = False,
    cpu: Cpu = False,
) -> None:
    """Train, score and keep a network. Starts on several GPUs with `accelerate launch`."""
    from u2pl_semi.planning import Request
    from u2pl_semi.training import run

    request = Request(method, preset, data, labeled, tuple(set or ()), steps, seed, out, resume, deterministic, cpu)
    raise typer.Exit(run(APP, request, console()))


@program.command()
@one_line_errors
def doctor(
    data: Data = "demo",
    labeled: Labeled = None,
    method: Annotated[str, typer.Option(help="a method, see `methods`")] = "u2plplus",
    preset: Preset = None,
    set: Set = None,
    seed: Annotated[int, typer.Option(min=0, help="of everything random")] = 0,
    cpu: Cpu = False,
) -> None:
    """Check whether this data and this recipe will work, before they cost hours."""
    from u2pl_semi.examination import examine
    from u2pl_semi.planning import Request

    raise typer.Exit(examine(APP, Request(method, preset, data, labeled, tuple(set or ()), seed=seed, cpu=cpu), console()))


def main() -> None:
    """Entry point of `u2pl-semi`."""
    program()
