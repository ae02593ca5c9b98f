"""What an adaptation trains on: labelled images of one domain, and images of another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import Field

from u2pl import distributed
from u2pl.counting import Counting
from u2pl.data.class_counts import class_counts
from u2pl.data.ids import first_three
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError
from u2pl.networks.config import RANDOM
from u2pl.run.app import App
from u2pl.run.recipe import Recipe, Sections
from u2pl.run.request import Request
from u2pl.run.task import Crops, Part, Task
from u2pl.training.config import DataConfig
from u2pl_da.adaptation import AdaptationConfig
from u2pl_da.app import AdaptRequest
from u2pl_da.batches import DomainStreams
from u2pl_da.rare_class_sampling import RareClassConfig, RareClassStream, classes_without_pixels


class AdaptDataConfig(DataConfig):
    """Crops and augmentation of the images of two domains."""

    target_long_side: int = Field(
        0,
        ge=0,
        description="as long_side, for the target images (long_side is for the source images); 0 = "
        "never shrunk",
    )


class AdaptSections(Sections):
    """Options that all methods share."""

    data: AdaptDataConfig = Field(
        default_factory=lambda: AdaptDataConfig(), description="crops and augmentation"
    )


SECTIONS = AdaptSections


@dataclass(frozen=True)
class AdaptTask(Task):
    """A request, its two domains opened."""

    request: AdaptRequest
    source: Part
    target: Part

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.source, self.target

    @cached_property
    def scored(self) -> Part:
        """The target; no images if it has no mask, which is no error: its labels are not needed."""
        data, split = self.target.source, self.request.score_split
        ids = data.split(split) if any(map(data.has_mask, data.ids())) else []
        return Part("scored", self.target.text, data, split, ids, masked=True)

    def crops(self) -> Iterator[Crops]:
        data = self._data
        yield Crops((self.source,), data)
        if self.target in self.streams:
            changed = data.model_copy(update={"long_side": data.target_long_side})
            yield Crops((self.target,), changed, "data.target_long_side")

    def own_notes(self) -> Iterator[str]:
        options = self.recipe.options
        if isinstance(options, AdaptationConfig) and options.feature_distance.weight:
            if not options.feature_distance.things:
                yield (
                    "neither domain says which of its classes are things (meta.toml): there is no "
                    "feature distance"
                )
            elif self.request.init is not None:
                yield (
                    f"the feature distance compares with the encoder of {self.request.init}, "
                    "instead of ImageNet's"
                )
            elif self.recipe.network.encoder_weights == RANDOM:
                yield (
                    "the feature distance compares with an encoder of random weights: "
                    "--set method.feature_distance.weight=0 switches it off"
                )
        source = self.source.source
        absent = (
            classes_without_pixels(source.classes, self.pixel_counts) if self.rare_classes else []
        )
        if absent:
            yield f"no mask of {source.name} holds {', '.join(absent)}: it cannot be learnt"

    def check(self) -> None:
        """UserError if a network would be scored on its training images, or has no labels."""
        source, target = self.source, self.target
        bare = [id for id in source.ids if not source.source.has_mask(id)]
        if bare:
            advice = source.source.where_masks_lack("add their masks, or list others")
            raise UserError(
                f"--source {source.text}: images without mask: {first_three(bare)}: {advice}"
            )
        if source.source.fingerprint() == target.source.fingerprint():
            leaked = sorted(set(source.ids) & set(self.scored.ids))
            if leaked:
                raise UserError(
                    f"labelled images that are also scored on: {first_three(leaked)}: choose "
                    "another --source-split or --score-split"
                )

    @property
    def rare_classes(self) -> RareClassConfig | None:
        """How source images are sampled; None if each is shown once an epoch."""
        options = self.recipe.options
        if not isinstance(options, AdaptationConfig) or not options.rare_classes.enabled:
            return None
        return options.rare_classes

    @cached_property
    def pixel_counts(self) -> np.ndarray:
        """Pixels of each class in each source mask, int64 [images, C]; cached for all runs."""
        with self.counting("counting the classes' pixels in the source masks") as progress:
            source = self.source
            return class_counts(source.source, source.ids, progress, distributed.device())

    @property
    def _data(self) -> AdaptDataConfig:
        data = self.recipe.sections.data
        assert isinstance(data, AdaptDataConfig)
        return data

    def dataset(self, crop: int = 0) -> DomainStreams:
        data, seed = self._data, self.request.seed
        size, target = crop or data.crop, self.target
        cut = TrainTransform(size, data.scale, data.flip, data.long_side)
        void_rows = target.source.void_rows
        cut_target = TrainTransform(size, data.scale, data.flip, data.target_long_side, void_rows)
        common = (self.source.source, self.source.ids, cut, seed, "source")
        rare = self.rare_classes
        labelled = RareClassStream(*common, self.pixel_counts, rare) if rare else Stream(*common)
        if not self.recipe.kind.uses_unlabeled:
            return DomainStreams(labelled, None)
        return DomainStreams(
            labelled, Stream(target.source, target.ids, cut_target, seed, "target", "extra")
        )


def make_task(app: App, request: AdaptRequest, recipe: Recipe, counting: Counting) -> AdaptTask:
    """Open both domains; UserError for whatever cannot work."""
    source, target = _source(request), _target(request)
    if source.source.classes != target.source.classes:
        raise UserError(_other_classes(source.source, target.source))
    recipe = _with_things(recipe, source.source, target.source)
    return AdaptTask(app, request, recipe, counting, source, target)


def parts_without_task(request: Request) -> list[Part]:
    """None: without two domains that fit there is nothing to look at."""
    return []


def _target(request: AdaptRequest) -> Part:
    data = open_source(request.target)
    split = request.target_split or data.train_split
    return Part("target", request.target, data, split, data.split(split), masked=False)


def _source(request: AdaptRequest) -> Part:
    """The listed images; without a list all that have a mask, since none need be held out."""
    data = open_source(request.source)
    split = request.source_split or data.train_split
    ids = data.split(split)
    if request.source_split is None:
        ids = [id for id in sorted({*ids, *data.held_out}) if data.has_mask(id)]
        if not ids:
            advice = data.where_masks_lack("the source is the labelled domain")
            raise UserError(f"--source {request.source}: no image has a mask: {advice}")
    return Part("source", request.source, data, split, ids, masked=True)


def _other_classes(source: Source, target: Source) -> str:
    pairs = enumerate(zip(source.classes, target.classes, strict=False))
    differ = (
        f"class {i} is {a!r} in the one and {b!r} in the other" for i, (a, b) in pairs if a != b
    )
    return (
        f"{source.name} has {len(source.classes)} classes and {target.name} {len(target.classes)}, "
        f"and they must be the same: {next(differ, 'the one has more')}; give both the same "
        "classes.txt"
    )


def _with_things(recipe: Recipe, source: Source, target: Source) -> Recipe:
    """The recipe with the thing classes that the data names, unless it names its own."""
    options = recipe.options
    if not isinstance(options, AdaptationConfig):
        return recipe
    distance = options.feature_distance
    if distance.things is None:
        names = source.things or target.things
        things = tuple(source.classes.index(name) for name in names)
        return recipe.with_options(feature_distance=distance.model_copy(update={"things": things}))
    if any(id >= len(source.classes) for id in distance.things):
        raise UserError(
            f"method.feature_distance.things names class {max(distance.things)}, but there are "
            f"{len(source.classes)} classes"
        )
    return recipe
