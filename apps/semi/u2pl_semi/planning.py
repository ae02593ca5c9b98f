"""What a run trains on: a few labelled images and the rest of one source of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from u2pl.batches import PairedStreams
from u2pl.cli.app import App
from u2pl.cli.plan import Plan, Recipe, Request
from u2pl.data.opening import open_source
from u2pl.data.scenes import DEMOS
from u2pl.data.source import Source
from u2pl.data.splits import LabeledSplit, absent_classes, choose_labeled
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError

#: The recipe of a data source when none is named.
PRESETS = dict.fromkeys(DEMOS, "demo") | {"voc": "voc", "cityscapes": "cityscapes"}


@dataclass(frozen=True)
class SemiRequest(Request):
    """What was asked for on the command line."""

    data: str = "demo"
    labeled: str | None = None


@dataclass(frozen=True)
class SemiPlan(Plan):
    """A request, its data opened and split."""

    request: SemiRequest
    source: Source
    split: LabeledSplit

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def scored(self) -> Source:
        return self.source

    @property
    def scored_split(self) -> str:
        return "val"

    @property
    def scored_as(self) -> str:
        return self.request.data

    @property
    def streams(self) -> dict[str, int]:
        both = {"labelled": len(self.split.labeled), "unlabelled": len(self.split.unlabeled)}
        return both if self.kind.uses_unlabeled else {"labelled": both["labelled"]}

    @property
    def described(self) -> str:
        return f"{self.source.name} ({self.split.protocol}; fingerprint {self.source.fingerprint()})"

    def asked(self) -> dict[str, Any]:
        request = self.request
        return {
            "data": request.data,
            "data_fingerprint": self.source.fingerprint(),
            "labeled": request.labeled,
            "split": self.split.protocol,
        }

    def facts(self) -> dict[str, Any]:
        return {
            "data": self.source.name,
            "data_fingerprint": self.source.fingerprint(),
            "split": self.split.protocol,
            "labeled": len(self.split.labeled),
            "unlabeled": self.streams.get("unlabelled", 0),
        }

    def notes(self) -> list[str]:
        return [*self.source.scoring_notes(), *self.kind.notes(self.options, len(self.source.classes))]

    def words(self) -> list[str]:
        labeled = ["--labeled", self.request.labeled] if self.request.labeled is not None else []
        return ["--data", self.request.data, *labeled]

    def check(self) -> None:
        """UserError when a class occurs in no labelled mask: it could never be learnt."""
        absent = [] if self.sections.data.allow_absent_classes else absent_classes(self.source, self.split.labeled)
        if absent:
            raise UserError(
                f"{self.source.name}: no labelled mask holds {', '.join(absent)}; label one, choose other images with --labeled, "
                "or add --set data.allow_absent_classes=true"
            )

    def build_dataset(self) -> PairedStreams:
        data, seed = self.sections.data, self.request.seed
        transform = TrainTransform(data.crop, data.scale, data.flip, data.long_side)
        labeled = Stream(self.source, self.split.labeled, transform, seed, "labeled")
        unlabeled = Stream(self.source, self.split.unlabeled, transform, seed, "unlabeled", "extra") if self.kind.uses_unlabeled else None
        return PairedStreams(labeled, unlabeled)


def make_plan(app: App, request: SemiRequest) -> SemiPlan:
    """Resolve a request; UserError for whatever cannot work."""
    recipe = Recipe.of(app, request, PRESETS.get(request.data.partition(":")[0], "light"))
    source = open_source(request.data)
    split = choose_labeled(source, request.labeled, request.seed)
    both = recipe.kind.uses_unlabeled
    if both and not split.unlabeled:
        raise UserError(f"{source.name}: no unlabelled image is left for {request.method}; add images or use suponly")
    total = recipe.total(len(split.unlabeled if both else split.labeled))
    return SemiPlan(app, request, recipe, total, source, split)
