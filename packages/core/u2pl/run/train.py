"""From a request to a finished run."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from pydantic import JsonValue
from torch import nn

from u2pl import distributed
from u2pl.counting import OnProgress, silently
from u2pl.data.streams import TrainingSet
from u2pl.errors import CutShort, DiskError, LoadingError, LostError, UserError, out_of_memory
from u2pl.evaluate.confusion import Score
from u2pl.evaluate.counts import COUNTS, save_counts
from u2pl.evaluate.crf import load_crf
from u2pl.evaluate.scoring import evaluate
from u2pl.maps import shrink_factor
from u2pl.methods.discovery import known_methods
from u2pl.methods.method import AnyMethod
from u2pl.model.card import Card, EncoderWeights
from u2pl.model.folder import save_folder
from u2pl.networks.segmentor import Segmentor
from u2pl.run.app import App
from u2pl.run.baseline import baseline_request
from u2pl.run.moments import keep_moment
from u2pl.run.presets import is_own
from u2pl.run.recipe import Recipe
from u2pl.run.report.page import REPORT, write_report
from u2pl.run.request import Request
from u2pl.run.resumption import Resumption, find_resumption, resume_command, typed
from u2pl.run.run import Run
from u2pl.run.start import ORIGIN, Beginning, read_origin
from u2pl.run.summary import PICTURES, draw_pictures, write_summary
from u2pl.run.task import Task
from u2pl.run.tracking import check_trackers, tracking
from u2pl.training import loop
from u2pl.training.checkpoint import has_checkpoint, saved_step
from u2pl.training.claim import Numbered, claimed
from u2pl.training.journal import Entries
from u2pl.training.loading import check_shared_memory, peer_failures
from u2pl.training.loop import (
    Interrupted,
    Job,
    Stopped,
    check_method,
    fast_bf16,
    fit,
    local_batch,
    make_accelerator,
)
from u2pl.training.memory import check_memory, keep_freed_memory
from u2pl.training.provenance import precision, versions
from u2pl.training.run_folder import (
    CONFIG,
    SUMMARY,
    accept_changes,
    check_same,
    forget_unbegun,
    is_unbegun,
    latest_folder,
)
from u2pl.training.threads import choose_threads

#: Lines that are printed before the first step, at most; one more comes before torch is loaded.
HEADER = 7


class Reporter(Protocol):
    """Tells a person what happens; on all processes but the first it stays silent."""

    def say(self, line: str) -> None:
        """A line, however long."""

    def counting(self, what: str) -> AbstractContextManager[OnProgress]:
        """Progress of a preparatory step."""

    def training(self) -> AbstractContextManager[loop.Reporter]:
        """Progress of the training itself."""


class Silent:
    """Says nothing, at any moment of a run."""

    def say(self, line: str) -> None:
        """Stay silent."""

    def counting(self, what: str) -> AbstractContextManager[OnProgress]:
        """Stay silent."""
        return silently(what)

    @contextmanager
    def training(self) -> Iterator[Silent]:
        """Stay silent."""
        yield self

    def step(self, step: int, total: int, entries: Entries, left: float | None) -> None:
        """Stay silent."""

    def evaluating(self, done: float, total: int) -> None:
        """Stay silent."""

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None:
        """Stay silent."""

    def phase(self, text: str) -> None:
        """Stay silent."""

    def note(self, text: str) -> None:
        """Stay silent."""


def make_task(
    app: App, request: Request, counting: Callable[[str], AbstractContextManager[OnProgress]]
) -> Task:
    """What a request asks for, its data opened; UserError for whatever cannot work."""
    return app.task_module.make_task(app, request, Recipe.of_request(app, request), counting)


@peer_failures()
def train(app: App, request: Request, reporter: Reporter | None = None) -> Run:
    """Train as requested, in a folder of its own, or go on with a run that was named by its folder.

    With `request.baseline` the app's baseline is trained first, unless it is there. The report of a
    run that is finished is written anew then.

    Raises UserError for whatever cannot work, Stopped after SIGTERM, once the state is written, and
    Interrupted after Ctrl-C; the text of both says how to go on.
    """
    if request.accept_changed_data and not request.resume:
        raise UserError("--accept-changed-data needs --resume: a new run takes data as they are")
    found = find_resumption(app.name, request, known_methods(app.methods))
    if request.baseline:
        _train_baseline(app, request, found, reporter)
    if found is not None and found.finished:
        return _finished(app, found.folder, request, reporter)
    recipe = Recipe.of_request(app, request) if found is None else found.recipe(app)
    request = request if found is None else found.request
    accelerator = make_accelerator(request.cpu, recipe.sections.train.precision)
    main, device = accelerator.is_main_process, accelerator.device
    reporter = reporter if reporter is not None and main else Silent()
    if request.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    check_trackers(request.track)
    keep_freed_memory()
    choose_threads()
    task = app.task_module.make_task(app, request, recipe, reporter.counting)
    local_batch(task.recipe.sections.train.batch)
    if task.protocol.crf:
        load_crf()
    # before the folder is made: whatever cannot work leaves nothing behind
    task.check_masks()
    task.check()
    task.check_scored()
    place = _place(task)
    begun = place if isinstance(place, Path) and request.resume else None
    asked, changed = task.config(), list[str]()
    if begun is not None:
        asked = asked if found is None else found.as_begun(asked)
        changed = check_same(begun, asked, request.accept_changed_data)
        if (begun / SUMMARY).is_file():
            return _finished(app, begun, request, reporter)
    # of a run that goes on, all is in its state: what it began with, and what `prepare` has found
    going_on = begun is not None and has_checkpoint(begun)
    method, beginning = (task.build_method(), None) if going_on else task.begin()
    dataset = task.dataset()
    check_method(method, task.recipe.sections.train, device.type == "cuda")
    sections = task.recipe.sections
    check_memory(method, sections.train, sections.data, device)
    check_shared_memory(dataset, local_batch(sections.train.batch), sections.data.workers)
    if not going_on:
        task.prepare(method.to(device))
    distributed.barrier()  # every process has read the folders before the first one makes one
    if begun is not None and beginning is not None:
        _check_origin(begun, beginning)
    with claimed(place, _config(task, beginning) if begun is None else None) as (folder, note):
        if main and changed:
            accept_changes(folder, asked, changed, saved_step(folder))
        for line in announcement(task, method, folder, accelerator, beginning):
            reporter.say(line)
        if note:
            reporter.say(f"note: {note}")
        _carry_out(task, method, dataset, folder, accelerator, reporter)
    return Run(folder)


def _carry_out(
    task: Task,
    method: AnyMethod,
    dataset: TrainingSet[Any],
    folder: Path,
    accelerator: Accelerator,
    reporter: Reporter,
) -> None:
    """Train in a folder that is claimed, and write down what comes of it."""
    request, sections, scored = task.request, task.recipe.sections, task.scored
    main, device = accelerator.is_main_process, accelerator.device
    names = request.track if main else []
    command = resume_command(task.app.name, folder)
    try:
        with (
            telling_how_to_go_on(command, folder),
            reporter.training() as shown,
            tracking(shown, names, folder, task.config(), task.classes) as progress,
        ):
            job = Job(
                method=method,
                dataset=dataset,
                train=sections.train,
                data=sections.data,
                total=task.total,
                seed=request.seed,
                evaluate=partial(_evaluate, task, folder, device) if scored.ids else None,
                keep=partial(_keep, task, folder),
                warm_steps=task.warm_steps if method.remedy else 0,
                look=partial(keep_moment, folder, task, method),
                phases=_phases(task, method),
                skipped=dataset.skipped,
                scoring_steps=_scoring_steps(task, method) if scored.ids else 0.0,
            )
            history = fit(job, folder, accelerator, progress, request.resume)
            if main:
                draw_pictures(folder, task, device)
                progress.picture(folder / PICTURES, task.total)
                write_summary(folder, task, history, method, accelerator)  # it is finished then
    except (DiskError, LostError):  # the run can go on, from its beginning at least
        raise
    except (UserError, RuntimeError, MemoryError) as error:
        began_in_vain = isinstance(error, UserError) or out_of_memory(error)
        if began_in_vain and main and not request.resume:
            forget_unbegun(folder)
        raise
    with telling_how_to_go_on(command, folder), peer_failures():
        if main:
            write_report(task.app, folder, device, reporter.counting)
        distributed.barrier()


@contextmanager
def telling_how_to_go_on(command: str, folder: Path) -> Iterator[None]:
    """Say how to go on with a run that is cut short: stopped, interrupted, or by a full disk.

    Args:
        command: that goes on with it.
        folder: of the run.
    """
    try:
        yield
    except Stopped as stopped:
        raise Stopped(f"{stopped}; go on with: {command}", stopped.signal) from None
    except KeyboardInterrupt:
        step = saved_step(folder)
        kept = f"the last state is that after step {step}" if step else "no state was saved yet"
        from_there = "" if step else ", so it begins again"
        raise Interrupted(f"interrupted; {kept}{from_there}; go on with: {command}") from None
    except CutShort as error:
        if isinstance(error, LoadingError) and is_unbegun(folder):
            raise  # there is nothing to go on with
        raise type(error)(f"{error}; go on with: {command}") from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskError(
            f"the disk is full ({error.filename or error}): free some space; go on with: {command}"
        ) from error


def _finished(app: App, folder: Path, request: Request, reporter: Reporter | None) -> Run:
    """A run that has nothing left to do; its report is written if it lacks one, or a baseline."""
    # without a report it was cut short while that was drawn
    if request.baseline or not (folder / REPORT).exists():
        accelerator = make_accelerator(request.cpu)
        if accelerator.is_main_process:
            write_report(app, folder, accelerator.device, (reporter or Silent()).counting)
        distributed.barrier()
    elif reporter is not None and distributed.rank() == 0:
        reporter.say(f"{folder} is finished: there is nothing to go on with")
    return Run(folder)


def _train_baseline(
    app: App, request: Request, found: Resumption | None, reporter: Reporter | None
) -> None:
    """Train the baseline, unless it is there; what cuts it short says the whole command again."""
    asked = baseline_request(app, request if found is None else found.whole_request(app))
    if reporter is not None and distributed.rank() == 0:
        begun = "first the baseline" if asked is not None else "the baseline has been trained"
        reporter.say(f"{begun}: {app.baseline}")
    if asked is None:
        return
    whole = shlex.join([*typed(app.name), "train", *request.words()])
    try:
        train(app, asked, reporter)
    except (Stopped, Interrupted, CutShort) as cut:
        cut.args = (f"{str(cut).partition('; go on with: ')[0]}; go on with: {whole}",)
        raise


def _phases(task: Task, method: AnyMethod) -> dict[int, str]:
    """What is said when the warm start is over."""
    warm = task.warm_steps
    if not 0 < warm < task.total:
        return {}
    return {warm: f"warm start over after step {warm}: {method.joining} from here"}


def _scoring_steps(task: Task, method: AnyMethod) -> float:
    """What scoring the networks once costs, in steps of training: roughly, from numbers of pixels.

    A step computes about three times as much for a pixel as scoring does: forward, and backward
    twice that.
    """
    source, ids = task.scored.source, task.scored.ids
    sections, protocol = task.recipe.sections, task.protocol
    width, height = source.image(ids[len(ids) // 2]).size
    side = shrink_factor((height, width), protocol.long_side)
    views = sum(scale**2 for scale in protocol.scales) * (2 if protocol.flip else 1)
    scored = len(method.networks()) * len(ids) * width * height * side**2 * views
    shown = sum(part.share for part in task.streams)
    trained = sections.data.crop**2 * sections.train.batch * shown
    return scored / (3 * trained)


def announcement(
    task: Task,
    method: AnyMethod,
    folder: Path,
    accelerator: Accelerator,
    beginning: Beginning | None = None,
) -> list[str]:
    """What is about to happen, in at most `HEADER` lines if there are no warnings."""
    request, train = task.request, task.recipe.sections.train
    rates = train.rates(task.network().freeze_encoder)
    images = ", ".join(f"{len(part.ids)} {part.role}" for part in task.streams)
    world = f" x {distributed.world_size()}" if distributed.world_size() > 1 else ""
    scored, threads = task.scored, torch.get_num_threads()
    device = f"{accelerator.device}{world}, {precision(accelerator)}"
    device += f", {threads} thread{'s' if threads > 1 else ''}"
    lines = [
        f"{task.described}: {images}, {len(scored.ids)} to score on, {len(task.classes)} classes",
        f"{request.method} with preset {task.recipe.preset}: {task.total} steps, batch "
        f"{train.batch}, seed {request.seed}, on {device}",
        f"learning rate {rates} ({train.lr:g} at a batch of {train.reference_batch})",
        *(beginning.lines if beginning is not None else ()),
    ]
    last = f"writing to {folder}; {where_options_are(task)}"
    notes = [*slow(accelerator), *task.notes(method, scored)]
    room = HEADER - len(lines) - 1
    lines += [f"warning: {doubt}" for doubt in task.doubts(scored)]
    if len(notes) > room:
        notes = [*notes[: room - 1], f"{len(notes) - room + 1} more, which doctor lists"]
    return [*lines, *(f"note: {note}" for note in notes), last]


def where_options_are(task: Task) -> str:
    """Where to read what every option of a run is, and what it means."""
    request, name = task.request, task.recipe.preset
    file = request.method_file
    words = ["--method-file", str(file)] if file is not None else [request.method]
    preset = request.preset or (name if not is_own(name) else None)
    words += ["--preset", preset] if preset is not None else []
    shown = shlex.join([*typed(task.app.name), "show", *words])
    return f"every option is in its {CONFIG}, what it means: {shown}"


def slow(accelerator: Accelerator) -> list[str]:
    """A note if the launcher chose float32 on a GPU that computes faster in bfloat16."""
    if accelerator.mixed_precision != "no" or accelerator.device.type != "cuda" or not fast_bf16():
        return []
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return []  # train.precision=float32
    return ["float32, as accelerate launch has it; with --mixed_precision bf16 this GPU is faster"]


def _evaluate(
    task: Task,
    folder: Path,
    device: torch.device,
    networks: dict[str, nn.Module],
    progress: OnProgress,
) -> dict[str, Score]:
    """The scores of the networks; the counts behind them are kept beside."""
    source, ids, classes = task.scored.source, task.scored.ids, len(task.classes)
    counts = evaluate(networks, source, ids, task.protocol, device, classes, progress)
    scores = {name: count.score() for name, count in counts.items()}
    if distributed.rank() == 0:
        save_counts(folder / COUNTS, ids, counts)
    return scores


def _place(task: Task) -> Path | Numbered:
    """Where the run is, or is to be."""
    request, place = task.request, Numbered(Path("runs"), f"{task.name}-{task.request.method}")
    if request.out is not None:
        return request.out
    return latest_folder(*place, task.config()) if request.resume else place


def _config(task: Task, beginning: Beginning | None) -> dict[str, object]:
    """What config.json says, with what the run begins with."""
    config = {**task.config(), "command": task.command()}
    return config | ({ORIGIN: beginning.origin.model_dump(mode="json")} if beginning else {})


def _check_origin(folder: Path, beginning: Beginning) -> None:
    """UserError if a run that has no state yet was started from the same name with other weights.

    With a state it does not matter what has become of them.
    """
    origin = beginning.origin
    if read_origin(folder) != origin:
        raise UserError(
            f"--resume: {origin.name} has changed since the run in {folder} was started from it; "
            "start again with another --out"
        )


def _keep(
    task: Task, folder: Path, kind: str, network: nn.Module, facts: dict[str, JsonValue]
) -> None:
    """Write a network so that others can use it."""
    assert isinstance(network, Segmentor)
    scored, weights = task.scored, network.encoder.weights
    card = Card(
        app=task.app.name,
        method=task.request.method,
        options=task.recipe.options.model_dump(mode="json"),
        network=task.network(),
        classes=scored.source.classes,
        palette=scored.source.palette.tolist(),
        source=scored.text,
        split=scored.split,
        data=task.described,
        seed=task.request.seed,
        evaluation=task.evaluation,
        protocol=task.protocol,
        crop=task.recipe.sections.data.crop,
        scores=facts,
        encoder_weights=EncoderWeights(**weights._asdict()) if weights else None,
        origin=read_origin(folder),
        versions=versions(),
        scaling=scored.source.scaling,
    )
    save_folder(folder / kind, network, card)
