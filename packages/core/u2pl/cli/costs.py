"""Saying what a run will take, before it does: processes, memory, disk, time."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from u2pl.cli.config import Sections
from u2pl.cli.doctor import Diagnosis
from u2pl.cli.trial import LONGEST_STEP, StepTimes, memory_of, peak_memory, state_bytes, tensor_bytes, try_one_image, try_scoring, try_steps
from u2pl.contrast import ContrastConfig
from u2pl.data.source import Source
from u2pl.errors import UserError
from u2pl.method import Method

#: Share of its threads' time below which a trial is not alone on its machine.
BUSY = 0.5


@dataclass(frozen=True)
class Prospect:
    """A run that has not been started."""

    method: Method  # on the device to try it on
    dataset: Dataset[Any]  # of named tuples whose first field is an image
    sections: Sections
    total: int  # steps
    warm: int  # of these, supervised only
    seed: int
    student_images: int  # a step's images that the student sees with gradient
    teacher_images: int  # and those that only pass forward
    source: Source
    scored: list[str]

    @property
    def device(self) -> torch.device:
        """Where the method is."""
        return next(self.method.parameters()).device


def say_state(run: Prospect, diagnosis: Diagnosis) -> None:
    """Print how many processes may share a batch, and what memories and checkpoints take."""
    batch = run.sections.train.batch
    student: Any = run.method.student
    # SyncBatchNorm, which GPUs use, normalises over all processes.
    fewest = 1 if run.device.type == "cuda" else student.min_images
    shares = [str(n) for n in range(1, batch + 1) if batch % n == 0 and batch // n >= fewest]
    if shares:
        diagnosis.say(f"processes that can share a batch of {batch}: {', '.join(shares)}")
    contrast = getattr(run.method.config, "contrast", None)
    if isinstance(contrast, ContrastConfig):
        _say_queues(contrast, len(run.source.classes), student.embed_dim, diagnosis)
    state, model = state_bytes(run.method, run.sections.train), tensor_bytes(student)
    # Each file is written beside the one it replaces.
    needed, free = 2 * state + 3 * model, shutil.disk_usage(Path.cwd()).free
    diagnosis.say(f"disk: {amount(state)} for the state to resume from, {amount(model)} for each of two models; {amount(free)} free here")
    if free < needed:
        diagnosis.fix([f"a run needs up to {amount(needed)} of disk and {Path.cwd()} has {amount(free)}: free some, or start elsewhere"])


def say_costs(run: Prospect, diagnosis: Diagnosis) -> None:
    """Train some steps on the real data and print time and memory; on a CPU that is too slow for it, what one image tells."""
    workers, batch_size = run.sections.data.workers, run.sections.train.batch
    try:
        begin = time.perf_counter()
        batch = default_collate([run.dataset[position] for position in range(batch_size)])
        loading = (time.perf_counter() - begin) / max(1, workers)
        if run.device.type == "cpu" and not _can_be_tried(run, batch[0][0], diagnosis):
            return
        batch = type(batch)(*(tensor.to(run.device) for tensor in batch))
        with diagnosis.console.status("trying some steps"):
            begin, worked = time.perf_counter(), time.process_time()
            steps = try_steps(run.method, run.sections.train, batch, run.total, run.seed)
            scoring = try_scoring(run.method.networks(), run.source, run.scored, run.sections.evaluate) if run.scored else 0.0
            share = (time.process_time() - worked) / (time.perf_counter() - begin) / torch.get_num_threads()
    except torch.OutOfMemoryError:
        limit = amount(memory_of(run.device))
        diagnosis.fix([f"a step does not fit into the GPU's {limit}: lower train.batch or data.crop, or share the batch between GPUs"])
        return
    except UserError as error:
        diagnosis.fix([str(error)])
        return
    _say_times(run, steps, loading, scoring, diagnosis)
    diagnosis.say(f"memory: {amount(peak_memory(run.device))} at the peak, of {amount(memory_of(run.device))}" + _still_to_fill(run))
    if run.device.type == "cpu" and share < BUSY:
        diagnosis.warn(f"other programs keep this machine busy: the trial got {100 * share:.0f} % of its threads' time, alone it is faster")
    if loading > steps.last:
        diagnosis.warn(f"the steps wait for images: a batch loads in {loading:.2g} s with data.workers={workers}; raise it")


def amount(size: int) -> str:
    """Bytes for people."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1000:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def _say_queues(contrast: ContrastConfig, classes: int, width: int, diagnosis: Diagnosis) -> None:
    size, keys = contrast.queue_bytes(classes, width), sum(contrast.queue_lengths(classes))
    place = "on the network's device" if contrast.queue_device == "auto" else "in main memory"
    diagnosis.say(f"queues: {keys} keys of {width} {contrast.queue_dtype} numbers, {size} bytes ({amount(size)}), {place}")


def _can_be_tried(run: Prospect, image_3HW: torch.Tensor, diagnosis: Diagnosis) -> bool:
    """Whether a step fits into main memory and is done in seconds; says what to expect when not."""
    student: Any = run.method.student
    with diagnosis.console.status("trying one image"):
        one = try_one_image(student, image_3HW)
    memory = one.kept * run.student_images + state_bytes(run.method, run.sections.train)
    seconds = one.seconds * (3 * run.student_images + run.teacher_images)  # backward takes about twice as long as forward
    if memory <= memory_of(run.device) and seconds <= LONGEST_STEP:
        return True
    diagnosis.say(
        f"not tried on the CPU: one image takes {one.seconds:.2g} s forward, so a step about {duration(seconds)} and {amount(memory)}, "
        f"and a run about {duration(run.total * seconds)}; doctor tells more where there is a GPU"
    )
    if run.sections.train.batch < student.min_images:
        diagnosis.fix([f"train.batch is {run.sections.train.batch}: the decoder normalises over at least {student.min_images} images"])
    if memory > memory_of(run.device):
        limit = amount(memory_of(run.device))
        diagnosis.fix([f"a step needs about {amount(memory)} and this machine has {limit}: lower train.batch or data.crop, or use a GPU"])
    return False


def _say_times(run: Prospect, steps: StepTimes, loading: float, scoring: float, diagnosis: Diagnosis) -> None:
    """Print what a step and a run take; workers load while the steps run, without any the steps wait."""
    train, workers, cores = run.sections.train, run.sections.data.workers, torch.get_num_threads()
    place = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else f"the CPU with {cores} thread{'s' * (cores > 1)}"
    early = f"{steps.first:.2g} s for a step of the warm start, " if run.warm else ""
    diagnosis.say(f"tried on {place}: {early}{steps.last:.2g} s for a full step, {scoring:.2g} s to score an image")
    early_step, full_step = (max(seconds, loading) if workers else seconds + loading for seconds in steps)
    training = run.warm * early_step + (run.total - run.warm) * full_step
    evaluating = train.evaluations * len(run.scored) * scoring
    diagnosis.say(
        f"a run takes about {duration(training + evaluating)}: {duration(training)} for {run.total} steps, "
        f"{duration(evaluating)} to score {len(run.scored)} val images {train.evaluations} times"
    )


def _still_to_fill(run: Prospect) -> str:
    """Memory that the operating system gives out only once a queue's rows are written."""
    contrast = getattr(run.method.config, "contrast", None)
    if not isinstance(contrast, ContrastConfig) or run.device.type == "cuda":
        return ""
    student: Any = run.method.student
    return f"; up to {amount(contrast.queue_bytes(len(run.source.classes), student.embed_dim))} more once the queues are full"
