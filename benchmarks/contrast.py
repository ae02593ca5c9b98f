"""How long U2PL's contrast takes, against a loop over classes with list queues (`list_queues.py`).

    uv run benchmarks/contrast.py [--threads 1] [--json results/benchmark-contrast.json]

Measured: selection and ranks, positive keys, pushing, sampling, loss, and the backward pass to the
student's embedding, but neither networks nor partition. The shapes are those of U2PL's VOC recipe
on one of four GPUs: 4 + 4 images of 513 pixels, 256 channels, 21 classes, full queues.

On a CPU almost half of the loop's time goes into page faults of new memory. So both are measured in
an ordinary process, and in one that keeps freed memory, as training does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from contrast_scene import ALPHA, Scene, make_scene
from list_queues import ListQueues
from measure import (
    Stopwatch,
    alternate,
    arguments,
    environment,
    milliseconds,
    peak_bytes,
    ratios,
    spread,
    times,
    write,
)
from step_semi import SemiRival
from torch import Tensor

import u2pl.methods.pixel_contrast as contrast_module
from u2pl.maps import downsample
from u2pl.memory.class_queue import ClassQueue
from u2pl.memory.prototypes import class_means
from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.notation import OUTPUT_STRIDE
from u2pl.training.memory import keep_freed_memory
from u2pl_semi.selection import SemiContrastConfig, select_candidates

#: Ways to allocate on a CPU: freed pages go back to the system and fault again when reused, or are
#: kept, as in training (`keep_freed_memory`).
ALLOCATORS = ORDINARY, KEPT = "ordinary memory", "freed memory kept"


def make_contrast(options: argparse.Namespace, classes: int) -> PixelContrast:
    """A contrast with full queues of equal, normalised keys; values do not affect the timing."""
    config = SemiContrastConfig(
        anchors=options.anchors,
        negatives=options.negatives,
        queue=options.queue,
        queue_background=options.background,
        queue_dtype=options.queue_dtype,
    )
    module = PixelContrast(config, classes, options.width).to(options.device)
    module.queue.rows.fill_(options.width**-0.5)
    module.queue.filled.copy_(module.queue.length)
    return module


def ours(module: PixelContrast, scene: Scene, watch: Stopwatch) -> Tensor:
    """One step of the contrast, as in the methods."""
    generator = torch.Generator(scene.student.device).manual_seed(0)
    scene.student.grad = None
    with watch.stage("selection and ranks"):
        chosen = select_candidates(
            module.config,
            scene.logits.float().softmax(dim=1),
            scene.label_l,
            scene.label_u,
            scene.part,
            ALPHA,
        )
    with watch.stage("positive keys"):
        positive, _ = class_means(scene.teacher, chosen.positive_Bhw, module.num_classes)
    with watch.stage("loss"):
        loss = module(scene.student, scene.teacher, chosen, positive, generator).loss
    with watch.stage("backward"):
        loss.backward()
    return loss.detach()


def reference(queues: ListQueues, scene: Scene) -> Tensor:
    """The same step in a loop over classes."""
    scene.student.grad = None
    maps = (scene.label_l, scene.label_u, scene.part.reliable_BHW, scene.part.unreliable_BHW)
    prob = scene.logits.float().softmax(dim=1)
    loss = queues(scene.student.float(), scene.teacher.float(), prob, *map(downsample, maps))
    loss.backward()
    return loss.detach()


def stages(
    run: Callable[[Stopwatch], Any], repeats: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Seconds of each stage, and of the functions inside the loss."""
    watch = Stopwatch(device)
    inside = {
        "sampling": (contrast_module, "take_first"),
        "drawing keys": (ClassQueue, "draw"),
        "pushing": (ClassQueue, "push"),
        "similarities": (contrast_module, "bank_similarity"),
    }
    with watch.watching(**inside):
        for _ in range(repeats):
            run(watch)
            watch.lap()
    return watch.report()


def against_reference(
    options: argparse.Namespace, module: PixelContrast, lists: ListQueues, scene: Scene
) -> dict[str, Any]:
    """Seconds of both, of a clone of both embeddings, and the ratios."""
    idle = Stopwatch(options.device)
    rivals: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(module, scene, idle),
        "reference": lambda: reference(lists, scene),
        "clone": lambda: (scene.student.detach().clone(), scene.teacher.clone()),
    }
    seconds = alternate(rivals, options.repeats, options.device)
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "speedup": ratios(seconds["reference"], seconds["ours"]),
        "over_clone": ratios(seconds["ours"], seconds["clone"]),
        "stages": stages(lambda watch: ours(module, scene, watch), options.repeats, options.device),
    }


