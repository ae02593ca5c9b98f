"""The one training loop: batches, optimizer, checkpoints and scores; independent of the method."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from pydantic import JsonValue
from torch import Tensor, nn
from torch.compiler import set_stance
from torch.utils.data import Dataset

from u2pl import distributed
from u2pl.counting import OnProgress
from u2pl.data.ids import first_three
from u2pl.data.streams import StepSampler
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.files import whole_folder
from u2pl.methods.method import AnyMethod
from u2pl.networks.attention import AffinityHead
from u2pl.networks.encoder import Encoder
from u2pl.output import is_output_lost
from u2pl.schedules import Progress, step_seed
from u2pl.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from u2pl.training.config import DataConfig, TrainConfig
from u2pl.training.guard import FiniteGuard, check_weights
from u2pl.training.history import Evaluation, History
from u2pl.training.journal import Entries, Journal, numbers, read_journal
from u2pl.training.loading import STOPPING, load_batches, peer_failures, worker_failures
from u2pl.training.optimizer import build_optimizer, layer_factors, set_learning_rate
from u2pl.training.pace import Pace
from u2pl.training.run_folder import BEST, JOURNAL, LAST
from u2pl.training.threads import choose_threads


class Reporter(Protocol):
    """Shows the user the progress of a run."""

    def step(self, step: int, total: int, entries: Entries, left: float | None) -> None: ...

    def evaluating(self, done: float, total: int) -> None: ...

    def scored(self, step: int, scores: dict[str, Score], best: bool) -> None: ...

    def phase(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and how it is scored and kept."""

    method: AnyMethod
    dataset: Dataset[tuple[Tensor, ...]]
    train: TrainConfig
    data: DataConfig
    total: int  # steps
    seed: int
    #: (networks by role, progress) -> scores; None if there is nothing to score on.
    evaluate: Callable[[dict[str, nn.Module], OnProgress], dict[str, Score]] | None
    #: (`last` or `best`, network, facts): writes a model folder.
    keep: Callable[[str, nn.Module, dict[str, JsonValue]], None]
    warm_steps: int = 0  # of the warm start, if it is scored at its end
    #: (progress of the last step): keeps what the method makes of some images, after each scoring.
    look: Callable[[Progress], None] | None = None
    #: What is said after so many steps, when another phase of training begins.
    phases: Mapping[int, str] = field(default_factory=dict)
    #: The unlabelled images that could not be read so far; all processes call it together.
    skipped: Callable[[], Sequence[str]] = tuple
    #: What an evaluation costs in steps, roughly, for the time left before one was timed.
    scoring_steps: float = 0.0


class Stopped(Exception):
    """The run was stopped by a signal, after saving its state.

    A scoring that was going on is not in the state: it begins again when the run goes on.

    Args:
        text: for a person.
        signal: its number.
    """

    def __init__(self, text: str, signal: int) -> None:
        super().__init__(text)
        self.signal = signal


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C; the text says how to go on."""


class _ScoringEnded(Exception):
    """By a signal, before all images were scored."""


#: How long processes wait for each other; a machine that is gone does not answer.
LONGEST_WAIT = timedelta(minutes=30)
#: accelerate's names of the precisions of a config.
MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def fast_bf16() -> bool:
    """Whether there is a GPU with bfloat16 of its own; emulated it is slower than float32."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def no_float16() -> UserError:
    """The error of float16 on a CPU."""
    return UserError("float16 needs a GPU: set train.precision=bfloat16 or float32")


def check_method(method: AnyMethod, config: TrainConfig, gpus: bool) -> None:
    """UserError if the method cannot be trained as configured, whatever the data.

    Args:
        method: to be trained.
        config: compilation and precision.
        gpus: whether it runs on one or several GPUs.
    """
    if config.precision == "float16" and not gpus:
        raise no_float16()
    layer_factors(method, config.layer_decay)  # raises if an encoder has no layers
    if config.compile and any(isinstance(part, AffinityHead) for part in method.modules()):
        raise UserError(
            "train.compile=true hides the attention that the affinity is made of: leave it out"
        )


