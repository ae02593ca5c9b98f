"""A task: a recipe and the data it is trained and scored on. Each app adds what its data is."""

from __future__ import annotations

import hashlib
import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from u2pl import distributed
from u2pl.cache import digest, load_cached, store_cached
from u2pl.counting import Counting, OnProgress
from u2pl.data.content import mask_doubts, photo_notes
from u2pl.data.mask_checks import black_and_white
from u2pl.data.source import Source
from u2pl.data.streams import TrainingSet
from u2pl.errors import UserError
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.evaluate.scoring import load_example, read_scored
from u2pl.maps import resize_image, shrink_factor
from u2pl.methods.discovery import file_digest, has_docstring
from u2pl.methods.method import AnyMethod
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.licenses import license_notes
from u2pl.notation import COLOURS
from u2pl.run.app import App
from u2pl.run.recipe import Recipe
from u2pl.run.request import Request
from u2pl.run.start import Beginning, Start
from u2pl.training.config import DataConfig

# Increase whenever a method's `prepare` finds something else in the same images.
_PREPARED = 1


@dataclass(frozen=True)
class Part:
    """Images that a run uses in one way."""

    role: str  # labelled, target, val, ...
    text: str  # what names the data on a command line
    source: Source
    split: str  # in words
    ids: list[str]
    masked: bool  # their masks are used
    check_all: bool = False  # `doctor` looks at every image, however many there are
    share: float = 1.0  # of the images that a step shows, in parts of a batch

    @property
    def described(self) -> str:
        """The data and the split in words, with the fingerprint."""
        return f"{self.source.name} ({self.split}; fingerprint {self.source.fingerprint()})"


class Crops(NamedTuple):
    """Parts that are cropped alike."""

    parts: tuple[Part, ...]
    data: DataConfig
    option: str = "data.long_side"  # that sets `data.long_side` of these parts


