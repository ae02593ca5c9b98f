"""How many images the training loader of the domain adaptation app prepares per second, and how many a step takes.

    uv run benchmarks/loader.py [--step-seconds 6.4] [--json results/benchmark-da-loader.json]

Frames of GTA5's size are made on the fly and read through the app's own streams, cut as in preset gta5-cityscapes: source images as they
come, source images by rare classes, and what a step is fed, a source image by rare classes beside a target image. They take turns, each
with its own workers, whose start is counted. Files lie in the system's cache: decoding is measured, not the disk.

Two rates are given: by the clock, and the one of workers that nobody disturbs, `workers` images in the processor time of one. The step is
u2plplus on a CPU (`benchmarks/step.py --app domain_adapt`), in processor time too.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader_scene import write_gta5
from measure import Stopwatch, alternate, arguments, environment, ratios, spread, times, write
from step_domain_adapt import RECIPE, DomainAdaptRival
from torch.utils.data import DataLoader, Dataset
from u2pl_da.sections import AdaptDataConfig

from u2pl.data.class_counts import class_counts
from u2pl.data.sources.gta5 import Gta5
from u2pl.data.streams import StepSampler, Stream
from u2pl.data.transforms import Geometry, TrainTransform
from u2pl.training.memory import keep_freed_memory
from u2pl_da.batches import DomainStreams
from u2pl_da.rare_class_sampling import RareClassConfig, RareClassStream

PLAIN, RARE, TRAINING = (
    "source images as they come",
    "source images by rare classes",
    "training, source and target",
)
#: Images in a sample.
IMAGES = {PLAIN: 1, RARE: 1, TRAINING: 2}


class CountingTransform(TrainTransform):
    """Remembers how many crops were drawn."""

    draws = 0

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> Geometry:
        self.draws += 1
        return super().draw(size, rng)


def streams(root: Path, seed: int) -> dict[str, Dataset[Any]]:
    """The rivals, as the app builds them."""
    source, data = Gta5(root), AdaptDataConfig(**RECIPE["data"])
    ids, cut = (
        source.split("train"),
        CountingTransform(data.crop, data.scale, data.flip, data.long_side),
    )
    cut_target = TrainTransform(data.crop, data.scale, data.flip, data.target_long_side)
    rare = RareClassStream(
        source, ids, cut, seed, "source", class_counts(source, ids), RareClassConfig()
    )
    target = Stream(source, ids, cut_target, seed, "target", "extra")
    return {
        PLAIN: Stream(source, ids, cut, seed, "source"),
        RARE: rare,
        TRAINING: DomainStreams(rare, target),
    }


class Turns:
    """Batches of one stream, every turn the next ones; the seconds of each."""

    def __init__(self, dataset: Dataset[Any], options: argparse.Namespace) -> None:
        self.dataset, self.options, self.turn = dataset, options, 0
        self.wall: list[float] = []
        self.processor: list[float] = []

    def __call__(self) -> None:
        options, first = self.options, self.turn * self.options.steps
        sampler = StepSampler(first, first + options.steps, options.batch)
        wall, processor = time.perf_counter(), _children()
        for _ in DataLoader(self.dataset, batch_sampler=sampler, num_workers=options.workers):
            pass
        self.wall.append(time.perf_counter() - wall)
        self.processor.append(_children() - processor)
        self.turn += 1


def _children() -> float:
    """Processor time of the workers that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def rates(datasets: dict[str, Dataset[Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of each stream, and how many times as long rare classes take as plain decoding."""
    turns = {name: Turns(dataset, options) for name, dataset in datasets.items()}
    alternate(turns, options.repeats, options.device)
    figures: dict[str, Any] = {}
    for name, turn in turns.items():
        images = options.steps * options.batch * IMAGES[name]
        figures[name] = {
            "images_per_second_by_the_clock": spread(
                [images / seconds for seconds in turn.wall[1:]]
            ),
            "images_per_second_undisturbed": spread(
                [options.workers * images / seconds for seconds in turn.processor[1:]]
            ),
        }
    plain, rare = turns[PLAIN], turns[RARE]
    figures["rare_over_plain"] = {
        "by_the_clock": ratios(rare.wall[1:], plain.wall[1:]),
        "processor": ratios(rare.processor[1:], plain.processor[1:]),
    }
    return figures


def a_sample(stream: Stream, samples: int, device: torch.device) -> dict[str, Any]:
    """Where the time of a sample goes, in this process, and how many crops are drawn for one."""
    watch, transform = Stopwatch(device), stream.transform
    assert isinstance(transform, CountingTransform)
    stages = {"decode image": (Gta5, "image"), "decode mask": (Gta5, "mask")}
    stages |= {"cut masks": (TrainTransform, "cut_mask"), "cut image": (TrainTransform, "cut")}
    transform.draws = 0
    with watch.watching(**stages):
        for position in range(samples):
            with watch.stage("everything else"):
                stream[position]
            watch.lap()
    return {
        "crops_drawn": transform.draws / samples,
        "seconds": {name: sum(values) / samples for name, values in watch.seconds.items()},
    }


def peak_extra(stream: Stream, samples: int) -> int | None:
    """The most bytes that this process holds beyond what it held before, while it prepares samples; None elsewhere than on Linux."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed counts again when it is used again
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before = _resident("VmRSS")
        for position in range(samples):
            stream[position]
        return _resident("VmHWM") - before
    except OSError:
        return None


def _resident(field: str) -> int:
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )
    return int(line.split()[1]) * 1024


def step_seconds(options: argparse.Namespace) -> float:
    """A whole step of u2plplus, the median of three after a first one; or what was passed."""
    if options.step_seconds:
        return float(options.step_seconds)
    shapes = argparse.Namespace(
        **{**vars(options), **DomainAdaptRival.defaults(cuda=False), "precision": "float32"}
    )
    rival, idle = DomainAdaptRival("u2plplus", shapes), Stopwatch(options.device)
    return spread(alternate({"step": lambda: rival.whole(idle)}, 3, options.device)["step"])[
        "median"
    ]


def report(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """For a person."""
    print(
        f"{options.workers} workers, {options.repeats} turns of {options.steps} x {options.batch} samples: median (min … max)"
    )
    for name in IMAGES:
        own = figures[name]
        print(
            f"{name:>32} {times(own['images_per_second_by_the_clock'])} images/s by the clock, "
            f"{times(own['images_per_second_undisturbed'])} undisturbed"
        )
    ratio = figures["rare_over_plain"]
    print(
        f"rare classes over plain decoding: {times(ratio['processor'])} in processor time, {times(ratio['by_the_clock'])} by the clock"
    )
    for name, sample in figures["a_sample"].items():
        stages = ", ".join(
            f"{stage} {1e3 * seconds:.1f} ms" for stage, seconds in sample["seconds"].items()
        )
        peak = (
            ""
            if sample["peak_extra_bytes"] is None
            else f", peak extra memory {sample['peak_extra_bytes'] / 2**20:.0f} MiB"
        )
        print(f"{name:>32} {sample['crops_drawn']:.1f} crops drawn; {stages}{peak}")
    step = figures["step"]
    print(
        f"a step of {step['seconds']:.2f} s takes {step['images_per_second']:.2f} images/s, 1/{figures['ahead']:.0f} of what the workers "
        f"prepare undisturbed; they would keep up with one of {1e3 * figures['fastest_step_seconds']:.0f} ms"
    )


def main() -> None:
    """Measure, print, and write what was asked for."""
    options = arguments(
        __doc__, frames=24, workers=2, batch=2, steps=16, samples=24, repeats=5, step_seconds=0.0
    )
    options.device = torch.device("cpu")
    keep_freed_memory()  # as training does
    figures = environment(options)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["U2PL_CACHE"] = folder  # for the classes' counts
        write_gta5(Path(folder), options.frames, options.seed)
        datasets = streams(Path(folder), options.seed)
        alone = {name: datasets[name] for name in (PLAIN, RARE)}
        figures["a_sample"] = {
            name: {
                "peak_extra_bytes": peak_extra(stream, options.samples),
                **a_sample(stream, options.samples, options.device),
            }
            for name, stream in alone.items()
        }
        figures |= rates(datasets, options)
    seconds, taken = step_seconds(options), 2 * options.batch
    undisturbed = figures[TRAINING]["images_per_second_undisturbed"]["median"]
    figures["step"] = {"seconds": seconds, "images_per_second": taken / seconds}
    figures |= {"ahead": undisturbed * seconds / taken, "fastest_step_seconds": taken / undisturbed}
    report(options, figures)
    write(options.json, figures)


if __name__ == "__main__":
    main()
