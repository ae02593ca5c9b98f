"""Tags for data that has masks."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from u2pl.cli.console import counting
from u2pl.data.opening import open_source
from u2pl.data.tags import tags_from_masks, write_tags
from u2pl.errors import UserError


def tag_from_masks(data: str, split: str | None, out: Path, console: Console) -> None:
    """Write the classes that occur in each mask of a list of images; UserError where some have no mask, or the file is there already."""
    source = open_source(data)
    ids = source.split(split or source.train_split)
    if out.exists():
        raise UserError(f"{out} is there already: remove it, or write another file with --out")
    with counting("reading tags off the masks", True) as progress:
        tags = tags_from_masks(source, ids, progress)
    write_tags(out, tags, source.classes)
    console.print(f"{len(tags)} images tagged in {out}", soft_wrap=True, highlight=False, markup=False)