@dataclass(frozen=True)
class Task(ABC):
    """What a run does, with everything decided that needs no network.

    A subclass says which parts of the data are used, and makes the batches.
    """

    app: App
    request: Request
    recipe: Recipe
    counting: Counting

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """What is trained on; the first one is needed by every method."""

    @property
    @abstractmethod
    def scored(self) -> Part:
        """What networks are scored on; without images if none has a mask."""

    @abstractmethod
    def dataset(self, crop: int = 0) -> TrainingSet[Any]:
        """The endless stream of training batches; with another crop than the recipe's if given."""

    def crops(self) -> Iterable[Crops]:
        """How the parts are cropped."""
        return (Crops(self.streams, self.recipe.sections.data),)

    def tables(self) -> Iterable[Table | str]:
        """More of the data that `doctor` shows."""
        return ()

    def check_masks(self) -> None:
        """UserError if the masks of a part hold nothing but 0 and 255, which means ignore."""
        for part in (*self.streams, self.scored):
            words = black_and_white(part.source, part.ids) if part.masked else ""
            if words:
                raise UserError(words)

    def check_scored(self) -> None:
        """UserError if an image that networks are scored on lacks a mask, or it cannot be read."""
        scored = self.scored
        if scored.ids:
            with self.counting("reading the masks to score on") as progress:
                read_scored(scored.source, scored.ids, progress)

    def check(self) -> None:  # noqa: B027, most tasks have something to check
        """Look into the data far enough to know that a run makes sense; UserError if not."""

    def own_notes(self) -> Iterable[str]:
        """What a person should know about the data before the run starts."""
        return ()

    def own_facts(self) -> dict[str, str]:
        """What identifies the data beyond its sources."""
        return {}

    def tags_of(self, ids: Sequence[str]) -> Tensor | None:
        """Tags of the foreground classes of some images, bool [B, K]; None without tags."""
        return None

    # -- follows from these ------------------------------------------------------------------------

    @property
    def streams(self) -> tuple[Part, ...]:
        """The parts that the method sees in training."""
        return self.parts if self.recipe.kind.uses_unlabeled else self.parts[:1]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the network's classes."""
        return self.parts[0].source.classes

    @property
    def channels(self) -> int:
        """Of all images; UserError if those of one part have others than those of another."""
        first, *others = (*self.streams, self.scored)
        count = first.source.channels
        for part in others:
            if part.source.channels != count:
                raise UserError(
                    f"{part.text} has {part.source.channels} channels, and {first.text} {count}: "
                    "choose as many bands"
                )
        return count

    @property
    def protocol(self) -> EvaluationProtocol:
        """How networks are scored."""
        return self.recipe.sections.evaluate

    @property
    def evaluation(self) -> str:
        """The scored data and the protocol, printed beside every score."""
        return f"{self.scored.source.name} {self.scored.split}, {self.protocol.describe()}"

    @cached_property
    def total(self) -> int:
        """Steps; an epoch is a pass over the last of the streams."""
        return self.recipe.total(len(self.streams[-1].ids))

    @property
    def warm_steps(self) -> int:
        """Steps of the method's warm start."""
        return round(self.recipe.kind.warm_start(self.recipe.options) * self.total)

    @property
    def name(self) -> str:
        """The data in a word or two, for the run's folder."""
        return "-to-".join(part.source.name for part in self._described())

    @property
    def described(self) -> str:
        """The training data in words, for tables and cards."""
        return " to ".join(part.described for part in self._described())

    def _described(self) -> list[Part]:
        """One part of each list of images that was named."""
        return list({part.described: part for part in reversed(self.parts)}.values())[::-1]

    def facts(self) -> dict[str, object]:
        """What identifies the data, in summary.json."""
        parts = self._described()
        return {
            "data": " to ".join(part.source.name for part in parts),
            "data_fingerprint": " ".join(part.source.fingerprint() for part in parts),
            **self.own_facts(),
            "split": " to ".join(part.split for part in parts),
            "labeled": sum(len(part.ids) for part in self.streams if part.masked),
            "unlabeled": sum(len(part.ids) for part in self.streams if not part.masked),
        }

    def config(self) -> dict[str, object]:
        """What config.json says: equal for equal runs."""
        request, facts = self.request, self.facts()
        file = request.method_file
        own = {"method_file": str(file), "method_sha256": file_digest(file)} if file else {}
        asked = {name: getattr(request, name) for name in ("cpu", "deterministic", "track")}
        return {
            "app": self.app.name,
            "method_name": request.method,
            **own,
            "preset": self.recipe.preset,
            **request.data_values,
            **({} if request.init is None else {"init": request.init}),
            **{key: facts[key] for key in ("data_fingerprint", "split", *self.own_facts())},
            "seed": request.seed,
            "steps": self.total,
            **{name: value for name, value in asked.items() if value},
            "options": self.recipe.dump(),
        }

    def command(self) -> str:
        """What to type for this run, in a folder of its own choice."""
        left_out = ("out", "resume", "accept_changed_data", "baseline")
        return shlex.join([self.app.name, "train", *self.request.words(*left_out)])

    def notes(self, method: AnyMethod | None, scored: Part | None) -> list[str]:
        """What a person should know before the run starts, without repeats.

        Args:
            method: None if it cannot be built.
            scored: what networks are scored on; None if that is an error of its own.
        """
        *others, last = self.parts
        weights = method.student.encoder.weights if method is not None else None
        notes = [
            *(
                note
                for part in others
                if part.source is not last.source
                for note in part.source.notes
            ),
            *last.source.scoring_notes(),
            *(
                note
                for source, ids in _by_source([*self.parts, *([scored] if scored else [])])
                for note in photo_notes(source, ids)
            ),
            *(license_notes(weights.name, weights.license) if weights is not None else ()),
            *(_channel_notes(self.channels) if weights is not None else ()),
            *(method.notes() if method is not None else ()),
            *self.own_notes(),
        ]
        file = self.request.method_file
        if file is not None and not has_docstring(file):
            notes.append(f"{file} has no docstring: its first line would say what the method is")
        if scored is not None and not scored.ids:
            name = scored.source.name
            lacking = f"no image of {name} has a mask"
            if scored.source.strays:
                lacking = f"the masks of {name} belong to no image"
            notes.append(f"{lacking}: the network is not scored, and the last one is kept")
        return list(dict.fromkeys(notes))

    def doubts(self, scored: Part | None) -> list[str]:
        """What speaks against training on these masks, though it is possible; as `notes`."""
        parts = (*self.streams, *(() if scored is None else (scored,)))
        used = [part for part in parts if part.masked]
        return [words for source, ids in _by_source(used) for words in mask_doubts(source, ids)]

    def begin(self) -> tuple[AnyMethod, Beginning | None]:
        """The method as a run begins with it, and what its network began with; None without `init`.

        Raises:
            UserError: What `init` names is no network that can be begun with.
        """
        if self.request.init is None:
            return self.build_method(), None
        start = Start.load(self.request.init, self.network(), tuple(self.classes), self.channels)
        return self.build_method(start), start.beginning

    def build_method(self, start: Start | None = None) -> AnyMethod:
        """The network of the run's seed, filled with what it starts from, and the method around it.

        A run that is resumed needs no start: all is in its state.
        """
        torch.manual_seed(self.request.seed)
        recipe, classes = self.recipe, len(self.classes)
        network = build_segmentor(self.network(), classes, self.channels)
        if start is not None:
            start.fill(network)
        return recipe.kind(recipe.options, network, classes)

    def prepare(self, method: AnyMethod) -> None:
        """Let the method look at the labelled images, if it wants to.

        What it finds, the part of its state that changes, is cached for runs that would find the
        same: with these data, images, weights and options, and this seed.
        """
        if not method.prepares:
            return
        state = method.state_dict()
        key, before = self._prepared_key(method), {k: v.clone() for k, v in state.items()}
        found = load_cached("prepared", key)
        fits = found is not None and all(
            k in state and state[k].shape == v.shape and state[k].dtype == v.dtype
            for k, v in found.items()
        )
        # each process may see another disk, but either all of them look or none does
        if distributed.gather(torch.tensor([fits], device=method.device)).all() and found:
            with torch.no_grad():
                for name, value in found.items():
                    state[name].copy_(value)
            return
        with self.counting("looking at labelled images") as progress:
            method.prepare(self.labeled_images(progress), self.request.seed)
        changed = {k: v for k, v in state.items() if not torch.equal(v, before[k])}
        if changed and distributed.rank() == 0:
            store_cached("prepared", key, changed)

    def _prepared_key(self, method: AnyMethod) -> str:
        """What the outcome of `prepare` follows from, as 24 hex digits."""
        facts = {
            "method": [type(method).__module__, _PREPARED],
            "options": self.recipe.options.model_dump(mode="json"),
            "network": digest(method.state_dict()),
            "source": self.parts[0].source.fingerprint(),
            "ids": self.parts[0].ids,
            "long_side": self.recipe.sections.data.long_side,
            "seed": self.request.seed,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]

    def labeled_images(self, progress: OnProgress) -> Iterator[tuple[Tensor, Tensor]]:
        """All labelled images of the first part with their labels, shrunk to `data.long_side`."""
        part, long_side = self.parts[0], self.recipe.sections.data.long_side
        for done, id in enumerate(part.ids, 1):
            image, label = load_example(part.source, id)
            factor = shrink_factor((label.shape[0], label.shape[1]), long_side)
            if factor < 1:
                size = tuple(max(1, round(side * factor)) for side in label.shape)
                whole = resize_image(image[None].float(), (size[0], size[1]))
                image = whole[0].round().to(torch.uint8)
                small = F.interpolate(label[None, None].float(), size, mode="nearest-exact")
                label = small[0, 0].to(torch.uint8)
            yield image, label
            progress(done, len(part.ids))

    def network(self) -> NetworkConfig:
        """The config of the network."""
        return self.recipe.network

    def from_random_weights(self) -> Self:
        """The same task with a network that is not pretrained."""
        request = replace(self.request, init=None)
        return replace(self, request=request, recipe=self.recipe.from_random_weights())


def _channel_notes(channels: int) -> tuple[str, ...]:
    """What becomes of pretrained weights for images that are no photos."""
    if channels == COLOURS:
        return ()
    taken = "one channel" if channels == 1 else f"{channels} channels"
    return (f"the encoder's first convolution is adapted from three colours to {taken}",)


def _by_source(parts: Sequence[Part]) -> list[tuple[Source, list[str]]]:
    """The ids of some parts, in order, by the data that they are of."""
    ids: dict[int, set[str]] = {}
    for part in parts:
        ids.setdefault(id(part.source), set()).update(part.ids)
    sources = {id(part.source): part.source for part in parts}
    return [(sources[key], sorted(found)) for key, found in ids.items()]
