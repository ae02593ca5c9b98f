"""How long a whole training step takes over the network work it cannot do without.

    uv run benchmarks/step.py [--methods u2pl u2plplus] [--json results/benchmark-step.json]
    uv run benchmarks/step.py --app domain_adapt [--methods daformer u2plplus] [--json results/benchmark-da-step.json]
    uv run benchmarks/step.py --app weak [--methods cam afa u2plplus] [--json results/benchmark-weak-step.json]

The bare work is the student's forward and backward with cross entropy on upsampled logits, the teacher's forwards on the same images (the
forwards that activation maps are made of), the frozen encoder's where the method has one, and the optimizer; every head that the method
has runs forward and backward. Loading is not counted. Where a run has phases whose steps differ, each is measured.
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
    """Seconds, ratio and stages of one method in one of its phases."""
    idle = Stopwatch(options.device)
    rivals = {"step": lambda: rival.whole(idle), "bare": lambda: rival.bare(idle)}
    seconds = alternate(rivals, options.repeats, options.device)
    return {
        "seconds": {key: spread(values) for key, values in seconds.items()},
        "over_bare": ratios(seconds["step"], seconds["bare"]),
        **(
            {"peak_gpu_bytes": highest_bytes(rivals["step"], options.device)}
            if options.device.type == "cuda"
            else {}
        ),
        "stages": rival.stages(options.repeats, options.device),
    }


def report(name: str, figures: dict[str, Any]) -> None:
    """For a person."""
    print(f"{name}: step over bare network work {times(figures['over_bare'])}")
    if "peak_gpu_bytes" in figures:
        print(f"{'most GPU memory':>24} {figures['peak_gpu_bytes'] / 2**30:9.2f} GiB")
    for key, figure in figures["seconds"].items():
        print(f"{key:>24} {milliseconds(figure)}")
    print("stage by stage (measured apart): median of the step, and of the bare work")
    step, bare = figures["stages"]["step"], figures["stages"]["bare"]
    for stage, figure in step.items():
        other = f"{bare[stage]['median'] * 1e3:9.1f} ms" if stage in bare else ""
        print(f"{stage:>24} {figure['median'] * 1e3:9.1f} ms {other}")


def main() -> None:
    """Measure, print, and write what was asked for."""
    app = chosen_first("app", list(APPS))
    options = arguments(
        __doc__, app=app, **APPS[app].defaults(torch.cuda.is_available()), precision="float32"
    )
    keep_freed_memory()  # as training does
    figures = environment(options) | {"shape": APPS[app].shape.format(**vars(options))}
    print(
        f"{options.network} network, {figures['shape']}, C = {options.classes}, on "
        f"{figures['device']} with {figures['threads']} thread(s); {figures['clock']}, medians of {options.repeats} turns (min … max)"
    )
    for name in options.methods:
        torch.manual_seed(options.seed)
        rival: Rival | None = None  # the one before leaves its memory first
        rival = APPS[app](name, options)
        for phase, progress in rival.phases().items():
            rival.progress, title = progress, f"{name} {phase}".strip()
            figures[title] = measure(rival, options)
            report(title, figures[title])
        write(options.json, figures)  # what there is, should a busy machine stop the rest


if __name__ == "__main__":
    main()
