"""The one training loop: it knows batches, an optimizer, checkpoints and scores, and nothing of any method."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.utils.data import DataLoader, Dataset

from u2pl import distributed
from u2pl.data.streams import StepSampler
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.methods.method import Method
from u2pl.schedules import Progress, step_seed
from u2pl.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from u2pl.training.config import DataConfig, TrainConfig
from u2pl.training.guard import FiniteGuard, check_weights
from u2pl.training.journal import Journal, numbers
from u2pl.training.optimizer import build_optimizer, set_learning_rate
from u2pl.training.run_folder import JOURNAL


class Reporter(Protocol):
    """Tells a person how the run goes."""

    def step(self, step: int, total: int, entries: dict[str, Any]) -> None: ...

    def evaluating(self, done: int, total: int) -> None: ...

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None: ...


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and how it is scored and kept."""

    method: Method[Any]
    dataset: Dataset[Any]
    train: TrainConfig
    data: DataConfig
    total: int  # steps
    seed: int
    evaluate: (
        Callable[[dict[str, nn.Module], Callable[[int, int], None]], dict[str, Score]] | None
    )  # None: nothing to score on
    keep: Callable[
        [str, nn.Module, dict[str, Any]], None
    ]  # (last | best, network, facts): write a shareable checkpoint


@dataclass
class History:
    """What a run knows about itself beyond its tensors; part of every checkpoint."""

    step: int = 0  # steps done
    seconds: float = 0.0
    evaluations: list[dict[str, Any]] = field(
        default_factory=list
    )  # {"step", "<network>": {"miou", "per_class_iou", "pixel_accuracy"}}
    best: dict[str, Any] = field(
        default_factory=dict
    )  # the evaluation with the highest mIoU of the method's result
    scaler: dict[str, Any] = field(default_factory=dict)  # of float16


class Stopped(Exception):
    """The run was asked to stop; its state is on disk."""


