"""Measuring what a run will cost: a few real steps, or one image if steps would take minutes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from u2pl.data.source import Source
from u2pl.evaluate.inference import evaluating
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.evaluate.scoring import evaluate
from u2pl.methods.method import AnyMethod
from u2pl.networks.segmentor import Segmentor
from u2pl.schedules import Progress, step_seed
from u2pl.training.config import TrainConfig
from u2pl.training.guard import FiniteGuard
from u2pl.training.memory import kept_bytes
from u2pl.training.optimizer import build_optimizer

#: A CPU step that is expected to take more seconds is not run.
LONGEST_STEP = 10.0


class OneImage(NamedTuple):
    """What one image costs the student."""

    seconds: float  # forward
    kept: int  # bytes that its backward needs
    fixed: float = 0.0  # seconds of them in a frozen encoder, which has no backward


class StepTimes(NamedTuple):
    """Seconds of a step."""

    first: float  # a step of the beginning of the run, which may be a warm start
    last: float  # a step of its end


def try_one_image(student: nn.Module, image_3HW: Tensor) -> OneImage:
    """Run one image forward on the CPU, and count what autograd keeps of it."""
    kept = kept_bytes(student, image_3HW)
    with evaluating([student]):
        seconds = _fastest(lambda: student(image_3HW[None]), image_3HW.device)
        fixed = 0.0
        if isinstance(student, Segmentor) and student.encoder.frozen:
            fixed = _fastest(lambda: student.encode(image_3HW[None]), image_3HW.device)
    return OneImage(seconds, kept, min(seconds, fixed))


def try_steps(
    method: AnyMethod, train: TrainConfig, batch: tuple[Tensor, ...], total: int, seed: int
) -> StepTimes:
    """Train on one batch, forward, backward and optimizer; the method is not the same afterwards.

    Args:
        method: on the device of the batch.
        total: steps of the run.

    Raises UserError when a loss is not finite, and what the method raises.
    """
    device = next(method.parameters()).device
    optimizer, guard = build_optimizer(method, train), FiniteGuard()
    method.train()

    def step(number: int) -> None:
        torch.manual_seed(step_seed(seed, number, 0))
        progress = Progress(number, total, seed)
        result = method(batch, progress)
        guard.watch(number, result.scalars)
        result.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(progress)

    last = _typical(lambda: step(total - 1), device)
    first = _typical(lambda: step(0), device)
    guard.check()
    return StepTimes(first, last)


def try_scoring(
    networks: Mapping[str, nn.Module],
    source: Source,
    ids: Sequence[str],
    protocol: EvaluationProtocol,
) -> float:
    """Seconds to score an image, from two of `ids` after a first one."""
    device = next(next(iter(networks.values())).parameters()).device

    def score(some: Sequence[str]) -> None:
        evaluate(networks, source, some, protocol, device, len(source.classes))

    score(ids[:1])
    return _seconds(lambda: score(ids[-2:]), device) / len(ids[-2:])


def state_bytes(method: AnyMethod, train: TrainConfig) -> int:
    """Size of the file that a run resumes from: networks, memories and optimizer state."""
    trained = sum(parameter.nbytes for parameter in method.parameters() if parameter.requires_grad)
    return tensor_bytes(method) + trained * (2 if train.optimizer == "adamw" else 1)


def tensor_bytes(module: nn.Module) -> int:
    """Size of everything in a module's state."""
    return sum(value.nbytes for value in module.state_dict().values())


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held at once, on the GPU or in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    """The fewest seconds of some runs: what else the machine does is not the network's cost."""
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < 1:
        seconds.append(_seconds(run, device))
    return min(seconds)


def _typical(run: Callable[[], None], device: torch.device) -> float:
    """Mean seconds of two runs after a first one; of fewer where they take long."""
    seconds = [_seconds(run, device)]
    while len(seconds) < 3 and sum(seconds) < LONGEST_STEP / 2:
        seconds.append(_seconds(run, device))
    counted = seconds[1:] or seconds
    return sum(counted) / len(counted)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
