"""How much longer a whole training step takes than its bare network work.

    uv run benchmarks/step.py [--json results/benchmark-step.json]
    uv run benchmarks/step.py --app domain_adapt [--json results/benchmark-da-step.json]
    uv run benchmarks/step.py --app weak [--json results/benchmark-weak-step.json]

Bare work is the student's forward and backward pass with cross entropy on upsampled logits, the
teacher's forward passes on the same images (with tags: those behind the activation maps), the
frozen encoder's forward pass if the method has one, and the optimizer. Every head of the method
runs forward and backward. Loading is not measured. If a run has phases with different steps, each
is measured. `--methods` chooses the methods.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from measure import (
    Stopwatch,
    alternate,
    arguments,
    chosen_first,
    environment,
    highest_bytes,
    milliseconds,
    ratios,
    spread,
    times,
    write,
)
from step_domain_adapt import DomainAdaptRival
from step_rival import Rival
from step_semi import SemiRival
from step_weak import WeakRival

from u2pl.training.memory import keep_freed_memory

APPS: dict[str, type[Rival]] = {
    "semi": SemiRival,
    "domain_adapt": DomainAdaptRival,
    "weak": WeakRival,
}


def measure(rival: Rival, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, ratio and stages of a method in one phase."""
    idle = Stopwatch(options.device)
    rivals = {"step": lambda: rival.whole(idle), "bare": lambda: rival.bare(idle)}
    images = rival.streams * options.batch
    seconds = alternate(rivals, options.repeats, options.device)
    figures: dict[str, Any] = {
        "seconds": {key: spread(values) for key, values in seconds.items()},
        "over_bare": ratios(seconds["step"], seconds["bare"]),
        "images_per_second": spread([images / each for each in seconds["step"]]),
    }
    if options.device.type == "cuda":
        figures["peak_gpu_bytes"] = highest_bytes(rivals["step"], options.device)
    return figures | {"stages": rival.stages(options.repeats, options.device)}


def report(name: str, figures: dict[str, Any]) -> None:
    """Print the figures of a method in one phase."""
    print(f"{name}: step over bare network work {times(figures['over_bare'])}")
    print(f"{'images per second':>24} {figures['images_per_second']['median']:9.1f}")
    if "peak_gpu_bytes" in figures:
        print(f"{'peak GPU memory':>24} {figures['peak_gpu_bytes'] / 2**30:9.2f} GiB")
    for key, figure in figures["seconds"].items():
        print(f"{key:>24} {milliseconds(figure)}")
    print("stage by stage (measured separately): median of the step, and of the bare work")
    step, bare = figures["stages"]["step"], figures["stages"]["bare"]
    for stage, figure in step.items():
        other = f"{bare[stage]['median'] * 1e3:9.1f} ms" if stage in bare else ""
        print(f"{stage:>24} {figure['median'] * 1e3:9.1f} ms {other}")


def main() -> None:
    """Measure, print, and write the figures if a file was named."""
    app = chosen_first("app", list(APPS))
    options = arguments(
        __doc__, app=app, **APPS[app].defaults(torch.cuda.is_available()), precision="float32"
    )
    keep_freed_memory()  # as training does
    figures = environment(options) | {"shape": APPS[app].shape.format(**vars(options))}
    print(
        f"{options.network} network, {figures['shape']}, C = {options.classes}, on "
        f"{figures['device']} with {figures['threads']} thread(s); {figures['clock']}, medians of "
        f"{options.repeats} rounds (min … max)"
    )
    for name in options.methods:
        torch.manual_seed(options.seed)
        rival: Rival | None = None  # free the memory of the previous one first
        rival = APPS[app](name, options)
        for phase, progress in rival.phases().items():
            rival.progress, title = progress, f"{name} {phase}".strip()
            figures[title] = measure(rival, options)
            report(title, figures[title])
        write(options.json, figures)  # after each method, in case the rest is interrupted


if __name__ == "__main__":
    main()
