"""What a weakly supervised run trains on: images and the names of what they show."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from u2pl.counting import Counting
from u2pl.data.classes import listed
from u2pl.data.demo.scenes import DEMOS
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.streams import Stream
from u2pl.data.tags.tags import Tags, read_tags, tags_from_masks, tags_of
from u2pl.data.transforms import TrainTransform
from u2pl.errors import UserError
from u2pl.networks.config import NetworkConfig
from u2pl.run.app import App
from u2pl.run.recipe import Recipe
from u2pl.run.request import Request
from u2pl.run.task import Part, Task
from u2pl_ws.batches import TagStream
from u2pl_ws.methods.cam import CamConfig
from u2pl_ws.requests import WeakRequest

#: Share of the images from which on the tag of a class says too little of where it is.
USUAL = 0.95


@dataclass(frozen=True)
class WeakTask(Task):
    """A request, its data opened and its tags read."""

    request: WeakRequest
    source: Source
    tags: Tags
    tagged_by: str

    @property
    def parts(self) -> tuple[Part, ...]:
        split = f"{self.source.train_split}, tags from {self.tagged_by}"
        return (
            Part("tagged", self.request.data, self.source, split, list(self.tags), masked=False),
        )

    @property
    def scored(self) -> Part:
        """No images if none has a mask, which is no error: training needs tags alone."""
        source = self.source
        ids = source.split("val") if any(map(source.has_mask, source.ids())) else []
        return Part("val", self.request.data, source, "val", ids, masked=True)

    def network(self) -> NetworkConfig:
        config = super().network()
        if config.auxiliary:
            raise UserError(
                "network.auxiliary learns from labelled pixels, and tags give none: leave it out"
            )
        return config.model_copy(update={"tag_classes": len(self.classes) - 1})

    def own_facts(self) -> dict[str, str]:
        """12 hex digits over all tags."""
        facts = sorted((id, *sorted(classes)) for id, classes in self.tags.items())
        return {"tags_fingerprint": hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}

    def own_notes(self) -> Iterator[str]:
        bare = sum(not classes for classes in self.tags.values())
        if bare:
            yield f"{bare} of {len(self.tags)} images have no tag: all of them is background"
        seen = Counter(k for classes in self.tags.values() for k in classes)
        usual = [name for k, name in enumerate(self.classes) if seen[k] >= USUAL * len(self.tags)]
        if usual:
            yield (
                f"{', '.join(usual)}: tagged on {100 * USUAL:.0f} % of the images or more, where "
                "tags cannot tell what is the class and what is not; add images without"
            )

    def check(self) -> None:
        """UserError if a class is no image's tag: it could never be learnt."""
        seen = Counter(k for classes in self.tags.values() for k in classes)
        absent = [name for k, name in enumerate(self.classes) if k and not seen[k]]
        if absent:
            raise UserError(
                f"{self.source.name}: no image is tagged with {listed(absent)}: tag some, or "
                "take the classes out of classes.txt"
            )

    def tables(self) -> Iterator[Table | str]:
        """How many images each class is a tag of, and how many tags images have."""
        seen = Counter(k for classes in self.tags.values() for k in classes)
        table = Table("id", "class", "tagged images", box=None)
        for k, name in enumerate(self.classes[1:], 1):
            table.add_row(str(k), name, str(seen[k]))
        yield table
        most = Counter(map(len, self.tags.values()))
        yield "tags per image: " + ", ".join(f"{most[n]} have {n}" for n in sorted(most))

    def tags_of(self, ids: Sequence[str]) -> Tensor:
        classes = range(1, len(self.classes))
        return torch.tensor([[k in self.tags[id] for k in classes] for id in ids])

    def dataset(self, crop: int = 0) -> TagStream:
        data, seed = self.recipe.sections.data, self.request.seed
        cut = TrainTransform(crop or data.crop, data.scale, data.flip, data.long_side)
        stream = Stream(self.source, list(self.tags), cut, seed, "tagged", "never")
        return TagStream(stream, self.tags, len(self.classes))


def make_task(app: App, request: WeakRequest, recipe: Recipe, counting: Counting) -> WeakTask:
    """Open the data and read its tags; UserError for whatever cannot work."""
    source = open_source(request.data, counting)
    ids = source.split(source.train_split)
    tags, tagged_by = find_tags(source, request.data, request.tags, ids, counting)
    options = recipe.options
    if isinstance(options, CamConfig) and not options.cam.most_tags:
        most = max(1, *map(len, tags.values()))
        recipe = recipe.with_options(cam=options.cam.model_copy(update={"most_tags": most}))
    return WeakTask(app, request, recipe, counting, source, tags, tagged_by)


def parts_without_task(request: Request) -> list[Part]:
    """None: without data and tags there is nothing to look at."""
    return []


def find_tags(
    source: Source, data: str, given: str | None, ids: list[str], counting: Counting
) -> tuple[Tags, str]:
    """The tags of some images, and in words where they come from.

    They are in the file that is named, or else in the one that the source has; the built-in scenes
    take theirs from their masks.
    """
    if given is None and data in DEMOS:
        with counting("reading tags off the scenes") as progress:
            return tags_from_masks(source, ids, progress), "its masks"
    path = Path(given) if given is not None else source.tags
    if path is None:
        raise UserError(
            f"{source.name} has no tags: name a file with --tags, or make one from masks with "
            f"`u2pl-ws tags --data {shlex.quote(data)}`"
        )
    return tags_of(ids, read_tags(path, source), str(path)), path.name