def make_accelerator(cpu: bool = False, precision: str = "auto") -> Accelerator:
    """Process group of `accelerate launch`, and precision.

    Args:
        cpu: use no GPU.
        precision: see `TrainConfig.precision`.

    Raises:
        UserError: Processes do not connect, or the device does not have the precision.
    """
    mixed = MIXED.get(precision)
    if mixed is None and "ACCELERATE_MIXED_PRECISION" not in os.environ and not cpu:
        mixed = "bf16" if fast_bf16() else None
    # another run of this process may have had another precision or device
    AcceleratorState._reset_state(reset_partial_state=distributed.world_size() == 1)
    try:
        announced = int(os.environ.get("WORLD_SIZE", "1"))
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=mixed,
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=LONGEST_WAIT),
            ],
        )
    except ValueError as error:
        if "WORLD_SIZE" not in os.environ:
            raise
        raise UserError(
            f"the environment says of several processes (WORLD_SIZE), but not how they meet: "
            f"{error}; start with accelerate launch, or unset WORLD_SIZE"
        ) from None
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise no_float16()
    if announced > accelerator.num_processes:
        raise UserError(
            f"the launcher started {announced} processes but they are not connected; on CPUs start "
            "them with "
            "ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes N ..."
        )
    return accelerator


def local_batch(batch: int) -> int:
    """Labelled images per step on this process; UserError if they cannot be split evenly."""
    if batch % distributed.world_size():
        raise UserError(
            f"train.batch is {batch}, which {distributed.world_size()} processes cannot share "
            "equally; choose a multiple"
        )
    return batch // distributed.world_size()


def fit(
    job: Job, folder: Path, accelerator: Accelerator, reporter: Reporter, resume: bool = False
) -> History:
    """Train to the last step.

    Args:
        job: what to train.
        folder: of the run; state and journal go there.
        accelerator: see `make_accelerator`.
        reporter: shows progress.
        resume: continue from the state in `folder`, if there is one.

    Raises UserError if a loss or a weight is not finite, CutShort if the disk is full or an image
    cannot be read, and, once the state is saved, KeyboardInterrupt after Ctrl-C and Stopped after
    SIGTERM, SIGHUP or SIGUSR1.
    """
    config, main, device = job.train, accelerator.is_main_process, accelerator.device
    method = job.method.to(device)
    if config.channels_last == "on" or (config.channels_last == "auto" and device.type == "cuda"):
        method = method.to(memory_format=torch.channels_last)
    if device.type == "cuda" and accelerator.num_processes > 1:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
    optimizer = build_optimizer(method, config)
    history = _begin(job, folder, method, optimizer, reporter) if resume else History()
    if config.compile:
        compile_encoders(method)
    history.threads = choose_threads(history.threads or torch.get_num_threads())
    module, prepared = accelerator.prepare(method, optimizer)
    if accelerator.scaler is not None and history.scaler:
        accelerator.scaler.load_state_dict(history.scaler)
    evaluations = _evaluation_steps(job)
    scores_missing = (
        job.evaluate is not None
        and history.step in evaluations
        and all(each.step != history.step for each in history.evaluations)
    )
    journal = Journal(folder / JOURNAL if main else None, history.step, scores_missing)
    for note in journal.notes:
        reporter.note(note)
    guard, begin = FiniteGuard(), time.monotonic() - history.seconds
    skipped = _Skipped(job.skipped, reporter)
    pace = Pace(job.total, evaluations, job.scoring_steps, job.phases)

    def check() -> None:
        guard.check()
        check_weights(method, history.step)

    def keep_state() -> None:
        check()
        history.seconds = time.monotonic() - begin
        history.scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
        if main:
            save_checkpoint(folder, method, optimizer, history.dump())

    def score() -> None:
        check()
        # images of many sizes: nothing is tuned or compiled for them
        with accelerator.autocast(), _autotuning(False), set_stance("force_eager"):
            _score(job, method, history, journal, reporter, main, stop)
            if main and job.look is not None:
                job.look(Progress(history.step - 1, job.total, job.seed))
        pace.scored()

    def complete() -> None:
        """What follows a step: scores, the state, the end after a signal."""
        last, due, cut = history.step == job.total, history.step in evaluations, False
        if due:
            try:
                score()
            except _ScoringEnded:
                cut = True
        if history.step in job.phases and not cut:
            reporter.phase(job.phases[history.step])
            pace.restart()
        stopping = stop.agreed if cut else stop.asked(history.step)
        if due or stopping or history.step % config.checkpoint_every == 0:
            keep_state()
        if cut or (stopping and not last):
            if stopping == signal.SIGINT:
                raise KeyboardInterrupt
            before = ", before it was scored" if cut else ""
            raise Stopped(f"stopped after step {history.step} of {job.total}{before}", stopping)

    method.train()
    tuning = _autotuning(device.type == "cuda" and not torch.are_deterministic_algorithms_enabled())
    with (
        tuning,
        worker_failures(job.data.workers),
        peer_failures(),
        _StopSignal() as stop,
        closing(_batches(job, history.step, device)) as batches,
    ):
        if scores_missing:
            complete()
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
            pace.stepped()

            if step % config.log_every == 0 or history.step == job.total:
                entries = {"lr": lr, "seconds": time.monotonic() - begin, **numbers(result.scalars)}
                guard.check()
                skipped.look(entries)
                if is_output_lost():
                    entries["output_lost"] = 1.0
                journal.write(step, **entries)
                reporter.step(history.step, job.total, entries, pace.left(history.step))
            complete()
    history.seconds = time.monotonic() - begin
    return history


