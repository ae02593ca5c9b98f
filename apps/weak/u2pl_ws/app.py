"""The weakly supervised app and its command line."""

from __future__ import annotations

from pathlib import Path

from u2pl.cli.errors import say_starting
from u2pl.cli.program import command, new_program
from u2pl.run.app import App
from u2pl_ws.requests import MapsRequest, TagsRequest, WeakRequest

#: The field's other usual evaluation: several sizes and mirrored, and with a dense CRF behind.
MULTI_SCALE = {"scales": (0.5, 1.0, 1.5), "flip": True}

APP = App(
    name="u2pl-ws",
    package="u2pl_ws",
    folder=Path(__file__).parent,
    request=WeakRequest,
    baseline="cam",
    text="Train a segmenter from image tags alone, with U2PL+ on AFA or on plain class activation "
    "maps.\n\n"
    "Start with [bold]u2pl-ws train[/bold]: no arguments, a built-in demo, under four minutes on "
    "two idle cores. Then [bold]u2pl-ws doctor --data FOLDER --tags FILE[/bold] tells whether your "
    "own images and tags will do.",
    presets={"voc": "voc"},
    views=({}, MULTI_SCALE, MULTI_SCALE | {"crf": True}),
)

program = new_program(APP)


@command(program, TagsRequest)
def tags(request: TagsRequest) -> None:
    """Write down which classes the masks of a source show: perfect tags, for data with masks."""
    say_starting()
    from u2pl_ws.tagging import tag_from_masks

    tag_from_masks(request)


@command(program, MapsRequest)
def cams(request: MapsRequest) -> None:
    """Score what training learnt from: activation maps, refined maps and labels of tagged images.

    The network's own masks are scored beside them.
    """
    say_starting()
    from u2pl_ws.map_scores import score_maps

    score_maps(request)


def main() -> None:
    """Entry point of `u2pl-ws`."""
    program()
