"""How long a whole training step takes over the network work it cannot do without.

    uv run benchmarks/step.py [--methods u2pl u2plplus] [--json results/benchmark-step.json]

The bare work is the student's forward and backward with cross entropy on upsampled logits, the teacher's forwards on the same images, and
the optimizer; both heads run forward and backward. Loading is not counted. On the CPU the network is `light` at 8 + 8 images of
128 pixels, on CUDA `paper` (ResNet-101, stride 8) at 513.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from measure import Stopwatch, alternate, arguments, blocks, environment, milliseconds, ratios, spread, times, write

import u2pl_semi.methods
from u2pl.batches import PairBatch
from u2pl.cli.discovery import load_method
from u2pl.contrast import PixelContrast
from u2pl.losses.supervised import cross_entropy
from u2pl.memory.prototypes import Prototypes
from u2pl.method import Method
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE
from u2pl.outputs import upsample
from u2pl.schedules import Progress
from u2pl.train.config import TrainConfig
from u2pl.train.memory import keep_freed_memory
from u2pl.train.optimizer import build_optimizer

NETWORKS = {
    "light": NetworkConfig(
        decoder="deeplabv3plus_light", encoder="tf_efficientnet_lite0", encoder_weights="none", output_stride=16, atrous_rates=(6, 12, 18)
    ),
    "paper": NetworkConfig(encoder_weights="none"),
}
#: A step after the warm start.
PROGRESS = Progress(step=50, total=100)


class Rival:
    """A method, its optimizer and a batch, taken through whole steps or bare ones."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        kind = load_method("u2pl_semi.methods", Path(u2pl_semi.methods.__path__[0]), name)
        student = build_segmentor(NETWORKS[options.network], options.classes)
        self.method: Method = kind(kind.Config(), student, options.classes).to(options.device).train()
        self.optimizer = build_optimizer(self.method, TrainConfig())
        self.batch = make_batch(options)
        self.denoises = "prototypes" in kind.Config.model_fields
        for module in self.method.modules():
            if isinstance(module, PixelContrast):
                module.queue.filled.copy_(module.queue.length)
                module.queue.rows.fill_(1.0)

    def whole(self, watch: Stopwatch) -> None:
        """As the training loop does it."""
        with watch.stage("everything else"):
            loss = self.method(self.batch, PROGRESS).loss
        self._descend(loss, watch)
        with watch.stage("teacher update"):
            self.method.after_step(PROGRESS)

    def bare(self, watch: Stopwatch) -> None:
        """The networks' share of it."""
        batch, size = self.batch, self.batch.label_l.shape[-2:]
        with watch.stage("everything else"):
            images = torch.cat([batch.image_l, batch.image_u])
            self.method.teacher(batch.image_u, embed=self.denoises)
            self.method.teacher(images)
            output = self.method.student(images)
            logits_l, logits_u = upsample(output.logits, size).chunk(2)
            loss = cross_entropy(logits_l, batch.label_l) + cross_entropy(logits_u, batch.truth_u) + output.embed.sum() * 0.0
        self._descend(loss, watch)

    def _descend(self, loss: torch.Tensor, watch: Stopwatch) -> None:
        with watch.stage("backward"):
            loss.backward()
        with watch.stage("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()

    def stages(self, repeats: int, device: torch.device) -> dict[str, dict[str, dict[str, float]]]:
        """Seconds of each stage of whole and bare steps; functions inside a step are watched by name."""
        story = sys.modules[type(self.method).__module__]
        inside = {
            "networks": (Segmentor, "forward"),
            "supervised loss": (Method, "supervised_loss"),
            "contrast: selection": (PixelContrast, "select"),
            "contrast: the rest": (PixelContrast, "forward"),
            "prototypes": (Prototypes, "update"),
            "denoising": (Prototypes, "denoised_label"),
            "mixing": (type(self.method.mix), "__call__"),
            "unsupervised loss": (story, "unsupervised_loss"),
            "partition": (story, "partition"),
            "partition scalars": (story, "partition_scalars"),
            "positive keys": (story, "class_means"),
        }
        reports = {}
        for name, step in (("step", self.whole), ("bare", self.bare)):
            watch = Stopwatch(device)
            with watch.watching(**{stage: place for stage, place in inside.items() if hasattr(*place)}):
                for _ in range(repeats):
                    step(watch)
                    watch.lap()
            reports[name] = watch.report()
        return reports


def make_batch(options: argparse.Namespace) -> PairBatch:
    """Noise with block labels; 5 % of the labels are 255, the last rows of the unlabelled images are padding."""
    generator, size, count = torch.Generator().manual_seed(options.seed), options.size, options.batch
    images = torch.randint(256, (2 * count, 3, size, size), generator=generator, dtype=torch.uint8)
    label = blocks(2 * count, options.classes, size, max(1, size // 8), generator)
    label[torch.rand(label.shape, generator=generator) < 0.05] = IGNORE
    valid = torch.ones(count, size, size, dtype=torch.bool)
    valid[:, -max(1, size // 16) :] = False
    label_l, truth_u = label.to(torch.uint8).chunk(2)
    return PairBatch(*(field.to(options.device) for field in (images[:count], label_l, images[count:], valid, truth_u)))


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, ratio and stages of one method."""
    torch.manual_seed(options.seed)
    rival, idle = Rival(name, options), Stopwatch(options.device)
    rivals = {"step": lambda: rival.whole(idle), "bare": lambda: rival.bare(idle)}
    seconds = alternate(rivals, options.repeats, options.device)
    return {
        "seconds": {key: spread(values) for key, values in seconds.items()},
        "over_bare": ratios(seconds["step"], seconds["bare"]),
        "stages": rival.stages(options.repeats, options.device),
    }


def report(name: str, options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """For a person."""
    print(f"{name}: step over bare network work {times(figures['over_bare'])}")
    for key, figure in figures["seconds"].items():
        print(f"{key:>24} {milliseconds(figure)}")
    print("stage by stage (measured apart): median of the step, and of the bare work")
    step, bare = figures["stages"]["step"], figures["stages"]["bare"]
    for stage, figure in step.items():
        other = f"{bare[stage]['median'] * 1e3:9.1f} ms" if stage in bare else ""
        print(f"{stage:>24} {figure['median'] * 1e3:9.1f} ms {other}")


def main() -> None:
    """Measure, print, and write what was asked for."""
    cuda = torch.cuda.is_available()
    options = arguments(
        __doc__, methods=["u2pl", "u2plplus"], network="paper" if cuda else "light", batch=8, size=513 if cuda else 128,
        classes=21 if cuda else 7, repeats=7,
    )  # fmt: skip
    keep_freed_memory()  # as training does
    figures = environment(options)
    print(
        f"{options.network} network, {options.batch}+{options.batch} images of {options.size} pixels, C = {options.classes}, on "
        f"{figures['device']} with {figures['threads']} thread(s); {figures['clock']}, medians of {options.repeats} turns (min … max)"
    )
    for name in options.methods:
        figures[name] = measure(name, options)
        report(name, options, figures[name])
    write(options.json, figures)


if __name__ == "__main__":
    main()