def _begin(
    job: Job,
    folder: Path,
    method: AnyMethod,
    optimizer: torch.optim.Optimizer,
    reporter: Reporter,
) -> History:
    """What happened in a run that goes on, its state loaded.

    Without a state it begins again: it was killed before the first one was written. UserError if it
    was not, but trained to its end: its networks would be replaced.
    """
    again = "start again with another --out"
    if not has_checkpoint(folder):
        journal = folder / JOURNAL
        lines = read_journal(journal).lines if journal.exists() else []
        trained = any(line["step"] >= job.total - 1 for line in lines)
        if trained and whole_folder(folder / LAST).exists():
            raise UserError(
                f"{folder} was trained to its end, but its state is gone: it would begin again and "
                f"replace the network in {LAST}/; {again}"
            )
        reporter.note("no state was saved yet: the run begins again")
        return History()
    loaded = load_checkpoint(folder, method, optimizer)
    history = History.parse(loaded.facts)
    if history.step > job.total:
        raise UserError(
            f"the state is that after step {history.step}, but the run has {job.total}; {again}"
        )
    if any(each.scores.keys() != method.networks().keys() for each in history.evaluations):
        raise UserError(f"the state has scores of other networks than the method's; {again}")
    if loaded.note:
        reporter.note(loaded.note)
    reporter.note(f"going on after step {history.step} of {job.total}")
    return history


def compile_encoders(method: AnyMethod) -> None:
    """Compile the forward of every encoder at its first call."""
    for part in method.modules():
        if isinstance(part, Encoder):
            part.compile(dynamic=False)


