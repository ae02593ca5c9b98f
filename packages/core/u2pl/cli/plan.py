"""From what was typed to a plan: everything decided that does not need a GPU. Each app adds what its data is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from u2pl.cli.app import App
from u2pl.cli.config import Resolved, recipe_path, resolve
from u2pl.cli.discovery import load_method
from u2pl.data.source import Source
from u2pl.evaluate.protocol import Protocol
from u2pl.method import Method
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import RANDOM, NetworkConfig


@dataclass(frozen=True)
class Request:
    """What every app's `train` and `doctor` can be asked."""

    method: str = "u2plplus"
    preset: str | None = None
    assignments: tuple[str, ...] = ()
    steps: int | None = None
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    deterministic: bool = False
    cpu: bool = False


@dataclass(frozen=True)
class Recipe:
    """A method and its options, before any data is looked at."""

    preset: str
    kind: type[Method]
    resolved: Resolved

    @classmethod
    def of(cls, app: App, request: Request, usual: str) -> Recipe:
        """What a request means; `usual` is the preset when it names none. UserError for whatever cannot work."""
        kind = load_method(f"{app.package}.methods", app.methods, request.method)
        preset = request.preset or usual
        extra: dict[str, Any] = {} if request.steps is None else {"train": {"steps": request.steps}}
        return cls(preset, kind, resolve(recipe_path(app.recipes, preset), kind.Config, request.assignments, extra, app.sections()))

    def total(self, images: int) -> int:
        """Steps of a run whose epoch has so many images."""
        train = self.resolved.sections.train
        return train.steps or max(1, round(train.epochs * images / train.batch))


@dataclass(frozen=True)
class Plan(ABC):
    """A request with everything decided that does not need a network."""

    app: App
    request: Request
    recipe: Recipe
    total: int  # steps

    @property
    @abstractmethod
    def name(self) -> str:
        """The data in a word or two, for the run's folder."""

    @property
    @abstractmethod
    def scored(self) -> Source:
        """The data that networks are scored on; its classes are the network's."""

    @property
    @abstractmethod
    def scored_split(self) -> str:
        """Which of its lists."""

    @property
    def scored_ids(self) -> list[str]:
        """The images that networks are scored on; none where there is nothing to score with."""
        return self.scored.split(self.scored_split)

    @property
    @abstractmethod
    def scored_as(self) -> str:
        """What names the scored data on a command line."""

    @property
    @abstractmethod
    def streams(self) -> dict[str, int]:
        """What a step shows a batch of each, and how many images of it there are."""

    @property
    @abstractmethod
    def described(self) -> str:
        """The training data in words, for tables and cards."""

    @abstractmethod
    def asked(self) -> dict[str, Any]:
        """What config.json says of the data; equal for equal runs."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What summary.json says of the data."""

    @abstractmethod
    def notes(self) -> list[str]:
        """What a person should know before the run starts."""

    @abstractmethod
    def words(self) -> list[str]:
        """The command line's options that name the data."""

    @abstractmethod
    def check(self) -> None:
        """Look into the data as far as it takes to know that a run would make no sense; UserError then."""

    @abstractmethod
    def build_dataset(self) -> Dataset[Any]:
        """The endless streams of training images."""

    @property
    def kind(self) -> type[Method]:
        """The method's class."""
        return self.recipe.kind

    @property
    def sections(self) -> Any:
        """The options that every method shares."""
        return self.recipe.resolved.sections

    @property
    def options(self) -> Any:
        """The method's own options."""
        return self.recipe.resolved.method

    @property
    def protocol(self) -> Protocol:
        """How networks are scored."""
        protocol: Protocol = self.sections.evaluate
        return protocol

    @property
    def network(self) -> NetworkConfig:
        """The network's config; without a representation head where the method has no use for one."""
        config: NetworkConfig = self.sections.network
        return config if self.kind.uses_embedding else config.model_copy(update={"embed_dim": 0})

    @property
    def warm_steps(self) -> int:
        """Steps of the method's warm start."""
        return round(getattr(self.options, "warm_start", 0.0) * self.total)

    def dump(self) -> dict[str, Any]:
        """What is written to config.json; equal for equal runs."""
        request = self.request
        head = {"app": self.app.name, "method_name": request.method, "preset": self.recipe.preset, **self.asked()}
        return {**head, "seed": request.seed, "steps": self.total, "options": self.recipe.resolved.dump()}

    def build_method(self) -> Method:
        """The network of the run's seed, and the method around it."""
        torch.manual_seed(self.request.seed)
        classes = len(self.scored.classes)
        return self.kind(self.options, build_segmentor(self.network, classes), classes)

    def from_random_weights(self) -> Plan:
        """The same plan with an encoder that is not pretrained."""
        sections = self.sections.model_copy(update={"network": self.sections.network.model_copy(update={"encoder_weights": RANDOM})})
        return replace(self, recipe=replace(self.recipe, resolved=self.recipe.resolved.model_copy(update={"sections": sections})))
