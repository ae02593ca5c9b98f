"""What the commands do: they call the library and print what it returns."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from u2pl import distributed
from u2pl.cli.console import ConsoleReporter, standard_output
from u2pl.cli.keeping import is_replaced, keep_results
from u2pl.cli.requests import EvaluateRequest, ImportRequest, ReportRequest
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score, subset_mious
from u2pl.evaluate.crf import load_crf
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.evaluate.statistics import FEW, scored_words
from u2pl.model.card import Card
from u2pl.model.folder import locate
from u2pl.model.model import Model, choose_device, load
from u2pl.model.released import import_released, known_classes
from u2pl.report.tables import score_table
from u2pl.run.app import App
from u2pl.run.baseline import find_baseline
from u2pl.run.report.page import REPORT, write_report
from u2pl.run.request import Request
from u2pl.run.resumption import resume_command, typed
from u2pl.run.run import Run
from u2pl.run.train import train as start_training
from u2pl.training.loop import Interrupted, Stopped
from u2pl.training.threads import choose_threads


def train(app: App, request: Request) -> int:
    """Train as requested, print the result; returns the exit code."""
    console = standard_output()
    try:
        done = start_training(app, request, ConsoleReporter(console))
    except (Stopped, Interrupted) as cut:
        if distributed.rank() == 0:
            console.print(str(cut), soft_wrap=True, highlight=False, markup=False)
        return 128 + cut.signal if isinstance(cut, Stopped) else 130
    if distributed.rank() == 0:
        show_result(app, done, console)
    return 0


def doctor(app: App, request: Request) -> int:
    """Examine a request; returns the exit code."""
    from u2pl.doctor.examine import examine

    console = standard_output()
    return examine(app, request, console, ConsoleReporter(console).counting)


def show_result(app: App, run: Run, console: Console) -> None:
    """Print the table of scores of a finished run, and what can be typed next."""
    summary = run.whole_summary
    classes = summary["classes"]
    spent = f"after {summary['steps']} steps and {summary['seconds']:.0f} s"
    folder = shlex.quote(str(run.folder))
    lines = [
        f"report: {run.folder / REPORT}",
        f"next: {shlex.join(typed(app.name))} predict {folder} IMAGE_OR_FOLDER --out predictions",
    ]
    if run.scores:
        console.print(f"\n{summary['evaluation']}, {summary['split']}, {spent}:", highlight=False)
        console.print(score_table(classes, run.scores, summary.get("subset_miou")))
        lines[:0] = [line for line in (gain_words(app, run), doubt_words(run)) if line]
        best = f"best {summary['miou_best']:.2f} (step {summary['step_best']})"
        lines.insert(
            0, f"mIoU of the {summary['network']}: last {summary['miou_last']:.2f}, {best}"
        )
    else:
        lines.insert(
            0, f"\n{summary['split']}, {spent}; not scored: no image has a mask to score on"
        )
    for line in [*lines, kept_words(summary)]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def kept_words(summary: Mapping[str, Any]) -> str:
    """Which network was kept and, if another one scored higher, why not that one.

    Args:
        summary: of a finished run.
    """
    kept, scores = summary["network"], summary.get("networks", {})
    if not scores:
        return f"kept: the {kept}, in last/"
    words = f"kept: the {kept}, in last/ and best/"
    name, score = max(scores.items(), key=lambda item: item[1]["miou"])
    if score["miou"] <= scores[kept]["miou"]:
        return words
    chosen = "evaluate" in summary["options"]["method"]
    rule = "method.evaluate" if chosen else f"the method {summary['method']}"
    other = f"; with --set method.evaluate={name} it would have been kept" if chosen else ""
    return (
        f"{words}, as {rule} says. The {name} scored higher, {score['miou']:.2f} to "
        f"{scores[kept]['miou']:.2f}: to choose by scores flatters{other}"
    )


def import_file(app: App, request: ImportRequest) -> None:
    """Write a model folder from a released checkpoint, and print what was taken."""
    console = standard_output()
    if request.to.exists():
        raise UserError(f"{request.to} exists: choose another folder with --to")
    found = import_released(request.file, request.prefix, request.output_stride)
    names, palette = known_classes(request.classes, found.classes)
    card = Card(
        app=app.name,
        method=f"imported from {request.file.name}",
        network=found.config,
        classes=names,
        palette=palette.tolist(),
    )
    Model(found.network, card).save(request.to)
    table = Table("part", "tensors")
    for part, count in found.taken.items():
        table.add_row(part, str(count))
    table.add_row("left out", str(len(found.left)))
    console.print(table)
    if found.left:
        console.print(f"left out: {', '.join(found.left[:5])}", soft_wrap=True, markup=False)
    network = found.config
    lines = [
        f"{network.encoder} under {network.decoder}, output stride {network.output_stride}, "
        f"{found.classes} classes",
        f"next: {shlex.join([*typed(app.name), 'predict', str(request.to)])} IMAGE_OR_FOLDER "
        "--out predictions",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def report(app: App, request: ReportRequest) -> None:
    """Write the report of a run and print where."""
    console = standard_output()
    choose_threads()
    counting = ConsoleReporter(console).counting
    path = write_report(app, request.run, choose_device(request.cpu), counting)
    console.print(f"report: {path}", soft_wrap=True, highlight=False, markup=False)


def gain_words(app: App, run: Run) -> str:
    """What the method adds to the baseline beside the run; how to train one if there is none."""
    summary = run.summary
    if summary["method"] == app.baseline:
        return ""
    found = find_baseline(app, run.folder)
    if found is None:
        return (
            f"whether {summary['method']} helped is not known; train {app.baseline} too: "
            f"{resume_command(app.name, run.folder)} --baseline"
        )
    gain = summary["miou_last"] - found.miou
    words = (
        f"{gain:+.2f} mIoU over {app.baseline}, by its better network ({found.network} "
        f"{found.miou:.2f}; same data, seed and steps; {found.where})"
    )
    return "; ".join(filter(None, [words, found.like_with_like_words(run.scores)]))


def doubt_words(run: Run) -> str:
    """The interval of the score, if few images were scored."""
    images, interval = run.summary.get("scored"), run.summary.get("miou_interval")
    if not images or images >= FEW:  # runs of older versions do not say it
        return ""
    if interval is None:
        return f"{scored_words(images)}: its mIoU says nothing about others; score more of them"
    low, high = interval
    return (
        f"{scored_words(images)}: 95 % interval {low:.1f} to {high:.1f}; score more of them before "
        "you compare"
    )


def evaluate(app: App, request: EvaluateRequest) -> dict[str, Score]:
    """Print and write down the scores of a network, a column for each evaluation variant."""
    console = standard_output()
    choose_threads()
    found = locate(request.checkpoint)
    model = load(found.folder, choose_device(request.cpu))
    if not (request.data or model.card.source):
        raise UserError(
            f"{request.checkpoint} does not say which data it was trained on: add --data"
        )
    counting = ConsoleReporter(console).counting
    source, ids = model.open_scored(request.data, request.split, counting)
    split = request.split or model.usual_split(request.data)
    view = request.view
    asked = view["scales"] or view["flip"] or view["crf"]
    views = [view] if asked else [view | other for other in app.views]  # type: ignore[operator]
    protocols = _possible([model.protocol(**each) for each in views], console)
    work = range(len(ids) * len(protocols))
    steps = iter(track(work, "scoring", console=console, disable=not console.is_terminal))
    scores = {
        protocol.describe(): model.score(source, ids, protocol, lambda *_: next(steps, None))
        for protocol in protocols
    }
    name = model.card.scores.get("network", "network")
    console.print(
        f"{found.name} ({name}) on {source.name}, split {split} ({len(ids)} images, data "
        f"{source.fingerprint()}):",
        soft_wrap=True,
        markup=False,
    )
    subsets = {
        words: subset_mious(score, source.classes, source.subsets)
        for words, score in scores.items()
    }
    console.print(score_table(model.classes, scores, subsets))
    results = {
        # data of the same name are told apart by their fingerprints
        f"evaluation {source.name} {split} {words} {source.fingerprint()}": {
            "data": source.name,
            "fingerprint": source.fingerprint(),
            "split": split,
            "protocol": words,
            **score._asdict(),
            **({"subset_miou": subsets[words]} if source.subsets else {}),
        }
        for words, score in scores.items()
    }
    keep_results(found.beside, results, console, is_replaced(found, model.card))
    return scores


def _possible(protocols: list[EvaluationProtocol], console: Console) -> list[EvaluationProtocol]:
    """The protocols without those whose dense CRF is missing, which is printed.

    Raises UserError if none is left.
    """
    if not any(protocol.crf for protocol in protocols):
        return protocols
    try:
        load_crf()
    except UserError as error:
        plain = [protocol for protocol in protocols if not protocol.crf]
        if not plain:
            raise
        console.print(f"left out: {error}", soft_wrap=True, highlight=False, markup=False)
        return plain
    return protocols
