"""The command line of the semi-supervised app."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from u2pl.cli.app import App, Cpu, Deterministic, Out, Preset, Resume, Seed, Set, Steps, console, new_app, one_line_errors


def _sections() -> Any:
    from u2pl_semi.sections import SemiSections

    return SemiSections


APP = App("u2pl-semi", "u2pl_semi", Path(__file__).parent, _sections)

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
Method = Annotated[str, typer.Argument(help="a method, see `methods`")]


@program.command()
@one_line_errors
def train(
    method: Method = "u2plplus",
    preset: Preset = None,
    data: Data = "demo",
    labeled: Labeled = None,
    set: Set = None,
    steps: Steps = None,
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = False,
    deterministic: Deterministic = False,
    cpu: Cpu = False,
) -> None:
    """Train, score and keep a network. Starts on several GPUs with `accelerate launch`."""
    from u2pl.cli.training import run
    from u2pl_semi.planning import SemiRequest, make_plan

    request = SemiRequest(method, preset, tuple(set or ()), steps, seed, out, resume, deterministic, cpu, data, labeled)
    raise typer.Exit(run(request, lambda: make_plan(APP, request), console()))


@program.command()
@one_line_errors
def doctor(
    data: Data = "demo",
    labeled: Labeled = None,
    method: Annotated[str, typer.Option(help="a method, see `methods`")] = "u2plplus",
    preset: Preset = None,
    set: Set = None,
    seed: Seed = 0,
    cpu: Cpu = False,
) -> None:
    """Check whether this data and this recipe will work, before they cost hours."""
    from u2pl.cli.examination import examine
    from u2pl_semi.examination import look, look_without_split
    from u2pl_semi.planning import SemiRequest, make_plan

    request = SemiRequest(method, preset, tuple(set or ()), seed=seed, cpu=cpu, data=data, labeled=labeled)
    code = examine(request, lambda: make_plan(APP, request), look, partial(look_without_split, request), console())
    raise typer.Exit(code)


def main() -> None:
    """Entry point of `u2pl-semi`."""
    program()
