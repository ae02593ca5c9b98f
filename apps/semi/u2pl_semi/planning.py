"""From what was typed to a plan: everything decided that does not need a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from u2pl.batches import PairedStreams
from u2pl.cli.app import App
from u2pl.cli.config import Resolved, recipe_path, resolve
from u2pl.cli.discovery import load_method
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.splits import LabeledSplit, absent_classes, choose_labeled
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError
from u2pl.method import Method
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig

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

    @property
    def network(self) -> NetworkConfig:
        """The network's config; without a representation head where the method has no use for one."""
        config = self.resolved.sections.network
        return config if self.kind.uses_embedding else config.model_copy(update={"embed_dim": 0})

    def dump(self) -> dict[str, Any]:
        """What is written to config.json; equal for equal runs."""
        request = self.request
        return {
            "app": "u2pl-semi",
            "method_name": request.method,
            "preset": self.preset,
            "data": request.data,
            "data_fingerprint": self.source.fingerprint(),
            "labeled": request.labeled,
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
        raise UserError(f"{source.name}: no unlabelled image is left for {request.method}; add images or use suponly")
    return Plan(request, source, split, preset, kind, resolved, total)


def check_classes(plan: Plan) -> None:
    """UserError when a class occurs in no labelled mask: it could never be learnt."""
    absent = [] if plan.resolved.sections.data.allow_absent_classes else absent_classes(plan.source, plan.split.labeled)
    if absent:
        raise UserError(
            f"{plan.source.name}: no labelled mask holds {', '.join(absent)}; label one, choose other images with --labeled, "
            "or add --set data.allow_absent_classes=true"
        )


def build_method(plan: Plan) -> Method:
    """The network of the run's seed, and the method around it."""
    torch.manual_seed(plan.request.seed)
    classes = len(plan.source.classes)
    return plan.kind(plan.resolved.method, build_segmentor(plan.network, classes), classes)


def build_dataset(plan: Plan) -> PairedStreams:
    """The two endless streams of training images."""
    data, seed = plan.resolved.sections.data, plan.request.seed
    transform = TrainTransform(data.crop, data.scale, data.flip, data.long_side)
    labeled = Stream(plan.source, plan.split.labeled, transform, seed, "labeled")
    unlabeled = Stream(plan.source, plan.split.unlabeled, transform, seed, "unlabeled", "extra") if plan.kind.uses_unlabeled else None
    return PairedStreams(labeled, unlabeled)
