"""The command line of the weakly supervised app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from u2pl.cli.app import App, Cpu, Deterministic, Out, Preset, Resume, Scored, Seed, Set, Steps, console, new_app, one_line_errors


def _sections() -> Any:
    from u2pl.cli.config import Sections

    return Sections


#: How this field shows results: as it is, with several sizes and mirrored, and with a dense CRF behind.
SIZES = {"scales": (0.5, 1.0, 1.5), "flip": True}
APP = App("u2pl-ws", "u2pl_ws", Path(__file__).parent, _sections, ({}, SIZES, SIZES | {"crf": True}))

program = new_app(
    APP,
    "Train a segmenter from image tags alone, with U2PL+ on AFA or on plain class activation maps.\n\n"
    "Start with [bold]u2pl-ws train[/bold]: no arguments, a built-in demo, under four minutes on two cores. "
    "Then [bold]u2pl-ws doctor --data FOLDER --tags FILE[/bold] tells whether your own images and tags will do.",
)

Data = Annotated[
    str, typer.Option(help="demo-tags, a folder (images/, tags.csv, classes.txt), voc:PATH or hf:NAME; masks only to score on")
]
Tags = Annotated[str | None, typer.Option(help="CSV or JSON of image and classes, or a folder of VOC XML; the data's own if left out")]
Method = Annotated[str, typer.Argument(help="a method, see `methods`")]


@program.command()
@one_line_errors
def train(
    method: Method = "u2plplus",
    preset: Preset = None,
    data: Data = "demo-tags",
    tags: Tags = None,
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
    from u2pl_ws.planning import WeakRequest, make_plan

    request = WeakRequest(method, preset, tuple(set or ()), steps, seed, out, resume, deterministic, cpu, data, tags)
    raise typer.Exit(run(request, lambda: make_plan(APP, request), console()))


@program.command()
@one_line_errors
def doctor(
    data: Data = "demo-tags",
    tags: Tags = None,
    method: Annotated[str, typer.Option(help="a method, see `methods`")] = "u2plplus",
    preset: Preset = None,
    set: Set = None,
    seed: Seed = 0,
    cpu: Cpu = False,
) -> None:
    """Check whether this data, its tags and this recipe will work, before they cost hours."""
    from u2pl.cli.examination import examine
    from u2pl_ws.examination import look, look_without_plan
    from u2pl_ws.planning import WeakRequest, make_plan

    request = WeakRequest(method, preset, tuple(set or ()), seed=seed, cpu=cpu, data=data, tags=tags)
    raise typer.Exit(examine(request, lambda: make_plan(APP, request), look, look_without_plan, console()))


@program.command()
@one_line_errors
def tags(
    data: Data = "demo-tags",
    split: Annotated[str | None, typer.Option(help="of which images; all that training may see if left out")] = None,
    out: Annotated[Path, typer.Option(help="file to write")] = Path("tags.csv"),
) -> None:
    """Write down which classes the masks of a source show: perfect tags, for data that has masks already."""
    from u2pl_ws.tagging import tag_from_masks

    tag_from_masks(data, split, out, console())


@program.command()
@one_line_errors
def cams(
    checkpoint: Scored,
    data: Annotated[str | None, typer.Option(help="a data source; the one it was trained on if left out")] = None,
    split: Annotated[str | None, typer.Option(help="which images; those training saw if left out, as far as they have masks")] = None,
    tags: Tags = None,
    limit: Annotated[int, typer.Option(min=0, help="score so many images, evenly spread; 0 = all")] = 0,
    cpu: Cpu = False,
) -> None:
    """Score what training learnt from: the activation maps, refined maps and labels of tagged images, beside the network's masks."""
    from u2pl_ws.cam_quality import score_cams

    score_cams(checkpoint, data, split, tags, limit, cpu, console())


def main() -> None:
    """Entry point of `u2pl-ws`."""
    program()
