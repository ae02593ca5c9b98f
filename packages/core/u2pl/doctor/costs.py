"""What a run will take, said before it starts: processes, memory, disk, time."""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from u2pl.counting import amount, duration
from u2pl.doctor.findings import Diagnosis
from u2pl.doctor.shortening import LONG, Length, shorter, smaller
from u2pl.doctor.trial import (
    LONGEST_STEP,
    StepTimes,
    peak_memory,
    state_bytes,
    tensor_bytes,
    try_one_image,
    try_scoring,
    try_steps,
)
from u2pl.errors import UserError, out_of_memory
from u2pl.methods.method import AnyMethod
from u2pl.run.task import Task
from u2pl.schedules import Progress
from u2pl.training.loading import check_shared_memory
from u2pl.training.memory import check_memory, memory_of

#: CPU share below which other programs distort the trial.
BUSY = 0.5


def say_state(task: Task, method: AnyMethod, diagnosis: Diagnosis) -> None:
    """Print how many processes may share a batch, and what memories and checkpoints take."""
    train, student = task.recipe.sections.train, method.student
    # SyncBatchNorm, which GPUs use, normalises over all processes.
    fewest = 1 if method.device.type == "cuda" else student.min_images
    batch = train.batch
    shares = [str(n) for n in range(1, batch + 1) if batch % n == 0 and batch // n >= fewest]
    if shares:
        diagnosis.say(f"processes that can share a batch of {batch}: {', '.join(shares)}")
    for queue in method.queues():
        place = "in main memory" if queue.pinned else "on the network's device"
        dtype = str(queue.dtype).removeprefix("torch.")
        diagnosis.say(
            f"queues: {queue.capacity} keys of {queue.width} {dtype} numbers, {queue.nbytes} bytes "
            f"({amount(queue.nbytes)}), {place}"
        )
    state, model = state_bytes(method, train), tensor_bytes(student)
    # Each file is written beside the one it replaces.
    needed, free = 2 * state + 3 * model, shutil.disk_usage(Path.cwd()).free
    diagnosis.say(
        f"disk: {amount(state)} for the state to resume from, {amount(model)} for each of two "
        f"models; {amount(free)} free here"
    )
    if free < needed:
        diagnosis.fix(
            [
                f"a run needs up to {amount(needed)} of disk and {Path.cwd()} has {amount(free)}: "
                "free some, or start elsewhere"
            ]
        )


def say_costs(task: Task, method: AnyMethod, scored: list[str], diagnosis: Diagnosis) -> None:
    """Train some steps on the real data and print time and memory.

    On a CPU that is too slow for it, what one image tells.
    """
    sections, device = task.recipe.sections, method.device
    workers, source, seed = sections.data.workers, task.parts[-1].source, task.request.seed
    try:
        dataset = task.dataset()
        check_shared_memory(dataset, sections.train.batch, workers)
        image = dataset[0][0].to(device)
        if device.type == "cpu" and not _can_be_tried(task, method, image, diagnosis):
            return
        check_memory(method, sections.train, sections.data, device)
        begin = time.perf_counter()
        batch = _batch(dataset, sections.train.batch, device)
        loading = (time.perf_counter() - begin) / max(1, workers)
        with diagnosis.console.status("trying some steps"):
            begin, worked = time.perf_counter(), time.process_time()
            steps = try_steps(method, sections.train, batch, task.total, seed)
            scoring = 0.0
            if scored:
                scoring = try_scoring(method.networks(), source, scored, sections.evaluate)
            elapsed = time.perf_counter() - begin
            share = (time.process_time() - worked) / elapsed / torch.get_num_threads()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        where = "GPU" if device.type == "cuda" else "machine"
        diagnosis.fix(
            [
                f"a step does not fit into the {where}'s {amount(memory_of(device))}: "
                f"{smaller(task, 0.5, method.student)}, or share the batch between GPUs"
            ]
        )
        return
    except UserError as error:
        diagnosis.fix([str(error)])
        return
    length = _say_times(task, device, steps, loading, scoring, len(scored), diagnosis)
    _warn_of_length(task, method, image, length, diagnosis)
    peak, limit = amount(peak_memory(device)), amount(memory_of(device))
    diagnosis.say(f"memory: {peak} at the peak, of {limit}" + _still_to_fill(method))
    if device.type == "cpu" and share < BUSY:
        diagnosis.warn(
            "other programs keep this machine busy: the trial got "
            f"{100 * share:.0f} % of its threads' time, alone it is faster"
        )
    if loading > steps.last:
        diagnosis.warn(
            f"the steps wait for images: a batch loads in {loading:.2g} s with "
            f"data.workers={workers}; {_more_workers(workers, loading, steps.last)}"
        )


def _batch(dataset: Dataset[Any], size: int, device: torch.device) -> Any:
    batch = default_collate([dataset[position] for position in range(size)])
    return type(batch)(*(tensor.to(device) for tensor in batch))


def _can_be_tried(
    task: Task, method: AnyMethod, image_3HW: torch.Tensor, diagnosis: Diagnosis
) -> bool:
    """Whether a step fits into main memory and takes seconds; says what to expect if not."""
    student, train = method.student, task.recipe.sections.train
    batch = train.batch
    if batch < student.min_images:
        diagnosis.fix(
            [
                f"train.batch is {batch}: the decoder normalises over at least "
                f"{student.min_images} images, so --set train.batch={student.min_images}"
            ]
        )
        return False
    with diagnosis.console.status("trying one image"):
        one = try_one_image(student, image_3HW)
        # how many images a step passes, counted on small ones
        side = 2 * student.divisor
        small = _batch(task.dataset(crop=side), student.min_images, method.device)
        progress = Progress(task.total - 1, task.total, task.request.seed)
        passes = method.count_passes(small, progress, side * side * student.min_images)
    memory = one.kept * passes.student * batch + state_bytes(method, train)
    # backward takes about twice as long as forward, with checkpointing three times
    backward = 3 if task.network().checkpointing else 2
    forward = one.seconds * (passes.student + passes.others)
    seconds = (forward + backward * (one.seconds - one.fixed) * passes.student) * batch
    limit = memory_of(method.device)
    if memory <= limit and seconds <= LONGEST_STEP:
        return True
    diagnosis.say(
        f"not tried on the CPU: one image takes {one.seconds:.2g} s forward, so a step about "
        f"{duration(seconds)} and {amount(memory)}, and a run about "
        f"{duration(task.total * seconds)}; doctor tells more where there is a GPU"
    )
    if memory > limit:
        fixed = state_bytes(method, train)
        share = 0.9 * max(limit - fixed, 0) / (memory - fixed)
        options = smaller(task, share, student)
        diagnosis.fix(
            [
                f"a step needs about {amount(memory)} and this machine has {amount(limit)}: "
                f"{options}, or use a GPU"
            ]
        )
    else:
        _warn_of_length(task, method, image_3HW, Length(task.total * seconds, 0.0), diagnosis)
    return False


def _say_times(
    task: Task,
    device: torch.device,
    steps: StepTimes,
    loading: float,
    scoring: float,
    scored: int,
    diagnosis: Diagnosis,
) -> Length:
    """Print what a step and a run take; without workers the steps wait for loading."""
    train, workers = task.recipe.sections.train, task.recipe.sections.data.workers
    cores, warm = torch.get_num_threads(), task.warm_steps
    place = f"the CPU with {cores} thread{'s' * (cores > 1)}"
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    early = f"{steps.first:.2g} s for a step of the warm start, " if warm else ""
    diagnosis.say(
        f"tried on {place}: {early}{steps.last:.2g} s for a full step, {scoring:.2g} s to score an "
        "image"
    )
    early_step, full_step = (
        max(seconds, loading) if workers else seconds + loading for seconds in steps
    )
    training = warm * early_step + (task.total - warm) * full_step
    evaluating = train.evaluations * scored * scoring
    diagnosis.say(
        f"a run takes about {duration(training + evaluating)}: {duration(training)} for "
        f"{task.total} steps, {duration(evaluating)} to score {scored} images "
        f"{train.evaluations} times"
    )
    return Length(training, evaluating)


def _warn_of_length(
    task: Task, method: AnyMethod, image_3HW: torch.Tensor, length: Length, diagnosis: Diagnosis
) -> None:
    """Say how to shorten a run that takes long."""
    if length.total <= LONG:
        return
    with diagnosis.console.status("trying a smaller encoder"):
        options = list(shorter(task, method, image_3HW, length))
    options += [] if method.device.type == "cuda" else ["a GPU"]
    options = options or ["fewer images in the list that is scored"]
    diagnosis.warn(
        f"a run takes more than {duration(LONG)}, about {duration(length.total)}; to shorten it: "
        f"{' or '.join(options)}"
    )


def _more_workers(workers: int, loading: float, step: float) -> str:
    """What to do about steps that wait for images."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    needed = math.ceil(loading * max(1, workers) / step)
    most = min(needed, max(cores or 1, 1))
    if most > workers:
        return f"--set data.workers={most} loads them sooner"
    return "all cores are busy with it: keep the images in a smaller size on disk"


def _still_to_fill(method: AnyMethod) -> str:
    """Memory that the operating system hands out only once a queue's rows are written."""
    more = sum(queue.nbytes for queue in method.queues())
    if not more or method.device.type == "cuda":
        return ""
    return f"; up to {amount(more)} more once the queues are full"
