"""From a command to a finished run."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from u2pl import distributed
from u2pl.batches import PairedStreams
from u2pl.cli.app import App
from u2pl.cli.config import Resolved, recipe_path, resolve
from u2pl.cli.console import make_reporter
from u2pl.cli.discovery import load_method
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.splits import LabeledSplit, choose_labeled
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.evaluate.run import evaluate, picture_rows
from u2pl.method import Method
from u2pl.networks.build import build_segmentor
from u2pl.networks.sharing import load_shared, save_shared
from u2pl.report.gallery import gallery
from u2pl.report.tables import score_table
from u2pl.train.files import write_json
from u2pl.train.loop import Facts, Job, Stopped, fit, local_batch, make_accelerator
from u2pl.train.memory import keep_freed_memory
from u2pl.train.run_folder import SUMMARY, latest_folder, next_folder, open_folder

#: The recipe of a data source when none is named.
PRESETS = {"demo": "demo", "voc": "voc", "cityscapes": "cityscapes"}


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    method: str = "u2plplus"
    preset: str | None = None
    data: str = "demo"
    labeled: str | None = None
    assignments: tuple[str, ...] = ()
    steps: int | None = None
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    deterministic: bool = False
    cpu: bool = False


@dataclass(frozen=True)
class Plan:
    """A request with everything decided that does not need a network."""

    request: Request
    source: Source
    split: LabeledSplit
    preset: str
    kind: type[Method]
    resolved: Resolved
    total: int

    def dump(self) -> dict[str, Any]:
        """What is written to config.json; equal for equal runs."""
        request = self.request
        return {
            "app": "u2pl-semi",
            "method_name": request.method,
            "preset": self.preset,
            "data": {"source": request.data, "name": self.source.name, "fingerprint": self.source.fingerprint(), "labeled": request.labeled},
            "split": self.split.protocol,
            "seed": request.seed,
            "steps": self.total,
            "options": self.resolved.dump(),
        }


def make_plan(app: App, request: Request) -> Plan:
    """Resolve a request; UserError for whatever cannot work."""
    kind = load_method(f"{app.package}.methods", app.methods, request.method)
    preset = request.preset or PRESETS.get(request.data.partition(":")[0], "light")
    extra: dict[str, Any] = {} if request.steps is None else {"train": {"steps": request.steps}}
    resolved = resolve(recipe_path(app.recipes, preset), kind.Config, request.assignments, extra)
    source = open_source(request.data)
    split = choose_labeled(source, request.labeled, request.seed)
    epoch = split.unlabeled if kind.uses_unlabeled else split.labeled
    train = resolved.sections.train
    total = train.steps or max(1, round(train.epochs * len(epoch) / train.batch))
    if kind.uses_unlabeled and not split.unlabeled:
        raise UserError(f"{source.name}: every training image is labelled, so {request.method} has nothing to learn from; add images or use suponly")
    return Plan(request, source, split, preset, kind, resolved, total)


def build_method(plan: Plan) -> Method:
    """The network of the run's seed, and the method around it."""
    torch.manual_seed(plan.request.seed)
    config = plan.resolved.sections.network
    if not plan.kind.uses_embedding:
        config = config.model_copy(update={"embed_dim": 0})
    classes = len(plan.source.classes)
    return plan.kind(plan.resolved.method, build_segmentor(config, classes), classes)


def build_dataset(plan: Plan) -> PairedStreams:
    """The two endless streams of training images."""
    data, seed = plan.resolved.sections.data, plan.request.seed
    transform = TrainTransform(data.crop, data.scale, data.flip, data.long_side)
    labeled = Stream(plan.source, plan.split.labeled, transform, seed, "labeled")
    unlabeled = Stream(plan.source, plan.split.unlabeled, transform, seed, "unlabeled") if plan.kind.uses_unlabeled else None
    return PairedStreams(labeled, unlabeled)


def run(app: App, request: Request, console: Console) -> int:
    """Train as asked; returns the exit code."""
    accelerator = make_accelerator(request.cpu)
    main, device = accelerator.is_main_process, accelerator.device
    if request.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    keep_freed_memory()
    plan = make_plan(app, request)
    local_batch(plan.resolved.sections.train.batch)
    # before the folder is made: whatever cannot work leaves nothing behind
    sections, source = plan.resolved.sections, plan.source
    validation = source.split("val")
    method, dataset = build_method(plan), build_dataset(plan)
    folder = _folder(plan)
    distributed.barrier()  # every process has read the folders before the first one makes one
    if main:
        open_folder(folder, plan.dump(), request.resume)
        _announce(plan, folder, device, console)
    distributed.barrier()

    with make_reporter(console, main) as reporter:
        job = Job(
            method=method,
            dataset=dataset,
            train=sections.train,
            data=sections.data,
            total=plan.total,
            seed=request.seed,
            evaluate=lambda networks, progress: evaluate(
                networks, source, validation, sections.evaluate, device, len(source.classes), progress
            ),
            keep=lambda kind, network, facts: _keep(plan, folder / kind, network, facts),
        )
        try:
            facts = fit(job, folder, accelerator, reporter, request.resume)
        except Stopped as stopped:
            if main:
                console.print(f"{stopped}; go on with: u2pl-semi train ... --out {folder} --resume", soft_wrap=True)
            return 143
    if main:
        _finish(plan, folder, facts, device, console)
    distributed.barrier()
    return 0


