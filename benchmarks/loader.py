"""Images per second that the domain adaptation app's loader prepares, and that a step consumes.

    uv run benchmarks/loader.py [--step-seconds 6.4] [--json results/benchmark-da-loader.json]

Frames of GTA5's size are generated, then read through the app's own streams and cropped as in
preset gta5-cityscapes. The rivals are source images in plain order, source images by rare-class
sampling, and the input of a step: a source image by rare-class sampling beside a target image. They
take turns, each with its own workers, whose start-up counts. The files are in the page cache, so
decoding is measured, not the disk.

There are two rates: by wall-clock time, and that of undisturbed workers, `workers` images in the
processor time of one. The step is u2plplus on a CPU (`benchmarks/step.py --app domain_adapt`), in
processor time too.
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

from u2pl.data.class_counts import class_counts
from u2pl.data.sources.gta5 import Gta5
from u2pl.data.streams import StepSampler, Stream
from u2pl.data.transforms import Geometry, TrainTransform
from u2pl.training.memory import keep_freed_memory
from u2pl_da.batches import DomainStreams
from u2pl_da.rare_class_sampling import RareClassConfig, RareClassStream
from u2pl_da.sections import AdaptDataConfig

PLAIN, RARE, TRAINING = (
    "source images in plain order",
    "source images by rare-class sampling",
    "training, source and target",
)
#: Images per sample.
IMAGES = {PLAIN: 1, RARE: 1, TRAINING: 2}


class CountingTransform(TrainTransform):
    """Counts the crops that are drawn."""

    draws = 0

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> Geometry:
        self.draws += 1
        return super().draw(size, rng)


def streams(root: Path, seed: int) -> dict[str, Dataset[Any]]:
    """The rivals, as the app builds them."""
    source, data = Gta5(root), AdaptDataConfig(**RECIPE["data"])
    ids = source.split("train")
    cut = CountingTransform(data.crop, data.scale, data.flip, data.long_side)
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
    """Loads the next batches of a stream when called, and records the seconds that they take."""

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
    """Processor time of the workers that have exited."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def rates(datasets: dict[str, Dataset[Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of each stream, and the cost of rare-class sampling over plain decoding."""
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
    """Seconds of a sample by stage, in this process, and the crops drawn per sample."""
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
    """Peak bytes of this process while it prepares samples, beyond those before; Linux only."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # so that reused memory counts again
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _resident("VmRSS")
        for position in range(samples):
            stream[position]
        return _resident("VmHWM") - before
    except OSError:
        return None


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(field))
    return int(kilobytes) * 1024


def step_seconds(options: argparse.Namespace) -> float:
    """Seconds of a whole step of u2plplus: --step-seconds, or else the median of three."""
    if options.step_seconds:
        return float(options.step_seconds)
    shapes = argparse.Namespace(
        **{**vars(options), **DomainAdaptRival.defaults(cuda=False), "precision": "float32"}
    )
    rival, idle = DomainAdaptRival("u2plplus", shapes), Stopwatch(options.device)
    seconds = alternate({"step": lambda: rival.whole(idle)}, 3, options.device)["step"]
    return spread(seconds)["median"]


def report(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the figures."""
    print(
        f"{options.workers} workers, {options.repeats} rounds of {options.steps} x {options.batch} "
        "samples: median (min … max)"
    )
    for name in IMAGES:
        own = figures[name]
        print(
            f"{name:>36} {times(own['images_per_second_by_the_clock'])} images/s by wall-clock "
            f"time, {times(own['images_per_second_undisturbed'])} undisturbed"
        )
    ratio = figures["rare_over_plain"]
    print(
        f"rare-class sampling over plain decoding: {times(ratio['processor'])} in processor "
        f"time, {times(ratio['by_the_clock'])} in wall-clock time"
    )
    for name, sample in figures["a_sample"].items():
        stages = ", ".join(
            f"{stage} {1e3 * seconds:.1f} ms" for stage, seconds in sample["seconds"].items()
        )
        held = sample["peak_extra_bytes"]
        peak = "" if held is None else f", peak extra memory {held / 2**20:.0f} MiB"
        print(f"{name:>36} {sample['crops_drawn']:.1f} crops drawn; {stages}{peak}")
    step = figures["step"]
    print(
        f"a step of {step['seconds']:.2f} s consumes {step['images_per_second']:.2f} images/s, "
        f"1/{figures['ahead']:.0f} of the undisturbed workers' rate; they would keep up with a "
        f"step of {1e3 * figures['fastest_step_seconds']:.0f} ms"
    )


def main() -> None:
    """Measure, print, and write the figures if a file was named."""
    options = arguments(
        __doc__, frames=24, workers=2, batch=2, steps=16, samples=24, repeats=5, step_seconds=0.0
    )
    options.device = torch.device("cpu")
    keep_freed_memory()  # as training does
    figures = environment(options)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["U2PL_CACHE"] = folder  # of the class counts
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
