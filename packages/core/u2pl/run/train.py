"""From a request to a finished run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from pydantic import JsonValue
from torch import nn

from u2pl import distributed
from u2pl.counting import OnProgress, silently
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.evaluate.counts import COUNTS, save_counts
from u2pl.evaluate.crf import load_crf
from u2pl.evaluate.scoring import check_scored, evaluate
from u2pl.methods.method import AnyMethod
from u2pl.model.card import Card, EncoderWeights
from u2pl.model.folder import save_folder
from u2pl.networks.segmentor import Segmentor
from u2pl.run.app import App
from u2pl.run.baseline import baseline_request
from u2pl.run.moments import keep_moment
from u2pl.run.recipe import USUAL, OptionRow, Recipe
from u2pl.run.report.page import write_report
from u2pl.run.request import Request
from u2pl.run.run import Run
from u2pl.run.start import ORIGIN, Beginning, read_origin
from u2pl.run.summary import PICTURES, draw_pictures, write_summary
from u2pl.run.task import Task
from u2pl.run.tracking import check_trackers, tracking
from u2pl.training import loop
from u2pl.training.checkpoint import has_checkpoint
from u2pl.training.journal import Entries
from u2pl.training.loop import (
    Job,
    Stopped,
    check_method,
    fast_bf16,
    fit,
    local_batch,
    make_accelerator,
)
from u2pl.training.memory import keep_freed_memory
from u2pl.training.provenance import precision, versions
from u2pl.training.run_folder import (
    CONFIG,
    forget_unbegun,
    latest_folder,
    next_folder,
    open_folder,
)
from u2pl.training.threads import choose_threads


class Reporter(Protocol):
    """Tells a person what happens; on all processes but the first it stays silent."""

    def say(self, line: str) -> None:
        """A line, however long."""

    def options(self, rows: Sequence[OptionRow]) -> None:
        """Every option of the run."""

    def counting(self, what: str) -> AbstractContextManager[OnProgress]:
        """Progress of a preparatory step."""

    def training(self) -> AbstractContextManager[loop.Reporter]:
        """Progress of the training itself."""


class Silent:
    """Says nothing, at any moment of a run."""

    def say(self, line: str) -> None:
        """Stay silent."""

    def options(self, rows: Sequence[OptionRow]) -> None:
        """Stay silent."""

    def counting(self, what: str) -> AbstractContextManager[OnProgress]:
        """Stay silent."""
        return silently(what)

    @contextmanager
    def training(self) -> Iterator[Silent]:
        """Stay silent."""
        yield self

    def step(self, step: int, total: int, entries: Entries) -> None:
        """Stay silent."""

    def evaluating(self, done: int, total: int) -> None:
        """Stay silent."""

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None:
        """Stay silent."""

    def note(self, text: str) -> None:
        """Stay silent."""


def make_task(
    app: App, request: Request, counting: Callable[[str], AbstractContextManager[OnProgress]]
) -> Task:
    """What a request asks for, its data opened; UserError for whatever cannot work."""
    return app.task_module.make_task(app, request, Recipe.of_request(app, request), counting)


def train(app: App, request: Request, reporter: Reporter | None = None) -> Run:
    """Train as requested, in a folder of its own.

    With `request.baseline` the app's baseline is trained first, unless it is there.

    Raises UserError for whatever cannot work, and Stopped after SIGTERM, once the state is written;
    its text says how to go on.
    """
    if request.baseline:
        asked = baseline_request(app, request)
        if reporter is not None and distributed.rank() == 0:
            begun = "first the baseline" if asked is not None else "the baseline has been trained"
            reporter.say(f"{begun}: {app.baseline}")
        if asked is not None:
            train(app, asked, reporter)
    recipe = Recipe.of_request(app, request)
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
    scored = task.scored
    if scored.ids:
        check_scored(scored.source, scored.ids)
    task.check()
    folder = _folder(task)
    # of a run that goes on, all is in its state: what it began with, and what `prepare` has found
    going_on = request.resume and has_checkpoint(folder)
    method, beginning = (task.build_method(), None) if going_on else task.begin()
    dataset = task.dataset()
    check_method(method, task.recipe.sections.train, device.type == "cuda")
    if not going_on:
        task.prepare(method.to(device))
    distributed.barrier()  # every process has read the folders before the first one makes one
    if main:
        open_folder(folder, _config(task, folder, beginning), request.resume)
        if task.recipe.preset == USUAL and request.preset is None:
            reporter.options(task.recipe.rows())
        for line in announcement(task, method, folder, accelerator, beginning):
            reporter.say(line)
    distributed.barrier()

    names = request.track if main else []
    try:
        with (
            reporter.training() as shown,
            tracking(shown, names, folder, task.config(), task.classes) as progress,
        ):
            job = Job(
                method=method,
                dataset=dataset,
                train=task.recipe.sections.train,
                data=task.recipe.sections.data,
                total=task.total,
                seed=request.seed,
                evaluate=partial(_evaluate, task, folder, device) if scored.ids else None,
                keep=partial(_keep, task, folder),
                warm_steps=task.warm_steps if method.remedy else 0,
                look=partial(keep_moment, folder, task, method),
            )
            history = fit(job, folder, accelerator, progress, request.resume)
            if main:
                write_summary(folder, task, history, method, accelerator)
                draw_pictures(folder, task, device)
                progress.picture(folder / PICTURES, task.total)
    except Stopped as stopped:
        raise Stopped(f"{stopped}; go on with: {resume_command(task, folder)}") from None
    except UserError:
        if main and not request.resume:
            forget_unbegun(folder)
        raise
    if main:
        with reporter.counting("drawing the report") as drawing:
            write_report(task.app, folder, device, drawing)
    distributed.barrier()
    return Run(folder)


def resume_command(task: Task, folder: Path) -> str:
    """What to type to go on with a run."""
    import shlex

    words = [task.app.name, "train", *task.request.words("out", "resume", "baseline")]
    return shlex.join([*words, "--out", str(folder), "--resume"])


def announcement(
    task: Task,
    method: AnyMethod,
    folder: Path,
    accelerator: Accelerator,
    beginning: Beginning | None = None,
) -> list[str]:
    """What is about to happen, in a few lines."""
    request, train = task.request, task.recipe.sections.train
    lr, head_lr = train.scaled_lr, train.scaled_lr * train.head_lr_factor
    images = ", ".join(f"{len(part.ids)} {part.role}" for part in task.streams)
    world = f" x {distributed.world_size()}" if distributed.world_size() > 1 else ""
    scored, threads = task.scored, torch.get_num_threads()
    device = f"{accelerator.device}{world}, {precision(accelerator)}"
    device += f", {threads} thread{'s' if threads > 1 else ''}"
    return [
        f"{task.described}: {images}, {len(scored.ids)} to score on, {len(task.classes)} classes",
        f"{request.method} with preset {task.recipe.preset}: {task.total} steps, batch "
        f"{train.batch}, seed {request.seed}, on {device}",
        f"learning rate {lr:g} for the encoder, {head_lr:g} for the rest ({train.lr:g} at a batch "
        f"of {train.reference_batch})",
        *(beginning.lines if beginning is not None else ()),
        *(f"note: {note}" for note in (*task.notes(method, scored), *slow(accelerator))),
        f"writing to {folder}",
    ]


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


def _folder(task: Task) -> Path:
    request, stem = task.request, f"{task.name}-{task.request.method}"
    if request.out is not None:
        return request.out
    runs = Path("runs")
    return latest_folder(runs, stem, task.config()) if request.resume else next_folder(runs, stem)


def _config(task: Task, folder: Path, beginning: Beginning | None) -> dict[str, object]:
    """What config.json says, with what the run begins with.

    Raises UserError if a run that has no state yet was started from the same name with other
    weights; with a state it does not matter what has become of them.
    """
    config = {**task.config(), "command": task.command()}
    if beginning is None:
        return config
    origin = beginning.origin
    if task.request.resume and (folder / CONFIG).is_file() and read_origin(folder) != origin:
        raise UserError(
            f"--resume: {origin.name} has changed since the run in {folder} was started from it; "
            "start again with another --out"
        )
    return {**config, ORIGIN: origin.model_dump(mode="json")}


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
    )
    save_folder(folder / kind, network, card)