def many_classes(
    options: argparse.Namespace, module: PixelContrast, scene: Scene
) -> dict[str, float]:
    """Ratio of our time with `options.many_classes` classes to that with `options.classes`."""
    idle, classes = Stopwatch(options.device), options.many_classes
    other, crowded = make_contrast(options, classes), make_scene(options, classes)
    rivals = {"few": lambda: ours(module, scene, idle), "many": lambda: ours(other, crowded, idle)}
    seconds = alternate(rivals, max(2, options.repeats // 2), options.device)
    return ratios(seconds["many"], seconds["few"])


def network_share(
    options: argparse.Namespace, module: PixelContrast, scene: Scene
) -> dict[str, float]:
    """Ratio of our time to the bare step of the paper's network, on images of this size."""
    size, precision = OUTPUT_STRIDE * (options.size - 1) + 1, options.dtype
    image = argparse.Namespace(
        **vars(options) | {"network": "paper", "size": size, "precision": precision}
    )
    idle, step = Stopwatch(options.device), SemiRival("u2pl", image)
    rivals = {"contrast": lambda: ours(module, scene, idle), "network": lambda: step.bare(idle)}
    seconds = alternate(rivals, options.repeats, options.device)
    return ratios(seconds["contrast"], seconds["network"])


def report(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the figures."""
    print(
        f"contrast at [{options.batch}+{options.batch}, {options.width}, {options.size}, "
        f"{options.size}], C = {options.classes}, {options.dtype}, on {figures['device']} with "
        f"{figures['threads']} thread(s); {figures['clock']}, medians of {options.repeats} rounds "
        "(min … max)"
    )
    for allocator in ALLOCATORS:
        if allocator in figures:
            report_speed(allocator, figures[allocator])
    if "as_trained" in figures:
        print(
            f"ours as in training ({KEPT}) is {figures['as_trained']:.3g} times faster than the "
            f"reference in {ORDINARY}"
        )
    if "many_classes" in figures:
        linear = options.many_classes / options.classes
        print(
            f"C = {options.many_classes} over C = {options.classes}: "
            f"{times(figures['many_classes'])}; linear would be {linear:.3g}"
        )
    if "network_share" in figures:
        print(f"share of the network's step {times(figures['network_share'])}")
    for name, peak in figures["peak_bytes"].items():
        print(
            f"peak extra memory, {name}: {peak / 2**20:.0f} MiB = "
            f"{peak / figures['embedding_bytes']:.2f} embedding tensors"
        )
    print(f"queue memory {figures['queue_bytes'] / 2**20:.0f} MiB of {options.queue_dtype}")
    losses = ", ".join(f"{name} {value:.4f}" for name, value in figures["losses"].items())
    print(f"losses: {losses}")


def report_speed(allocator: str, figures: dict[str, Any]) -> None:
    """Print the figures of one way to allocate."""
    speedup, clones = times(figures["speedup"]), times(figures["over_clone"])
    print(
        f"{allocator}: {speedup} times faster than the reference; in clones of both embeddings: "
        f"{clones}"
    )
    for name, figure in figures["seconds"].items():
        print(f"{name:>24} {milliseconds(figure)}")
    print("  ours, stage by stage (measured separately)")
    for name, figure in figures["stages"].items():
        print(f"{name:>24} {milliseconds(figure)}")


def main() -> None:
    """Measure, print, and write the figures if a file was named."""
    options = arguments(
        __doc__, batch=4, width=256, size=129, classes=21, many_classes=150, queue=30_000,
        background=50_000, anchors=256, negatives=50, dtype="float32", queue_dtype="float32",
        repeats=4,
    )  # fmt: skip
    options.float = getattr(torch, options.dtype)
    device, idle = options.device, Stopwatch(options.device)
    scene, module = make_scene(options, options.classes), make_contrast(options, options.classes)
    keys = module.queue.rows[:-1].float().split(module.queue.length.tolist())
    lists = ListQueues(module.config, [rows.clone() for rows in keys])
    rivals: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ours(module, scene, idle),
        "reference": lambda: reference(lists, scene),
    }
    figures = environment(options) | {
        ORDINARY: against_reference(options, module, lists, scene),
        "losses": {name: run().item() for name, run in rivals.items()},
        "peak_bytes": {name: peak_bytes(run, device) for name, run in rivals.items()},
        "embedding_bytes": scene.teacher.numel() * scene.teacher.element_size(),
        "queue_bytes": module.queue.nbytes,
    }
    if device.type == "cpu" and keep_freed_memory():
        figures[KEPT] = against_reference(options, module, lists, scene)
        figures["as_trained"] = (
            figures[ORDINARY]["seconds"]["reference"]["median"]
            / figures[KEPT]["seconds"]["ours"]["median"]
        )
    lists.queues.clear()
    if options.many_classes:
        figures["many_classes"] = many_classes(options, module, scene)
    if device.type == "cuda":
        figures["network_share"] = network_share(options, module, scene)
    report(options, figures)
    write(options.json, figures)


if __name__ == "__main__":
    main()
