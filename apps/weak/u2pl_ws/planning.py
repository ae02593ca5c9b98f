"""What a run trains on: images and the names of what they show."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from u2pl import distributed
from u2pl.cli.app import App
from u2pl.cli.console import counting
from u2pl.cli.plan import Plan, Recipe, Request
from u2pl.data.opening import open_source
from u2pl.data.scenes import DEMOS
from u2pl.data.source import Source
from u2pl.data.streams import Stream
from u2pl.data.tags import Tags, read_tags, tags_from_masks, tags_of
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError
from u2pl.networks.config import NetworkConfig
from u2pl_ws.batches import TagStream

#: The recipe of a data source when none is named.
PRESETS = dict.fromkeys(DEMOS, "demo") | {"voc": "voc"}


@dataclass(frozen=True)
class WeakRequest(Request):
    """What was asked for on the command line."""

    data: str = "demo-tags"
    tags: str | None = None


@dataclass(frozen=True)
class WeakPlan(Plan):
    """A request, its data opened and its tags read."""

    request: WeakRequest
    source: Source
    tags: Tags
    tagged_by: str

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
    def scored_ids(self) -> list[str]:
        """None where no image has a mask, which is no error: tags are all that training needs."""
        return super().scored_ids if any(map(self.source.has_mask, self.source.ids())) else []

    @property
    def scored_as(self) -> str:
        return self.request.data

    @property
    def streams(self) -> dict[str, int]:
        return {"tagged": len(self.tags)}

    @property
    def described(self) -> str:
        return f"{self.source.name} ({self.source.train_split}, tags from {self.tagged_by}; fingerprint {self.source.fingerprint()})"

    @property
    def network(self) -> NetworkConfig:
        return super().network.model_copy(update={"tag_classes": len(self.source.classes) - 1})

    @property
    def tags_fingerprint(self) -> str:
        """12 hex digits over all tags."""
        facts = sorted((id, *sorted(classes)) for id, classes in self.tags.items())
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]

    def asked(self) -> dict[str, Any]:
        return {
            "data": self.request.data,
            "data_fingerprint": self.source.fingerprint(),
            "tags": self.request.tags,
            "tags_fingerprint": self.tags_fingerprint,
        }

    def facts(self) -> dict[str, Any]:
        return {
            "data": self.source.name,
            "data_fingerprint": self.source.fingerprint(),
            "tags_fingerprint": self.tags_fingerprint,
            "split": f"{self.source.train_split}, tags from {self.tagged_by}",
            "labeled": 0,
            "unlabeled": len(self.tags),
        }

    def notes(self) -> list[str]:
        notes = [*self.source.scoring_notes(), *self.kind.notes(self.options, len(self.source.classes))]
        bare = sum(not classes for classes in self.tags.values())
        if bare:
            notes.append(f"{bare} of {len(self.tags)} images have no tag: all of them is background")
        if not self.scored_ids:
            notes.append(f"no image of {self.source.name} has a mask: the network is not scored, and the last one is kept")
        return notes

    def words(self) -> list[str]:
        return ["--data", self.request.data, *(["--tags", self.request.tags] if self.request.tags is not None else [])]

    def check(self) -> None:
        """UserError where a class is no image's tag: it could never be learnt."""
        seen = Counter(k for classes in self.tags.values() for k in classes)
        absent = [name for k, name in enumerate(self.source.classes) if k and not seen[k]]
        if absent:
            raise UserError(
                f"{self.source.name}: no image is tagged with {', '.join(absent)}: tag some, or take the classes out of classes.txt"
            )

    def build_dataset(self) -> TagStream:
        data, seed = self.sections.data, self.request.seed
        cut = TrainTransform(data.crop, data.scale, data.flip, data.long_side)
        return TagStream(Stream(self.source, list(self.tags), cut, seed, "tagged", "never"), self.tags, len(self.source.classes))


def make_plan(app: App, request: WeakRequest) -> WeakPlan:
    """Resolve a request; UserError for whatever cannot work."""
    recipe = Recipe.of(app, request, PRESETS.get(request.data.partition(":")[0], "light"))
    source = open_source(request.data)
    tags, tagged_by = find_tags(source, request.data, request.tags, source.split(source.train_split))
    cam: Any = recipe.resolved.method.cam  # type: ignore[attr-defined]
    if not cam.most_tags:
        cam = cam.model_copy(update={"most_tags": max(1, *map(len, tags.values()))})
        method = recipe.resolved.method.model_copy(update={"cam": cam})
        recipe = replace(recipe, resolved=recipe.resolved.model_copy(update={"method": method}))
    return WeakPlan(app, request, recipe, recipe.total(len(tags)), source, tags, tagged_by)


def find_tags(source: Source, data: str, given: str | None, ids: list[str]) -> tuple[Tags, str]:
    """The tags of some images, and in words where they are from.

    They are in the file that is named, or else in the one that the source has; the built-in scenes take theirs from their masks.
    """
    if given is None and data in DEMOS:
        with counting("reading tags off the scenes", distributed.rank() == 0) as progress:
            return tags_from_masks(source, ids, progress), "its masks"
    path = Path(given) if given is not None else source.tags
    if path is None:
        raise UserError(f"{source.name} has no tags: name a file with --tags, or make one from masks with `u2pl-ws tags --data {data}`")
    return tags_of(ids, read_tags(path, source), str(path)), path.name