def make_accelerator(cpu: bool = False) -> Accelerator:
    """The process group and precision that `accelerate launch` asks for; UserError when the launcher's processes are not connected."""
    accelerator = Accelerator(
        cpu=cpu, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    if announced > accelerator.num_processes:
        raise UserError(
            f"the launcher started {announced} processes but they are not connected; on CPUs start them with "
            "ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes N ..."
        )
    return accelerator


def local_batch(batch: int) -> int:
    """Labelled images of a step on this process; UserError when the processes cannot share them equally."""
    if batch % distributed.world_size():
        raise UserError(
            f"train.batch is {batch}, which {distributed.world_size()} processes cannot share equally; choose a multiple"
        )
    return batch // distributed.world_size()


def fit(
    job: Job, folder: Path, accelerator: Accelerator, reporter: Reporter, resume: bool = False
) -> History:
    """Train to the last step; returns what happened.

    Raises UserError when a loss or a weight is not finite or the disk is full, and Stopped after SIGTERM, once the state is written.
    """
    config, main, device = job.train, accelerator.is_main_process, accelerator.device
    method = job.method.to(device)
    if device.type == "cuda" and accelerator.num_processes > 1:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    optimizer = build_optimizer(method, config)
    # a run that was killed before its first state begins again
    history = (
        History(**load_checkpoint(folder, method, optimizer))
        if resume and has_checkpoint(folder)
        else History()
    )
    module, prepared = accelerator.prepare(method, optimizer)
    if accelerator.scaler is not None and history.scaler:
        accelerator.scaler.load_state_dict(history.scaler)
    journal = Journal(folder / JOURNAL if main else None, history.step)
    guard, begin = FiniteGuard(), time.monotonic() - history.seconds

    def check() -> None:
        guard.check()
        check_weights(method, history.step)

    def keep_state() -> None:
        check()
        history.seconds = time.monotonic() - begin
        history.scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
        if main:
            save_checkpoint(folder, method, optimizer, asdict(history))

    method.train()
    # closed whatever happens: the workers end when they are told to, not by a signal (see `_outlive_sigterm`)
    with _StopSignal() as stop, closing(_batches(job, history.step, device)) as batches:
        for step, batch in zip(range(history.step, job.total), batches, strict=True):
            torch.manual_seed(step_seed(job.seed, step, distributed.rank()))
            lr = set_learning_rate(optimizer, config, step, job.total)
            progress = Progress(step, job.total, job.seed)
            result = module(batch, progress)
            guard.watch(step, result.scalars)
            accelerator.backward(result.loss)
            if config.clip_norm:
                accelerator.clip_grad_norm_(method.parameters(), config.clip_norm)
            prepared.step()
            prepared.zero_grad()
            method.after_step(progress)
            history.step = step + 1

            last = history.step == job.total
            if step % config.log_every == 0 or last:
                entries = {"lr": lr, "seconds": time.monotonic() - begin, **numbers(result.scalars)}
                guard.check()
                journal.write(step, **entries)
                reporter.step(history.step, job.total, entries)
            scored = history.step in _evaluation_steps(job)
            if scored:
                check()
                _score(job, method, history, journal, reporter, main)
            stopping = stop.asked(step)
            if scored or stopping or history.step % config.checkpoint_every == 0:
                keep_state()
            if stopping and not last:
                raise Stopped(f"stopped after step {history.step} of {job.total}")
    history.seconds = time.monotonic() - begin
    return history


def _batches(job: Job, start: int, device: torch.device) -> Generator[Any]:
    """The batches of the steps from `start` on, on the device."""
    sampler = StepSampler(
        start, job.total, local_batch(job.train.batch), distributed.rank(), distributed.world_size()
    )
    workers = job.data.workers
    loader: DataLoader[Any] = DataLoader(
        job.dataset,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_outlive_sigterm,
    )
    try:
        for batch in loader:
            yield type(batch)(*(tensor.to(device, non_blocking=True) for tensor in batch))
    except UserError as error:  # out of a worker it comes with the worker's traceback in front
        error.__traceback__ = None  # its frames would keep the workers
        raise UserError(
            str(error)
            .rstrip()
            .splitlines()[-1]
            .removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
        ) from None


def _outlive_sigterm(worker: int) -> None:
    """A SIGTERM to the whole group (`timeout`, a scheduler) must not take the batches from a step that is still to be finished."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _evaluation_steps(job: Job) -> set[int]:
    return {
        round(job.total * (i + 1) / job.train.evaluations) for i in range(job.train.evaluations)
    }


def _score(
    job: Job,
    method: Method[Any],
    history: History,
    journal: Journal,
    reporter: Reporter,
    main: bool,
) -> None:
    """Evaluate every network of the method, if it can be; keep the first one as `last`, and as `best` if it is."""
    networks = method.networks()
    result = next(iter(networks))
    if job.evaluate is None:
        if main:
            job.keep("last", networks[result], {"step": history.step, "network": result})
        return
    scores = job.evaluate(networks, reporter.evaluating)
    entry = {"step": history.step, **{name: score._asdict() for name, score in scores.items()}}
    history.evaluations.append(entry)
    best = not history.best or scores[result].miou > history.best[result]["miou"]
    if best:
        history.best = entry
    if main:
        for kind in ("last", "best") if best else ("last",):
            job.keep(
                kind,
                networks[result],
                {"step": history.step, "network": result, **scores[result]._asdict()},
            )
    journal.write(history.step - 1, evaluation=entry)
    reporter.scored(history.step, scores, best)


class _StopSignal:
    """SIGTERM asks the run to stop at the next step; with several processes they agree on it every tenth."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> _StopSignal:
        # outside the main thread nothing can be caught: whoever runs the loop there stops it another way
        self.caught = threading.current_thread() is threading.main_thread()
        if self.caught:
            self.before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        if self.caught:
            signal.signal(signal.SIGTERM, self.before)

    def _receive(self, *_: Any) -> None:
        self.received = True

    def asked(self, step: int) -> bool:
        if distributed.world_size() == 1:
            return self.received
        return step % 10 == 9 and bool(
            distributed.total(torch.tensor(float(self.received), device=distributed.device())) > 0
        )
