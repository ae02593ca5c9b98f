"""Steps on Vision Transformers, trained and frozen: time over bare network work, speed, memory.

    uv run benchmarks/encoders.py [--json results/benchmark-encoders.json]

On a CPU DINOv2-S with 4 + 4 images of 128 pixels. On CUDA DINOv2-S and -B with 8 + 8 images of 592
pixels, which the encoders see at 518, in bfloat16: results/benchmark-encoders-gpu.json. The weights
are random, which changes no time. Bare work is that of `step.py`.
"""

from __future__ import annotations

import argparse

import torch
from measure import Stopwatch, arguments, environment, peak_bytes, write
from step import measure, report
from step_semi import SemiRival

from u2pl.training.memory import keep_freed_memory

#: Networks of `SemiRival`, and shapes, on a CPU and on a GPU.
CPU = {"networks": ["vit-s", "vit-s-frozen"], "batch": 4, "size": 128, "precision": "float32"}
GPU = {
    "networks": ["vit-s", "vit-s-frozen", "vit-b", "vit-b-frozen"],
    "batch": 8,
    "size": 592,
    "precision": "bfloat16",
}


def step_bytes(rival: SemiRival, options: argparse.Namespace) -> int:
    """Most memory that a step holds beyond what was there before it."""
    idle = Stopwatch(options.device)
    return peak_bytes(lambda: rival.whole(idle), options.device)


def main() -> None:
    """Measure, print, and write the figures if a file was named."""
    shapes = GPU if torch.cuda.is_available() else CPU
    options = arguments(
        __doc__, methods=["fixmatch", "unimatch_v2"], classes=21, repeats=5, **shapes
    )
    keep_freed_memory()  # as training does
    figures = environment(options) | {"shape": SemiRival.shape.format(**vars(options))}
    print(
        f"{figures['shape']}, C = {options.classes}, {options.precision}, on {figures['device']} "
        f"with {figures['threads']} thread(s); {figures['clock']}, medians of {options.repeats} "
        "rounds (min … max)"
    )
    for network in options.networks:
        for method in options.methods:
            options.network = network
            torch.manual_seed(options.seed)
            rival: SemiRival | None = None  # free the memory of the previous one first
            rival = SemiRival(method, options)
            title = f"{method} on {network}"
            figures[title] = measure(rival, options)
            report(title, figures[title])
            held = figures[title]["step_bytes"] = step_bytes(rival, options)
            print(f"{'memory of a step':>24} {held / 2**20:9.1f} MiB beyond the weights")
            write(options.json, figures)  # after each, in case the rest is interrupted


if __name__ == "__main__":
    main()