def _folder(plan: Plan) -> Path:
    request, stem = plan.request, f"{plan.source.name}-{plan.request.method}"
    if request.out is not None:
        return request.out
    return latest_folder(Path("runs"), stem, plan.dump()) if request.resume else next_folder(Path("runs"), stem)


def _announce(plan: Plan, folder: Path, device: torch.device, console: Console) -> None:
    source, split, train, world = plan.source, plan.split, plan.resolved.sections.train, distributed.world_size()
    say = lambda text: console.print(text, soft_wrap=True, highlight=False)  # noqa: E731
    unlabeled = f"{len(split.unlabeled)} unlabelled, " if plan.kind.uses_unlabeled else ""
    say(f"{source.name}: {len(split.labeled)} labelled ({split.protocol}), {unlabeled}{len(source.split('val'))} to score on, {len(source.classes)} classes")
    for note in source.notes:
        say(f"note: {note}")
    say(f"{plan.request.method} with preset {plan.preset}: {plan.total} steps, batch {train.batch} on {world} process{'es' * (world > 1)} ({device}), seed {plan.request.seed}")
    say(f"learning rate {train.scaled_lr:g} for the encoder, {train.scaled_lr * train.head_lr_factor:g} for the rest ({train.lr:g} at a batch of {train.reference_batch})")
    if plan.preset == "light":
        from u2pl.cli.app import option_table

        console.print(option_table(plan.resolved))
    for warning in plan.kind.notes(plan.resolved.method, len(source.classes)):
        say(f"note: {warning}")
    say(f"writing to {folder}")


def _keep(plan: Plan, folder: Path, network: nn.Module, facts: dict[str, Any]) -> None:
    """Write a network so that others can use it."""
    source, sections = plan.source, plan.resolved.sections
    config = sections.network if plan.kind.uses_embedding else sections.network.model_copy(update={"embed_dim": 0})
    info = {
        "app": "u2pl-semi",
        "method": plan.request.method,
        "network": config.model_dump(mode="json"),
        "classes": list(source.classes),
        "palette": source.palette.tolist(),
        "source": plan.request.data,
        "data": f"{source.name} ({plan.split.protocol}; fingerprint {source.fingerprint()})",
        "seed": plan.request.seed,
        "evaluation": f"{source.name} val, {sections.evaluate.describe()}",
        "protocol": sections.evaluate.model_dump(mode="json"),
        "crop": sections.data.crop,
        "scores": facts,
        "versions": versions(),
    }
    save_shared(folder, network, info)  # type: ignore[arg-type]


def _finish(plan: Plan, folder: Path, facts: Facts, device: torch.device, console: Console) -> None:
    """Write the summary and the pictures, and print what a person wants to know first."""
    last, source, protocol = facts.evaluations[-1], plan.source, plan.resolved.sections.evaluate
    result = next(name for name in last if name != "step")
    summary = {
        "method": plan.request.method,
        "data": source.name,
        "data_fingerprint": source.fingerprint(),
        "split": plan.split.protocol,
        "labeled": len(plan.split.labeled),
        "unlabeled": len(plan.split.unlabeled) if plan.kind.uses_unlabeled else 0,
        "classes": list(source.classes),
        "preset": plan.preset,
        "options": plan.resolved.dump(),
        "seed": plan.request.seed,
        "steps": plan.total,
        "seconds": round(facts.seconds, 1),
        "world_size": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine(),
        "network": result,
        "miou_last": last[result]["miou"],
        "miou_best": facts.best[result]["miou"],
        "step_best": facts.best["step"],
        "per_class_iou": last[result]["per_class_iou"],
        "networks": {name: entry for name, entry in last.items() if name != "step"},
        "evaluation": f"{source.name} val, {protocol.describe()}",
        "versions": versions(),
        "commit": commit(),
    }
    write_json(folder / SUMMARY, summary)
    network, _ = load_shared(folder / "last")
    rows = picture_rows(network.to(device), source, source.split("val"), protocol, device)
    gallery(rows, source.classes, source.palette, folder / "predictions.png")
    scores = {name: Score(**entry) for name, entry in last.items() if name != "step"}
    console.print(f"\n{summary['evaluation']}, after {plan.total} steps and {facts.seconds:.0f} s ({plan.split.protocol}):", highlight=False)
    console.print(score_table(source.classes, scores))
    console.print(f"mIoU of the {result}: last {summary['miou_last']:.2f}, best {summary['miou_best']:.2f} (step {summary['step_best']})", highlight=False)
    console.print(f"pictures: {folder / 'predictions.png'}", soft_wrap=True, highlight=False)
    console.print(f"next: u2pl-semi predict {folder} IMAGE_OR_FOLDER --out predictions", soft_wrap=True, highlight=False)


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "torchvision", "timm", "numpy", "pillow")}}


def commit() -> str | None:
    """The commit of the checkout this code runs from, where it is one."""
    try:
        out = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return out.stdout.strip()
