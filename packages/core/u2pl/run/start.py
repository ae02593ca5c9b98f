"""What a run begins with if `--init` names a trained network: its weights, as far as they fit."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from u2pl.cache import digest
from u2pl.errors import UserError
from u2pl.files import expanded
from u2pl.model.card import Card, Origin
from u2pl.model.folder import load_folder, locate
from u2pl.networks.config import NetworkConfig
from u2pl.networks.licenses import license_notes
from u2pl.networks.pretrained import adapted
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import COLOURS, spread
from u2pl.training.run_folder import read_config

#: Options of the network that must be equal: they decide which tensors there are.
NEEDED = ("encoder", "decoder", "width")
#: Options that may differ: the same tensors compute something else.
FREE = ("output_stride", "atrous_rates", "multi_grid")
#: The entry of config.json that holds an `Origin`.
ORIGIN = "origin"


class Beginning(NamedTuple):
    """What a run began with."""

    origin: Origin
    lines: list[str]  # for a person


@dataclass(frozen=True)
class Start:
    """A trained network, and the one that is to begin with it."""

    origin: Origin
    card: Card
    state: Mapping[str, Tensor]
    network: NetworkConfig  # of the run
    classes: tuple[str, ...]  # of the run
    channels: int = COLOURS  # of the run's images

    @classmethod
    def load(
        cls,
        init: str,
        network: NetworkConfig,
        classes: tuple[str, ...],
        channels: int = COLOURS,
    ) -> Self:
        """Read a trained network.

        Args:
            init: a run, a model's folder or a name on the hub.
            network: the run's.
            classes: the run's.
            channels: of the run's images.

        Raises:
            UserError: There is none, it is damaged, it has another encoder, decoder or width, or it
                was trained on other channels, which were not the three of photos.
        """
        found = locate(expanded(init))
        trained, card = load_folder(found.folder)
        state = trained.state_dict()
        origin = Origin(name=found.name, sha256=digest(state), encoder_weights=card.pretrained)
        if card.channels not in (COLOURS, channels):
            raise UserError(
                f"--init {init}: it takes {card.channels} channels, and this run's images have "
                f"{channels}: choose as many bands, or begin with a network of three channels"
            )
        start = cls(origin, card, state, network, classes, channels)
        needed = [name for name in NEEDED if start._differs(name)]
        if needed:
            differ = [name for name in (*NEEDED, *FREE) if start._differs(name)]
            words = [f"--set {shlex.quote(start._assignment(name))}" for name in differ]
            here, there = (
                ", ".join(f"network.{name}={getattr(config, name)}" for name in needed)
                for config in (network, card.network)
            )
            raise UserError(
                f"--init {init}: it has {there}, but this run has {here}: add {' '.join(words)}"
            )
        return start

    @property
    def beginning(self) -> Beginning:
        """Where it comes from, which parts are taken and which begin anew."""
        new = list(self._new_parts())
        taken = f"all but {'; '.join(new)}" if new else "the whole network"
        lines = [f"begins with {self.origin.name} (sha256 {self.origin.sha256[:12]}): {taken}"]
        lines += [
            f"note: network.{name} is {_plain(getattr(self.card.network, name))} there and "
            f"{_plain(getattr(self.network, name))} here"
            for name in FREE
            if self._differs(name)
        ]
        if self.card.channels != self.channels:
            lines.append(
                f"note: its first convolution takes {self.card.channels} channels, and is adapted "
                f"to {self.channels}"
            )
        first = self.card.pretrained
        if first is not None:
            notes = license_notes(first.name, self.card.weights_license)
            lines += [f"note: {note}" for note in notes]
        return Beginning(self.origin, lines)

    def fill(self, network: Segmentor) -> None:
        """Copy what fits into a network of the run; what begins anew stays as it is.

        Raises:
            UserError: The encoder normalises colours otherwise, or a tensor does not fit.
        """
        colours = self.card.normalisation
        assert colours is not None  # `load_folder` has checked it
        for name, ours, theirs in (
            ("mean", network.mean, colours.mean),
            ("deviation", network.std, colours.std),
        ):
            if self.card.channels != self.channels:
                theirs = spread(theirs, self.channels)
            if not torch.allclose(ours.flatten(), ours.new_tensor(theirs), atol=1e-4):
                raise UserError(
                    f"--init {self.origin.name}: its encoder was trained on colours normalised "
                    f"with the {name} {_plain(theirs)}, and this one normalises with "
                    f"{_plain(ours.flatten().tolist())}: add "
                    f"--set {self._assignment('encoder')}"
                )
        own, new = network.state_dict(), tuple(self._new_keys(network))
        wanted = {key: value for key, value in own.items() if not key.startswith(new)}
        given = adapted(own, self.state)
        held = {key: value.shape for key, value in given.items()}
        wrong = [key for key, value in wanted.items() if held.get(key) != value.shape]
        if wrong:
            raise UserError(
                f"--init {self.origin.name}: {len(wrong)} tensors are missing there or of another "
                f"shape; first: {wrong[0]}; make the options of network equal"
            )
        network.load_state_dict({key: given[key] for key in wanted}, strict=False)

    @property
    def _same_classes(self) -> bool:
        return self.card.classes == self.classes

    def _differs(self, name: str) -> bool:
        here, there = getattr(self.network, name), getattr(self.card.network, name)
        if name == "encoder":  # a tag says which weights it once had
            here, there = here.partition(".")[0], there.partition(".")[0]
        return bool(here != there)

    def _assignment(self, name: str) -> str:
        return f"network.{name}={_plain(getattr(self.card.network, name))}"

    def _new_parts(self) -> Iterator[str]:
        """In words; each as `_new_keys` has it."""
        there = self.card.network
        if not self._same_classes:
            yield f"the last layer, for its classes are others ({self._others()})"
        if self.network.embed_dim and self._other_head():
            if not there.embed_dim:
                yield "the representation head, for it has none"
            else:
                yield (
                    f"the representation head, for it has network.embed_dim={there.embed_dim} and "
                    f"network.embed_kernel={there.embed_kernel}"
                )
        if self.network.auxiliary and not there.auxiliary:
            yield "the auxiliary classifier, for it has none"
        if self.network.tag_classes and not there.tag_classes:
            yield "the classifier of tags, for it has none"

    def _new_keys(self, network: Segmentor) -> Iterator[str]:
        """Beginnings of the names of the tensors that are not taken."""
        there = self.card.network
        if not self._same_classes:
            yield _last_layer(network.classifier, "classifier")
            if network.auxiliary is not None:
                yield _last_layer(network.auxiliary, "auxiliary")
            yield "tagger."
        if self._other_head():
            yield "embedder."
        if not there.auxiliary:
            yield "auxiliary."
        if not there.tag_classes:
            yield "tagger."

    def _other_head(self) -> bool:
        here, there = self.network, self.card.network
        return (here.embed_dim, here.embed_kernel) != (there.embed_dim, there.embed_kernel)

    def _others(self) -> str:
        there, here = self.card.classes, self.classes
        if len(there) != len(here):
            return f"{len(there)} there, {len(here)} here"
        id = next(k for k, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
        return f"class {id} is {there[id]} there, {here[id]} here"


def read_origin(folder: Path) -> Origin | None:
    """What the run in a folder began with, as its config.json says; None without `--init`."""
    found = read_config(folder).get(ORIGIN)
    return None if found is None else Origin.model_validate(found)


def _last_layer(head: nn.Module, name: str) -> str:
    """Beginning of the names of the tensors of a head's last convolution."""
    *_, last = (key for key, part in head.named_modules(prefix=name) if isinstance(part, nn.Conv2d))
    return f"{last}."


def _plain(value: object) -> str:
    """A value as `--set` takes it."""
    if not isinstance(value, (tuple, list)):
        return str(value)
    return "[" + ", ".join(f"{each:g}" for each in value) + "]"
