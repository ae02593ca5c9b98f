"""What `u2pl-semi suggest` does: which unlabelled images to label next."""

from __future__ import annotations

import shlex
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from u2pl.cli.console import ConsoleReporter, standard_output
from u2pl.counting import Counting, silently
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.splits import choose_labeled
from u2pl.errors import UserError
from u2pl.files import make_folder, write_text
from u2pl.model.model import Model, choose_device, load
from u2pl.model.suggestion import Suggested
from u2pl.model.suggestion import suggest as choose
from u2pl.run.resumption import typed
from u2pl.training.run_folder import read_config
from u2pl.training.threads import choose_threads
from u2pl_semi.requests import SuggestRequest


class Pool(NamedTuple):
    """The images of a run's data."""

    text: str  # what names the data on a command line
    source: Source
    labeled: list[str]
    candidates: list[str]  # without a label, to choose from


def suggest(request: SuggestRequest) -> None:
    """Print the images, the best one first, and write the list."""
    console = standard_output()
    reporter = ConsoleReporter(console)
    if request.out is not None and request.out.exists():
        raise UserError(f"--out {request.out} exists: choose another file, or move it away")
    choose_threads()
    model = load(request.checkpoint, choose_device(request.cpu))
    pool = find_pool(request, model, reporter.counting)
    found = choose(
        model, pool.source, pool.candidates, pool.labeled, request.count, reporter.counting
    )
    reporter.say(
        f"{pool.source.name}: {len(found)} of {len(pool.candidates)} images to label next; "
        f"{len(pool.labeled)} are labelled"
    )
    console.print(suggestion_table(found))
    if request.out is None:
        return
    ids = [*(sorted(pool.labeled) if request.with_labeled else []), *(each.id for each in found)]
    make_folder(request.out.parent)
    write_text(request.out, "".join(f"{id}\n" for id in ids))
    reporter.say(f"written to {request.out}: {len(ids)} ids")
    if request.with_labeled:
        words = ["train", "--data", pool.text, "--labeled", str(request.out)]
        reporter.say(f"when they have masks: {shlex.join([*typed('u2pl-semi'), *words])}")


def find_pool(request: SuggestRequest, model: Model, counting: Counting = silently) -> Pool:
    """The data of a run, as far as it was labelled, and what there is to choose from.

    Args:
        request: what was asked for.
        model: of the run.
        counting: told how far opening the data is.

    Raises UserError if it is not known which data that is, or its classes are others.
    """
    # the config.json of a model's folder does not say what was labelled
    is_run = (request.checkpoint / "last").is_dir()
    run: dict[str, Any] = read_config(request.checkpoint) if is_run else {}
    text = request.data or run.get("data") or model.card.source
    which = request.labeled or run.get("labeled")
    if not isinstance(text, str) or not isinstance(which, str | None):
        raise UserError(
            f"{request.checkpoint} does not say which data it is of: add --data and --labeled"
        )
    source = open_source(text, counting)
    if tuple(source.classes) != model.classes:
        raise UserError(
            f"{source.name} has other classes than the network: give the data that it was trained "
            "on with --data"
        )
    split = choose_labeled(source, which, int(run.get("seed", 0)))
    candidates = split.unlabeled
    if request.split is not None:
        labeled = set(split.labeled)
        candidates = [id for id in source.split(request.split) if id not in labeled]
    return Pool(text, source, split.labeled, candidates)


def suggestion_table(found: list[Suggested]) -> Table:
    """The images with what speaks for them."""
    table = Table("image", "score", "doubt", "distance", box=None)
    for each in found:
        numbers = (f"{value:.3f}" for value in (each.score, each.doubt, each.distance))
        table.add_row(Text(each.id), *numbers)
    return table
