"""What `compare` and `sweep` do: they call the library and print what it returns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from u2pl.cli.console import standard_output
from u2pl.cli.requests import CompareRequest, SweepRequest
from u2pl.errors import UserError
from u2pl.files import make_folder
from u2pl.report.page import write_page
from u2pl.run.app import App
from u2pl.run.compare.comparison import Comparison
from u2pl.run.compare.comparison import compare as compare_runs
from u2pl.run.compare.tables import rendered
from u2pl.run.request import default_of
from u2pl.run.sweep.execution import Failure, Interrupted, State, execute, state_of
from u2pl.run.sweep.options import shared_options
from u2pl.run.sweep.plan import Planned, Sweep, check_beginnings, parse_seeds, plan, read_sweep
from u2pl.training.run_folder import SUMMARY
from u2pl.training.threads import choose_threads


def compare(app: App, request: CompareRequest) -> None:
    """Print a comparison of runs, and write it where asked."""
    choose_threads()
    console = standard_output()
    found = compare_runs(request.runs, request.against, app)
    console.print(rendered(found))
    for path in _write(found, request.markdown, request.csv, request.html):
        _say(console, f"written: {path}")


def sweep(app: App, request: SweepRequest) -> int:
    """Train what is asked for and compare it; returns the exit code."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "sweep starts its own processes: leave accelerate launch out, or use --jobs"
        )
    console = standard_output()
    asked = _asked(app, request)
    runs = [(planned, state_of(app, planned)) for planned in plan(app, asked)]
    check_beginnings(app, (planned for planned, state in runs if state != "finished"))
    if request.dry_run:
        for planned, state in runs:
            done = "# finished: " if state == "finished" else ""
            _say(console, done + planned.command(app, state == "unfinished"))
        return 0
    assert asked.out is not None
    _say(console, _announced(asked, runs, request.jobs))
    try:
        failures = execute(app, runs, request.jobs, lambda line: _say(console, line))
    except Interrupted as stopped:
        ended = sum((planned.folder / SUMMARY).exists() for planned, _ in runs)
        _say(
            console, f"stopped: {ended} of {len(runs)} runs are finished; the same command goes on"
        )
        return stopped.code
    _compare_all(app, asked.out, [planned for planned, _ in runs], console)
    return _told(failures, len(runs), console)


def _asked(app: App, request: SweepRequest) -> Sweep:
    """The sweep of the file, with what the command line says on top."""
    asked = read_sweep(request.file, app) if request.file is not None else Sweep()
    given = {
        name: value
        for name in shared_options(app.request)
        if (value := getattr(request, name)) != default_of(app.request, name)
    }
    common = {**asked.common, **given}
    common["set"] = [*asked.common.get("set", ()), *given.get("set", ())]
    if request.methods is not None:
        names = dict.fromkeys(name.strip() for name in request.methods.split(",") if name.strip())
        asked = replace(asked, variants={name: {"method": name} for name in names})
    if request.seeds is not None:
        asked = replace(asked, seeds=parse_seeds(request.seeds))
    return replace(asked, common=common, out=request.out or asked.out)


def _announced(asked: Sweep, runs: Sequence[tuple[Planned, State]], jobs: int) -> str:
    states = [state for _, state in runs]
    parts = [
        f"{states.count(state)} {words}"
        for state, words in (
            ("finished", "finished"),
            ("unfinished", "to go on with"),
            ("new", "to start"),
        )
        if state in states
    ]
    counts = [(len(runs), "run"), (len(asked.variants), "variant"), (len(asked.seeds), "seed")]
    all_runs, variants, seeds = (f"{n} {word}{'s' * (n != 1)}" for n, word in counts)
    return (
        f"{all_runs}: {variants} with {seeds} ({', '.join(map(str, asked.seeds))}); "
        f"{', '.join(parts)}; {f'{jobs} at once' if jobs > 1 else 'one after another'}, in "
        f"{asked.out}"
    )


def _compare_all(app: App, out: Path, runs: Sequence[Planned], console: Console) -> None:
    """Compare the finished runs of a sweep, if that makes sense, in its folder."""
    choose_threads()
    try:
        found = compare_runs(
            [each.folder for each in runs if (each.folder / SUMMARY).exists()], app=app
        )
    except UserError as error:
        _say(console, f"note: nothing is compared: {error}")
        return
    console.print()
    console.print(rendered(found))
    paths = [out / f"compare.{end}" for end in ("md", "csv", "html")]
    for path in _write(found, *paths):
        _say(console, f"written: {path}")


def _told(failures: Sequence[Failure], total: int, console: Console) -> int:
    if not failures:
        return 0
    _say(console, f"{len(failures)} of {total} runs failed; the same command tries them again:")
    for each in failures:
        _say(console, f"  {each.name}: {each.reason}")
    return 1


def _write(
    found: Comparison, markdown: Path | None, csv: Path | None, html: Path | None
) -> list[Path]:
    """Write what is asked for; the files that were written."""
    texts = ((markdown, found.markdown), (csv, found.csv), (html, found.html))
    written = [(path, text()) for path, text in texts if path is not None]
    for path, text in written:
        make_folder(path.parent)
        write_page(path, text)
    return [path for path, _ in written]


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)
