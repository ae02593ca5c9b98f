"""What a semi-supervised run trains on: a few labelled images and the rest of one data set."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from u2pl.counting import Counting
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.splits import LabeledSplit, absent_classes, choose_labeled
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError
from u2pl.methods.batches import PairedStreams
from u2pl.run.app import App
from u2pl.run.recipe import Recipe, Sections
from u2pl.run.task import Part, Task
from u2pl.training.config import DataConfig
from u2pl_semi.app import SemiRequest


class SemiDataConfig(DataConfig):
    """Crops and augmentation, and which data are accepted."""

    allow_absent_classes: bool = Field(
        False, description="train although a class occurs in no labelled mask"
    )


class SemiSections(Sections):
    """Options that all methods share."""

    data: SemiDataConfig = Field(
        default_factory=lambda: SemiDataConfig(), description="crops and augmentation"
    )


SECTIONS = SemiSections


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
                f"{self.source.name}: no labelled mask holds {', '.join(absent)}; label one, "
                "choose other images with --labeled, or add --set data.allow_absent_classes=true"
            )

    def dataset(self, crop: int = 0) -> PairedStreams:
        data, seed = self.recipe.sections.data, self.request.seed
        cut = TrainTransform(crop or data.crop, data.scale, data.flip, data.long_side)
        labeled = Stream(self.source, self.split.labeled, cut, seed, "labeled")
        if not self.recipe.kind.uses_unlabeled:
            return PairedStreams(labeled, None)
        return PairedStreams(
            labeled, Stream(self.source, self.split.unlabeled, cut, seed, "unlabeled", "extra")
        )


def make_task(app: App, request: SemiRequest, recipe: Recipe, counting: Counting) -> SemiTask:
    """Open and split the data; UserError for whatever cannot work."""
    source = open_source(request.data)
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