@contextmanager
def _autotuning(on: bool) -> Iterator[None]:
    """Whether cuDNN tries its algorithms for each new size and keeps the fastest."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _batches(job: Job, start: int, device: torch.device) -> Generator[tuple[Tensor, ...]]:
    """The batches from step `start` on, on the device."""
    sampler = StepSampler(
        start, job.total, local_batch(job.train.batch), distributed.rank(), distributed.world_size()
    )
    return load_batches(job.dataset, sampler, job.data.workers, device)


def _evaluation_steps(job: Job) -> set[int]:
    evaluations = job.train.evaluations
    evenly = {round(job.total * (i + 1) / evaluations) for i in range(evaluations)}
    return evenly | ({job.warm_steps} if 0 < job.warm_steps < job.total else set())


def _score(
    job: Job,
    method: AnyMethod,
    history: History,
    journal: Journal,
    reporter: Reporter,
    main: bool,
    stop: _StopSignal,
) -> None:
    """Score the networks, if possible; keep the first as `last`, and as `best` if it is.

    Raises _ScoringEnded, and changes nothing, if a signal comes while they are scored.
    """
    networks = method.networks()
    result = next(iter(networks))
    if job.evaluate is None:
        if main:
            job.keep(LAST, networks[result], {"step": history.step, "network": result})
        return

    def scored_one(done: float, total: int) -> None:
        reporter.evaluating(done, total)
        if done < total and stop.asked(int(done)):
            raise _ScoringEnded

    evaluation = Evaluation(history.step, job.evaluate(networks, scored_one))
    history.evaluations.append(evaluation)
    score = evaluation.scores[result]
    best = history.best is None or score.miou > history.best.scores[result].miou
    if best:
        history.best = evaluation
    if main:
        for kind in (LAST, BEST) if best else (LAST,):
            facts = {"step": history.step, "network": result, **score._asdict()}
            job.keep(kind, networks[result], facts)
    journal.write(history.step - 1, evaluation=evaluation.entry())
    reporter.scored(history.step, evaluation.scores, best)
    begin = next((each for each in history.evaluations if each.step == job.warm_steps), evaluation)
    before, now = begin.scores[result].miou, score.miou
    if now < before:
        does = "is hurting" if before - now > 1 else "does not help so far"
        told = any(
            each.step > begin.step and each.scores[result].miou < before
            for each in history.evaluations[:-1]
        )
        reporter.note(
            f"self-training {does}: mIoU {now:.2f}, and {before:.2f} at the end of the warm "
            f"start" + ("" if told else f"; try {method.remedy}")
        )


class _Skipped:
    """Tells of unlabelled images that cannot be read, once each, and counts them in the journal."""

    def __init__(self, find: Callable[[], Sequence[str]], reporter: Reporter) -> None:
        self.find, self.reporter = find, reporter
        self.known: set[str] = set()

    def look(self, entries: Entries) -> None:
        """Add their number to what is logged of a step, if there are any."""
        found = self.find()
        new = [id for id in found if id not in self.known]
        if new:
            self.reporter.note(
                f"unlabelled images that cannot be read are left out: {first_three(new)}; doctor "
                "says why"
            )
            self.known.update(new)
        if found:
            entries["skipped_images"] = float(len(found))


class _StopSignal:
    """Whether the run was asked to stop by a signal.

    Several processes agree after every tenth step, and every tenth image that each has scored. The
    end of the launcher that started them counts as a signal: nobody would end them otherwise.

    What is ignored already (a run behind nohup ignores SIGHUP) stays so.
    """

    def __init__(self) -> None:
        self.received = 0
        #: The number that `asked` returned last.
        self.agreed = 0
        self.parent = os.getppid()

    def __enter__(self) -> _StopSignal:
        # signals can only be caught in the main thread; a loop in another thread is not stopped
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for each in STOPPING:
                if signal.getsignal(each) != signal.SIG_IGN:
                    self.before[each] = signal.signal(each, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for each, before in self.before.items():
            signal.signal(each, before)

    def _receive(self, number: int, _: object) -> None:
        if number == self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT and distributed.rank() == 0:
            os.write(2, b"\nstopping after this step or image; Ctrl-C again stops at once\n")
        self.received = number

    def asked(self, done: int) -> int:
        """The number of the signal; 0 if there was none.

        Args:
            done: steps, or images of each process; all processes ask after the same.
        """
        if distributed.world_size() == 1:
            self.agreed = self.received
        elif done % 10 == 0:
            alone = os.getppid() != self.parent
            number = signal.SIGTERM if alone and not self.received else self.received
            said = torch.tensor(int(number), device=distributed.device())
            self.agreed = int(distributed.largest(said))
        return self.agreed
