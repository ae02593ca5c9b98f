"""Deriving tags from masks."""

from __future__ import annotations

from u2pl.cli.console import ConsoleReporter, standard_output
from u2pl.data.opening import open_source
from u2pl.data.tags.tags import tags_from_masks, write_tags
from u2pl.errors import UserError
from u2pl_ws.requests import TagsRequest


def tag_from_masks(request: TagsRequest) -> None:
    """Write a CSV of the classes that occur in each mask of a split.

    Raises UserError if an image has no mask, or the file exists.
    """
    reporter = ConsoleReporter(standard_output())
    source, out = open_source(request.data, reporter.counting), request.out
    ids = source.split(request.split or source.train_split)
    if out.exists():
        raise UserError(f"{out} is there already: remove it, or write another file with --out")
    with reporter.counting("reading tags off the masks") as progress:
        tags = tags_from_masks(source, ids, progress)
    write_tags(out, tags, source.classes)
    reporter.say(f"{len(tags)} images tagged in {out}")
