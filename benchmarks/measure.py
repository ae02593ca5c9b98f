"""Timing that survives a busy machine.

Rivals take turns and the ratio is taken within each round; a single thread is charged for its own
processor time only.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from u2pl.training.provenance import processor

PROCESSOR, WALL = "processor time", "wall-clock time"


def clock(device: torch.device) -> str:
    """What is measured: processor time for one thread on a CPU, otherwise wall-clock time.

    Other programs on the machine do not lengthen processor time.
    """
    return PROCESSOR if device.type == "cpu" and torch.get_num_threads() == 1 else WALL


class Stopwatch:
    """Seconds by stage; stages may nest, and an outer stage does not include its inner ones.

    Args:
        device: synchronised at every start and stop.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._inner = [0.0]
        self._sums: dict[str, float] = defaultdict(float)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if clock(self.device) == PROCESSOR else time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of the body, without those of nested stages, to `name`."""
        self._inner.append(0.0)
        begin = self._now()
        try:
            yield
        finally:
            spent, inner = self._now() - begin, self._inner.pop()
            self._sums[name] += spent - inner
            self._inner[-1] += spent

    @contextmanager
    def watching(self, **stages: tuple[Any, str]) -> Iterator[None]:
        """While the body runs, every call of a function `owner.attribute` is timed as a stage.

        `watching(push=(ClassQueue, "push"))` times the method `push`. Raises AttributeError, which
        names the stage, if there is no such function.
        """
        originals = {name: watched(name, *place) for name, place in stages.items()}
        try:
            for name, (owner, attribute) in stages.items():
                setattr(owner, attribute, self._timed(name, originals[name]))
            yield
        finally:
            for name, (owner, attribute) in stages.items():
                setattr(owner, attribute, originals[name])

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return call

    def lap(self) -> None:
        """End a repeat: each stage's sum becomes one entry of `seconds`."""
        for name, value in self._sums.items():
            self.seconds[name].append(value)
        self._sums.clear()

    def report(self) -> dict[str, dict[str, float]]:
        """Median, minimum and maximum of each stage."""
        return {name: spread(values) for name, values in self.seconds.items()}


def watched(stage: str, owner: Any, attribute: str) -> Callable[..., Any]:
    """The function that a stage times; AttributeError, which names the stage, if there is none."""
    try:
        found: Callable[..., Any] = getattr(owner, attribute)
    except AttributeError:
        where = getattr(owner, "__name__", type(owner).__name__)
        raise AttributeError(f"stage {stage!r}: {where} has no {attribute!r}") from None
    return found


def alternate(
    rivals: dict[str, Callable[[], Any]], repeats: int, device: torch.device, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each rival in each of `repeats` rounds; in a round each rival runs once."""
    watch = Stopwatch(device)
    for _ in range(warmup):
        for run in rivals.values():
            run()
    for _ in range(repeats):
        for name, run in rivals.items():
            with watch.stage(name):
                run()
        watch.lap()
    return dict(watch.seconds)


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(above: list[float], below: list[float]) -> dict[str, float]:
    """Spread of the ratios, one per round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def highest_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Peak GPU memory while `run` runs, including weights and whatever was allocated before."""
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Peak memory of `run` beyond what was allocated before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [
        event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    held = torch.tensor(
        [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    ).cumsum(0)
    return int(held.max())


def chosen_first(name: str, choices: list[str]) -> str:
    """The value of `--name`, on which other options' defaults depend; by default the first."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", choices=choices, default=choices[0])
    return getattr(parser.parse_known_args()[0], name)


def arguments(description: str | None, **options: Any) -> argparse.Namespace:
    """Parse the command line: `--name value` for each option, --device, --threads, --seed, --json.

    An option's value here is its default and gives its type.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common: dict[str, Any] = {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": 1,
        "seed": 0,
    }
    for name, value in {**options, **common}.items():
        values = value if isinstance(value, list) else [value]
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(values[0]),
            nargs="+" if isinstance(value, list) else None,
            default=value,
            help=f"default: {' '.join(map(str, values))}",
        )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    chosen.device = torch.device(chosen.device)
    return chosen


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """The command, device and versions that the figures depend on."""
    device = options.device
    return {
        "command": " ".join(["python", *sys.argv]),
        "options": {
            name: value if isinstance(value, (int, float, str)) else str(value)
            for name, value in vars(options).items()
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "clock": clock(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def write(path: Path | None, figures: dict[str, Any]) -> None:
    """Write figures as JSON, if a path was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def milliseconds(figure: dict[str, float]) -> str:
    """A spread of seconds, as text."""
    return (
        f"{figure['median'] * 1e3:9.1f} ms  ({figure['min'] * 1e3:.1f} … {figure['max'] * 1e3:.1f})"
    )


def times(figure: dict[str, float]) -> str:
    """A spread of ratios, as text."""
    return f"{figure['median']:.3g} ({figure['min']:.3g} … {figure['max']:.3g})"


def blocks(batch: int, classes: int, size: int, cell: int, generator: torch.Generator) -> Tensor:
    """Label maps int64 [batch, size, size] of square cells, each with a random class."""
    count = -(-size // cell)
    label = torch.randint(classes, (batch, count, count), generator=generator)
    return label.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, :size, :size].contiguous()
