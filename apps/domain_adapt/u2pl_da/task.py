"""What an adaptation trains on: labelled images of one domain, and images of another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch.utils.data import Dataset

from u2pl import distributed
from u2pl.counting import Counting
from u2pl.data.class_counts import class_counts
from u2pl.data.classes import listed
from u2pl.data.ids import first_three
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.splits import choose_labeled
from u2pl.data.streams import Interleaved, Stream
from u2pl.data.transforms import TrainSample, TrainTransform
from u2pl.errors import UserError
from u2pl.networks.config import RANDOM
from u2pl.run.app import App
from u2pl.run.recipe import Recipe
from u2pl.run.request import Request
from u2pl.run.task import Crops, Part, Task
from u2pl_da.adaptation import AdaptationConfig
from u2pl_da.app import AdaptRequest
from u2pl_da.batches import DomainStreams
from u2pl_da.rare_class_sampling import RareClassConfig, RareClassStream, classes_without_pixels
from u2pl_da.sections import AdaptDataConfig


@dataclass(frozen=True)
class AdaptTask(Task):
    """A request, its two domains opened."""

    request: AdaptRequest
    source: Part
    target: Part
    target_labeled: Part | None = None  # images of the target with masks to learn from

    @property
    def labelled(self) -> tuple[Part, ...]:
        """What masks are learnt from, with the shares of a step's labelled images."""
        if self.target_labeled is None:
            return (self.source,)
        share = self._data.target_share
        return replace(self.source, share=1 - share), replace(self.target_labeled, share=share)

    @property
    def parts(self) -> tuple[Part, ...]:
        return *self.labelled, self.target

    @property
    def streams(self) -> tuple[Part, ...]:
        return self.parts if self.recipe.kind.uses_unlabeled else self.labelled

    def _described(self) -> list[Part]:
        # the target's words say which of its images are labelled
        return [self.source, self.target]

    @cached_property
    def scored(self) -> Part:
        """The target; no images if it has no mask, which is no error: its labels are not needed."""
        data, split = self.target.source, self.request.score_split
        ids = data.split(split) if any(map(data.has_mask, data.ids())) else []
        return Part("scored", self.target.text, data, split, ids, masked=True)

    def crops(self) -> Iterator[Crops]:
        data = self._data
        source, *of_target = self.streams
        yield Crops((source,), data)
        if of_target:
            changed = data.model_copy(update={"long_side": data.target_long_side})
            yield Crops(tuple(of_target), changed, "data.target_long_side")

    def own_notes(self) -> Iterator[str]:
        options = self.recipe.options
        if isinstance(options, AdaptationConfig) and options.feature_distance.weight:
            if not options.feature_distance.things:
                yield (
                    "neither domain says which of its classes are things (meta.toml): there is no "
                    "feature distance"
                )
            elif self.recipe.network.freeze_encoder:
                yield "the encoder is frozen, so its features keep: there is no feature distance"
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
        names = " and ".join(part.source.name for part in self.labelled)
        counts = np.concatenate(self.pixel_counts) if self.rare_classes else None
        absent = classes_without_pixels(self.classes, counts) if counts is not None else []
        if absent:
            yield f"no mask of {names} holds {listed(absent)}: it cannot be learnt"

    def check(self) -> None:
        """UserError if a network would be scored on its training images, or has no labels."""
        source, target, labelled = self.source, self.target, self.target_labeled
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
        leaked = sorted(set(labelled.ids) & set(self.scored.ids)) if labelled else []
        if leaked:
            raise UserError(
                f"--target-labeled: images that are also scored on: {first_three(leaked)}: choose "
                "others, or another --score-split"
            )

    @property
    def rare_classes(self) -> RareClassConfig | None:
        """How source images are sampled; None if each is shown once an epoch."""
        options = self.recipe.options
        if not isinstance(options, AdaptationConfig) or not options.rare_classes.enabled:
            return None
        return options.rare_classes

    @cached_property
    def pixel_counts(self) -> list[np.ndarray]:
        """Pixels of each class in each mask, int64 [images, C], of each labelled part; cached."""
        found = []
        for part in self.labelled:
            with self.counting(f"counting the classes' pixels in the {part.role} masks") as done:
                found.append(class_counts(part.source, part.ids, done, distributed.device()))
        return found

    @property
    def _data(self) -> AdaptDataConfig:
        data = self.recipe.sections.data
        assert isinstance(data, AdaptDataConfig)
        return data

    def dataset(self, crop: int = 0) -> DomainStreams:
        data, target = self._data, self.target
        size, void_rows = crop or data.crop, target.source.void_rows
        cut = TrainTransform(size, data.scale, data.flip, data.long_side)
        cut_target = TrainTransform(size, data.scale, data.flip, data.target_long_side, void_rows)
        labelled: Dataset[TrainSample] = self._labelled(0, cut)
        if self.target_labeled is not None:
            labelled = Interleaved(labelled, self._labelled(1, cut_target), data.target_share)
        if not self.recipe.kind.uses_unlabeled:
            return DomainStreams(labelled, None)
        seed = self.request.seed
        return DomainStreams(
            labelled, Stream(target.source, target.ids, cut_target, seed, "target", "extra")
        )

    def _labelled(self, i: int, cut: TrainTransform) -> Stream:
        """The stream of a labelled part; what is rare is so among all of them."""
        part, rare = self.labelled[i], self.rare_classes
        common = (part.source, part.ids, cut, self.request.seed, part.role)
        if rare is None:
            return Stream(*common)
        every = np.concatenate(self.pixel_counts).sum(axis=0) if self.target_labeled else None
        return RareClassStream(*common, self.pixel_counts[i], rare, every)


def make_task(app: App, request: AdaptRequest, recipe: Recipe, counting: Counting) -> AdaptTask:
    """Open both domains; UserError for whatever cannot work."""
    source, (target, labelled) = _source(request, counting), _target(request, counting)
    if source.source.classes != target.source.classes:
        raise UserError(_other_classes(source.source, target.source))
    recipe = _with_things(recipe, source.source, target.source)
    if recipe.kind.uses_unlabeled and not target.ids:
        raise UserError(
            f"{target.source.name}: no unlabelled image is left for {request.method}; label fewer, "
            "add images or use source_only"
        )
    return AdaptTask(app, request, recipe, counting, source, target, labelled)


def parts_without_task(request: Request) -> list[Part]:
    """None: without two domains that fit there is nothing to look at."""
    return []


def _target(request: AdaptRequest, counting: Counting) -> tuple[Part, Part | None]:
    """The images to adapt to, and those of them whose masks are learnt from."""
    data, which = open_source(request.target, counting), request.target_labeled
    split = request.target_split or data.train_split
    if which is None:
        return Part("target", request.target, data, split, data.split(split), masked=False), None
    # the labelled ones are drawn from the images that training may see
    data.train_split = data.label_pool = split
    try:
        chosen = choose_labeled(data, which, request.seed)
    except UserError as error:
        raise UserError(f"--target-labeled: {error}") from None
    words = f"{split}, labelled: {chosen.protocol}"
    labelled = Part(
        "target labelled", request.target, data, chosen.protocol, chosen.labeled, True, True
    )
    return Part("target", request.target, data, words, chosen.unlabeled, masked=False), labelled


def _source(request: AdaptRequest, counting: Counting) -> Part:
    """The listed images; without a list all that have a mask, since none need be held out."""
    data = open_source(request.source, counting)
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
