"""The Python interface: what the programs do, in one call each."""

from __future__ import annotations

from typing import Any

from u2pl.cli.console import ConsoleReporter, standard_output
from u2pl.run.app import find_app
from u2pl.run.run import Run
from u2pl.run.train import train as start_training


def train(app: str, *, verbose: bool = True, **options: Any) -> Run:
    """Train, score and keep a network, as the `train` command of an app does.

    Args:
        app: semi, domain_adapt or weak.
        verbose: whether to print what the command prints while it trains.
        options: the command's options by name; `set` may be a mapping, `set={"train.lr": 1e-3}`.

    Returns: the finished run: folder, summary, scores, model.
    Raises UserError for whatever cannot work.
    """
    chosen = find_app(app)
    request = chosen.request.of(**options)
    return start_training(chosen, request, ConsoleReporter(standard_output()) if verbose else None)
