"""What a semi-supervised run trains on: a few labelled images and the rest of one data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from u2pl.counting import Counting
from u2pl.data.boxes import read_boxes
from u2pl.data.classes import listed
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.splits import LabeledSplit, absent_classes, choose_labeled
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError
from u2pl.methods.batches import PairedStreams
from u2pl.run.app import App
from u2pl.run.recipe import Recipe
from u2pl.run.task import Part, Task
from u2pl_semi.requests import SemiRequest
from u2pl_semi.sections import SemiDataConfig


@dataclass(frozen=True)
class SemiTask(Task):
    """A request, its data opened and split."""

    request: SemiRequest
    source: Source
    split: LabeledSplit

    @property
    def parts(self) -> tuple[Part, ...]:
        text, split = self.request.data, self.split
        return (
            Part(
                "labelled", text, self.source, split.protocol, split.labeled, True, check_all=True
            ),
            Part("unlabelled", text, self.source, split.protocol, split.unlabeled, masked=False),
        )

    @property
    def scored(self) -> Part:
        ids = self.source.split("val")
        return Part("val", self.request.data, self.source, "val", ids, masked=True)

    def check(self) -> None:
        """UserError if a class occurs in no labelled mask: it could never be learnt."""
        data = self.recipe.sections.data
        if isinstance(data, SemiDataConfig) and data.allow_absent_classes:
            return
        absent = absent_classes(self.source, self.split.labeled)
        if absent:
            raise UserError(
                f"{self.source.name}: no labelled mask holds {listed(absent)}; label one, "
                f"choose other images with --labeled, {self.source.naming_val} if only images that "
                "are held out show it, or add --set data.allow_absent_classes=true"
            )

    @cached_property
    def boxes(self) -> dict[str, np.ndarray] | None:
        """Boxes of the unlabelled images, by id; None if none were asked for."""
        data = self.recipe.sections.data
        if not isinstance(data, SemiDataConfig) or not data.boxes:
            return None
        weight = getattr(self.recipe.options, "pixel_weight", None)
        if weight is None or weight.kind == "none":
            raise UserError(
                "data.boxes is used by weights of pseudo-labels alone: add --set "
                "method.pixel_weight.kind=rank_statistics, or leave it out"
            )
        return read_boxes(Path(data.boxes), self.source, data.box_threshold)

    def own_facts(self) -> dict[str, str]:
        if self.boxes is None:
            return {}
        data = self.recipe.sections.data
        assert isinstance(data, SemiDataConfig)
        return {"boxes": hashlib.sha256(Path(data.boxes).read_bytes()).hexdigest()[:12]}

    def dataset(self, crop: int = 0) -> PairedStreams:
        data, seed = self.recipe.sections.data, self.request.seed
        cut = TrainTransform(crop or data.crop, data.scale, data.flip, data.long_side)
        labeled = Stream(self.source, self.split.labeled, cut, seed, "labeled")
        if not self.recipe.kind.uses_unlabeled:
            return PairedStreams(labeled, None)
        return PairedStreams(
            labeled,
            Stream(self.source, self.split.unlabeled, cut, seed, "unlabeled", "extra", self.boxes),
        )


def make_task(app: App, request: SemiRequest, recipe: Recipe, counting: Counting) -> SemiTask:
    """Open and split the data; UserError for whatever cannot work."""
    source = open_source(request.data, counting)
    split = choose_labeled(source, request.labeled, request.seed)
    if recipe.kind.uses_unlabeled and not split.unlabeled:
        raise UserError(
            f"{source.name}: no unlabelled image is left for {request.method}; add images or use "
            "suponly"
        )
    return SemiTask(app, request, recipe, counting, source, split)


def parts_without_task(request: SemiRequest) -> list[Part]:
    """All masked images, where no labelled ones could be chosen: their masks may be broken."""
    source = open_source(request.data)
    try:
        choose_labeled(source, request.labeled, request.seed)
    except UserError:
        masked = sorted(id for id in source.ids() if source.has_mask(id))
        return [Part("masked", request.data, source, "all", masked, masked=True)]
    return []
