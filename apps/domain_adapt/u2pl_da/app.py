"""The command line of the domain adaptation app."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from u2pl.cli.app import App, Cpu, Deterministic, Out, Preset, Resume, Seed, Set, Steps, console, new_app, one_line_errors


def _sections() -> Any:
    from u2pl_da.sections import AdaptSections

    return AdaptSections


APP = App("u2pl-da", "u2pl_da", Path(__file__).parent, _sections)

program = new_app(
    APP,
    "Adapt a segmenter from labelled images of one domain to unlabelled images of another, with DAFormer and U2PL+.\n\n"
    "Start with [bold]u2pl-da train[/bold]: no arguments, a built-in pair of domains, under four minutes on two cores. "
    "Then [bold]u2pl-da doctor --source FOLDER --target FOLDER[/bold] tells whether your own images and masks will do.",
)

SOURCES = (
    "demo-source or demo-target, a folder (images/, masks/, classes.txt), gta5:PATH, synthia:PATH, cityscapes:PATH, voc:PATH or hf:NAME"
)
Method = Annotated[str, typer.Argument(help="a method, see `methods`")]
From = Annotated[str, typer.Option("--source", help=f"labelled images: {SOURCES}")]
To = Annotated[str, typer.Option("--target", help="images to adapt to, of the same classes: the same choices; masks only to score on")]
FromSplit = Annotated[str | None, typer.Option("--source-split", help="which of the source's lists; all that training may see if left out")]
ToSplit = Annotated[str | None, typer.Option("--target-split", help="which of the target's lists; all that training may see if left out")]
ScoredSplit = Annotated[str, typer.Option("--score-split", help="which of the target's lists networks are scored on; needs masks")]


@program.command()
@one_line_errors
def train(
    method: Method = "u2plplus",
    preset: Preset = None,
    source: From = "demo-source",
    target: To = "demo-target",
    source_split: FromSplit = None,
    target_split: ToSplit = None,
    score_split: ScoredSplit = "val",
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
    from u2pl_da.planning import AdaptRequest, make_plan

    data = (source, target, source_split, target_split, score_split)
    request = AdaptRequest(method, preset, tuple(set or ()), steps, seed, out, resume, deterministic, cpu, *data)
    raise typer.Exit(run(request, lambda: make_plan(APP, request), console()))


@program.command()
@one_line_errors
def doctor(
    source: From = "demo-source",
    target: To = "demo-target",
    source_split: FromSplit = None,
    target_split: ToSplit = None,
    score_split: ScoredSplit = "val",
    method: Annotated[str, typer.Option(help="a method, see `methods`")] = "u2plplus",
    preset: Preset = None,
    set: Set = None,
    seed: Seed = 0,
    cpu: Cpu = False,
) -> None:
    """Check whether these data and this recipe will work, before they cost hours."""
    from u2pl.cli.examination import examine
    from u2pl_da.examination import look, look_without_plan
    from u2pl_da.planning import AdaptRequest, make_plan

    data = (source, target, source_split, target_split, score_split)
    request = AdaptRequest(method, preset, tuple(set or ()), None, seed, None, False, False, cpu, *data)
    code = examine(request, lambda: make_plan(APP, request), look, partial(look_without_plan, request), console())
    raise typer.Exit(code)


def main() -> None:
    """Entry point of `u2pl-da`."""
    program()
