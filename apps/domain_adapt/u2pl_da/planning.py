"""What a run trains on: labelled images of one source of data, and images of another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from u2pl import distributed
from u2pl.cli.app import App
from u2pl.cli.console import counting
from u2pl.cli.plan import Plan, Recipe, Request
from u2pl.data.class_counts import class_counts
from u2pl.data.ids import first_three
from u2pl.data.opening import open_source
from u2pl.data.scenes import DEMOS
from u2pl.data.source import Source
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError
from u2pl.networks.config import RANDOM
from u2pl_da.batches import DomainStreams
from u2pl_da.rare_class_sampling import RareClassConfig, RareClassStream, absent_classes

#: The recipe of a source when none is named.
PRESETS = dict.fromkeys(DEMOS, "demo") | {"gta5": "gta5-cityscapes", "synthia": "synthia-cityscapes"}


@dataclass(frozen=True)
class AdaptRequest(Request):
    """What was asked for on the command line."""

    source: str = "demo-source"
    target: str = "demo-target"
    source_split: str | None = None
    target_split: str | None = None
    score_split: str = "val"


@dataclass(frozen=True)
class Domain:
    """One side: a source of data and the images that training sees of it."""

    data: Source
    split: str
    ids: list[str]

    @classmethod
    def of(cls, text: str, split: str | None) -> Domain:
        """Open what a command names; UserError when it cannot be."""
        data = open_source(text)
        split = split or data.train_split
        return cls(data, split, data.split(split))

    @classmethod
    def labelled(cls, text: str, split: str | None) -> Domain:
        """As `of`, and without a split all images that have a mask: nothing of a source need be held out."""
        domain = cls.of(text, split)
        if split is not None:
            return domain
        ids = [id for id in sorted({*domain.ids, *domain.data.held_out}) if domain.data.has_mask(id)]
        if not ids:
            raise UserError(f"--source {text}: no image has a mask: the source is the domain that is labelled")
        return cls(domain.data, domain.split, ids)

    @property
    def described(self) -> str:
        """In words, with the fingerprint."""
        return f"{self.data.name} ({self.split}; fingerprint {self.data.fingerprint()})"


@dataclass(frozen=True)
class AdaptPlan(Plan):
    """A request, its two domains opened."""

    request: AdaptRequest
    source: Domain
    target: Domain

    @property
    def name(self) -> str:
        return f"{self.source.data.name}-to-{self.target.data.name}"

    @property
    def scored(self) -> Source:
        return self.target.data

    @property
    def scored_split(self) -> str:
        return self.request.score_split

    @property
    def scored_ids(self) -> list[str]:
        """None where no target image has a mask, which is no error: the target is the domain without labels."""
        data = self.target.data
        return self.scored.split(self.scored_split) if any(map(data.has_mask, data.ids())) else []

    @property
    def scored_as(self) -> str:
        return self.request.target

    @property
    def streams(self) -> dict[str, int]:
        both = {"source": len(self.source.ids), "target": len(self.target.ids)}
        return both if self.kind.uses_unlabeled else {"source": both["source"]}

    @property
    def described(self) -> str:
        return f"{self.source.described} to {self.target.described}"

    def asked(self) -> dict[str, Any]:
        request = self.request
        return {
            "source": request.source,
            "target": request.target,
            "fingerprints": [self.source.data.fingerprint(), self.target.data.fingerprint()],
            "source_split": self.source.split,
            "target_split": self.target.split,
            "score_split": request.score_split,
        }

    def facts(self) -> dict[str, Any]:
        return {
            "data": f"{self.source.data.name} to {self.target.data.name}",
            "data_fingerprint": f"{self.source.data.fingerprint()} {self.target.data.fingerprint()}",
            "split": f"{self.source.split} to {self.target.split}",
            "labeled": len(self.source.ids),
            "unlabeled": self.streams.get("target", 0),
        }

    def notes(self) -> list[str]:
        notes = dict.fromkeys(
            [*self.source.data.notes, *self.target.data.scoring_notes(), *self.kind.notes(self.options, len(self.scored.classes))]
        )
        distance = getattr(self.options, "feature_distance", None)
        if distance is not None and distance.weight and not distance.things:
            notes["neither domain says which of its classes are things (meta.toml): there is no feature distance"] = None
        elif distance is not None and distance.weight and self.network.encoder_weights == RANDOM:
            notes[
                "the feature distance holds on to an encoder of random numbers: --set method.feature_distance.weight=0 switches it off"
            ] = None
        if not self.scored_ids:
            notes[f"no image of {self.target.data.name} has a mask: the network is not scored, and the last one is kept"] = None
        absent = [] if self.rare_classes is None else absent_classes(self.source.data.classes, self.pixel_counts)
        if absent:
            notes[f"no mask of {self.source.data.name} holds {', '.join(absent)}: it cannot be learnt"] = None
        return list(notes)

    def words(self) -> list[str]:
        request = self.request
        words = ["--source", request.source, "--target", request.target]
        for option, value in (("--source-split", request.source_split), ("--target-split", request.target_split)):
            words += [option, value] if value is not None else []
        return words + (["--score-split", request.score_split] if request.score_split != "val" else [])

    def check(self) -> None:
        """UserError where a network would be scored on what it was trained on, or has nothing to learn from."""
        bare = [id for id in self.source.ids if not self.source.data.has_mask(id)]
        if bare:
            raise UserError(f"--source {self.request.source}: images without mask: {first_three(bare)}: add their masks, or list others")
        if self.source.data.fingerprint() == self.target.data.fingerprint():
            leaked = sorted(set(self.source.ids) & set(self.scored_ids))
            if leaked:
                raise UserError(
                    f"labelled images that are also scored on: {first_three(leaked)}: choose another --source-split or --score-split"
                )

    @property
    def rare_classes(self) -> RareClassConfig | None:
        """How source images are chosen, where a method does not take them as they come."""
        config = getattr(self.options, "rare_classes", None)
        return config if config is not None and config.enabled else None

    @cached_property
    def pixel_counts(self) -> np.ndarray:
        """Pixels of each class in each source mask, int64 [images, C]; counted once for all runs."""
        with counting("counting the classes' pixels in the source masks", distributed.rank() == 0) as progress:
            return class_counts(self.source.data, self.source.ids, progress, distributed.device())

    def build_dataset(self) -> DomainStreams:
        data, seed = self.sections.data, self.request.seed
        cut = TrainTransform(data.crop, data.scale, data.flip, data.long_side)
        cut_target = TrainTransform(data.crop, data.scale, data.flip, data.target_long_side, self.target.data.void_rows)
        common = (self.source.data, self.source.ids, cut, seed, "source")
        source = RareClassStream(*common, self.pixel_counts, self.rare_classes) if self.rare_classes is not None else Stream(*common)
        target = Stream(self.target.data, self.target.ids, cut_target, seed, "target", "extra") if self.kind.uses_unlabeled else None
        return DomainStreams(source, target)


def make_plan(app: App, request: AdaptRequest) -> AdaptPlan:
    """Resolve a request; UserError for whatever cannot work."""
    recipe = Recipe.of(app, request, PRESETS.get(request.source.partition(":")[0], "light"))
    source, target = Domain.labelled(request.source, request.source_split), Domain.of(request.target, request.target_split)
    if source.data.classes != target.data.classes:
        raise UserError(_other_classes(source.data, target.data))
    recipe = _with_things(recipe, source.data, target.data)
    total = recipe.total(len((target if recipe.kind.uses_unlabeled else source).ids))
    return AdaptPlan(app, request, recipe, total, source, target)


def _other_classes(source: Source, target: Source) -> str:
    pairs = enumerate(zip(source.classes, target.classes, strict=False))
    first = next((f"class {i} is {a!r} in the one and {b!r} in the other" for i, (a, b) in pairs if a != b), "the one has more")
    return (
        f"{source.name} has {len(source.classes)} classes and {target.name} {len(target.classes)}, and they must be the same: {first}; "
        "give both the same classes.txt"
    )


def _with_things(recipe: Recipe, source: Source, target: Source) -> Recipe:
    """The recipe with the thing classes that the data names, unless it names its own."""
    distance = getattr(recipe.resolved.method, "feature_distance", None)
    if distance is None:
        return recipe
    if distance.things is None:
        names = source.things or target.things
        distance = distance.model_copy(update={"things": tuple(source.classes.index(name) for name in names)})
    elif any(id >= len(source.classes) for id in distance.things):
        raise UserError(f"method.feature_distance.things names class {max(distance.things)}, but there are {len(source.classes)} classes")
    method = recipe.resolved.method.model_copy(update={"feature_distance": distance})
    return replace(recipe, resolved=recipe.resolved.model_copy(update={"method": method}))
