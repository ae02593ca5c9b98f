"""The Python interface: what the programs do, in one call each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from u2pl.cli.console import ConsoleReporter, standard_output
from u2pl.run.app import find_app
from u2pl.run.compare.comparison import Comparison
from u2pl.run.compare.comparison import compare as compare_runs
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


def compare(
    runs: str | Path | Run | Iterable[str | Path | Run], *, against: str | None = None
) -> Comparison:
    """Compare finished runs, as the `compare` command does; `print` shows the table.

    Args:
        runs: runs, folders of runs, or folders that hold runs.
        against: the variant to compare with; the baseline of the app if left out.

    Raises:
        UserError: There is nothing to compare, a run is damaged, or their scores do not mean the
            same.
    """
    given = [runs] if isinstance(runs, (str, Path, Run)) else runs
    folders = [each.folder if isinstance(each, Run) else Path(each) for each in given]
    return compare_runs(folders, against)
