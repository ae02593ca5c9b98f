"""Labelled images of a data source."""

from __future__ import annotations

from dataclasses import dataclass

from core.toy.app import ToyRequest
from u2pl.counting import Counting
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.methods.batches import PairedStreams
from u2pl.run.app import App
from u2pl.run.recipe import Recipe
from u2pl.run.task import Part, Task


@dataclass(frozen=True)
class ToyTask(Task):
    """A request, and its data."""

    request: ToyRequest
    source: Source

    @property
    def parts(self) -> tuple[Part, ...]:
        ids = self.source.split("train")[: self.request.most_images]
        return (Part("labelled", self.request.data, self.source, "train", ids, masked=True),)

    @property
    def scored(self) -> Part:
        ids = self.source.split("val")[: self.request.most_images]
        return Part("val", self.request.data, self.source, "val", ids, masked=True)

    def dataset(self, crop: int = 0) -> PairedStreams:
        data = self.recipe.sections.data
        cut = TrainTransform(crop or data.crop, data.scale, data.flip)
        ids = self.parts[0].ids
        return PairedStreams(Stream(self.source, ids, cut, self.request.seed, "labeled"), None)


def make_task(app: App, request: ToyRequest, recipe: Recipe, counting: Counting) -> ToyTask:
    return ToyTask(app, request, recipe, counting, open_source(request.data))


def parts_without_task(request: ToyRequest) -> list[Part]:
    return []
