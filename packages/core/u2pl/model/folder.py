"""A model as a folder that anyone can load: model.safetensors, config.json and README.md.

Loading reads nothing else: no pretrained weights, no pickles.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import nn

from u2pl.errors import UserError, explain, one_line
from u2pl.files import Content, parse_json, replace_folder, whole_folder
from u2pl.model.card import FORMAT, Card, Normalisation
from u2pl.model.hub import fetch, hub_name
from u2pl.model.readme import readme
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import RANDOM
from u2pl.networks.pretrained import check_finite
from u2pl.networks.segmentor import Segmentor
from u2pl.tensor_file import (
    UNCHECKED,
    Damaged,
    Kind,
    differing,
    read_kinds,
    read_tensors,
    tensor_file,
)

logger = logging.getLogger(__name__)

WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"


#: First bytes of a file of `torch.save`: a zip archive, or a bare pickle.
PICKLES = (b"PK", b"\x80")


class Found(NamedTuple):
    """Where a network lies."""

    folder: Path  # with its three files
    name: str  # what to call it: the folder, or the hub's name with the commit
    beside: Path  # where results on it go: its folder, or the current one for the hub's


def save_folder(
    folder: Path, network: Segmentor, card: Card, more: Mapping[str, Content] | None = None
) -> None:
    """Write a network and its card; at every moment the old or the new folder can be loaded whole.

    Args:
        folder: Made, or replaced as a whole.
        network: Only its own weights are written.
        card: Its normalisation is taken from the network.
        more: Other files by name.

    Raises:
        UserError: The disk is full or refuses; the folder is as it was.
    """
    replace_folder(folder, {**folder_files(network, card), **(more or {})})


def folder_files(network: Segmentor, card: Card, name: str = "FOLDER") -> dict[str, Content]:
    """What a model's folder holds, by file name.

    Args:
        network: Only its own weights are written.
        card: Its normalisation is taken from the network.
        name: What to type for the folder, in the commands of the README.
    """
    colours = Normalisation(
        mean=network.mean.flatten().tolist(), std=network.std.flatten().tolist()
    )
    card = card.model_copy(update={"format": FORMAT, "normalisation": colours})
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return {
        WEIGHTS: tensor_file(network.state_dict()),
        CONFIG: f"{text}\n".encode(),
        README: readme(card, name).encode(),
    }


def load_folder(path: Path) -> tuple[Segmentor, Card]:
    """A network in evaluation mode on the CPU, and its card.

    Args:
        path: The folder, its model.safetensors, a run folder (its `last/`), or a name on the hub.

    Raises:
        UserError: Nothing there, or anything in it is missing, damaged, too new or does not fit.
    """
    folder = find_folder(path)
    card = read_card(folder / CONFIG)
    check_fit(card, folder)
    network = _build(card, folder / CONFIG)
    fill_network(network, folder / WEIGHTS, _left_out(card, network))
    return network.eval(), card


def find_folder(path: Path) -> Path:
    """The folder that `path` names; see `locate`."""
    return locate(path).folder


def locate(path: Path) -> Found:
    """The network that `path` names.

    A run's last, else its best, the folder itself, the one around a model.safetensors, or, if there
    is nothing of this name, what the hub has under it: `user/name` or `user/name@revision`.

    Raises:
        UserError: There is no network, or the hub does not give it.
    """
    path = Path(path)
    runs = [] if path.name == WEIGHTS else [path / "last", path / "best"]
    itself = path.parent if path.name == WEIGHTS else path
    found = (run for run in map(whole_folder, runs) if run.is_dir())
    folder = next(found, whole_folder(itself))
    name, beside = str(folder), folder
    expected = f"give a run, or a folder with {WEIGHTS} and {CONFIG}"
    if not folder.exists() and (known := hub_name(path)) is not None:
        folder = fetch(known, [WEIGHTS, CONFIG, README])
        name, beside = str(known._replace(revision=folder.name)), Path()
    elif not folder.is_dir():
        raise UserError(
            f"no trained network at {path}: no such folder; {expected}, or a name on the hub"
        )
    for file in (WEIGHTS, CONFIG):
        if not (folder / file).is_file():
            raise UserError(f"no trained network in {name}: it has no {file}; {expected}")
    return Found(folder, name, beside)


def read_card(path: Path) -> Card:
    """The card in a config.json; UserError if it is unreadable, too new, or no card."""
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); copy the folder again") from error
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(version, int) or version < 1:
        raise UserError(f"{path} is not the config of a shared network: it has no format number")
    if version > FORMAT:
        raise UserError(
            f"{path} has format {version}, newer than {FORMAT}, the newest this version reads; "
            "upgrade u2pl"
        )
    try:
        whole = _without_old_head(config) if version == 1 else config
        # as JSON: lists stand for tuples there, but no truth value for a number
        return Card.model_validate_json(json.dumps(whole), strict=True)
    except ValidationError as error:
        reason = explain(error)
        raise UserError(f"{path}: {reason}; copy the folder again or upgrade u2pl") from error


def _without_old_head(config: dict[str, Any]) -> dict[str, Any]:
    """A card of format 1, without the representation head that is built otherwise today.

    Only training uses it.
    """
    network = config.get("network")
    if isinstance(network, dict) and network.get("decoder") in ("daformer", "segformer"):
        return {**config, "network": {**network, "embed_dim": 0}}
    return config


def check_fit(card: Card, folder: Path) -> None:
    """UserError if the weights in a folder are not those of the card's network.

    The network is built without memory and compared with the file's header, so that a damaged
    config or header cannot ask for more memory than the file has bytes.
    """
    path = folder / WEIGHTS
    try:
        network = _outline(card, folder / CONFIG)
        own = {key: Kind.of(value) for key, value in network.state_dict().items()}
    except UserError:
        raise
    except Exception as error:  # whatever numbers that make no sense can raise in torch and timm
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder / CONFIG} describes no network ({reason})") from error
    check_kinds(own, path, CONFIG, _left_out(card, network))


def check_kinds(
    own: Mapping[str, Kind], path: Path, config: str, left_out: tuple[str, ...] = ()
) -> None:
    """UserError if a file of weights holds no such tensors, without reading any.

    Args:
        own: what there should be.
        path: of the file.
        config: name of the file beside it that describes the network.
        left_out: what the names of tensors begin with that are not needed.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        # safetensors: eight bytes of length, which may look like anything, then JSON
        if start.startswith(PICKLES) and start[8:] != b"{":
            raise UserError(
                f"{path} is a pickle by another name, which could run code: it is not opened; get "
                "the safetensors file"
            )
        found = read_kinds(path)
    except (Damaged, OSError) as error:
        raise UserError(f"{path} is damaged or truncated ({error}); copy it again") from error
    said = differing(
        own, {key: kind for key, kind in found.items() if not key.startswith(left_out)}
    )
    if said:
        raise UserError(f"{path} does not fit its {config}: {said}")


def fill_network(network: nn.Module, path: Path, left_out: tuple[str, ...] = ()) -> None:
    """Load weights that fit, see `check_kinds`; says so if nothing tells whether they are damaged.

    Raises:
        UserError: The file is damaged, or a number is not finite.
    """
    try:
        held = read_tensors(path)
    except Damaged as error:
        raise UserError(f"{path} is damaged or truncated ({error}); copy it again") from error
    state = {key: value for key, value in held.tensors.items() if not key.startswith(left_out)}
    check_finite(state, str(path))
    network.load_state_dict(state)
    if not held.checked:
        logger.warning("note: %s", one_line(f"{path} {UNCHECKED}"))


def _left_out(card: Card, network: Segmentor) -> tuple[str, ...]:
    """Of a card of format 1 the representation head, which is built otherwise today."""
    return ("embedder.",) if card.format == 1 and network.embedder is None else ()


def _outline(card: Card, path: Path) -> Segmentor:
    """The card's network without memory, if its encoder can be built so: ours and timm's can."""
    try:
        with torch.device("meta"):
            return _build(card, path)
    except NotImplementedError:  # its code looks at numbers that are not there
        return _build(card, path)


def _build(card: Card, path: Path) -> Segmentor:
    # nothing is trained here, so nothing needs to be computed twice
    config = card.network.model_copy(update={"encoder_weights": RANDOM, "checkpointing": False})
    network = build_segmentor(config, len(card.classes), card.channels)
    if card.normalisation is None:
        raise UserError(f"{path} does not describe a network (no normalisation); copy it again")
    for buffer, value in (
        (network.mean, card.normalisation.mean),
        (network.std, card.normalisation.std),
    ):
        buffer.copy_(buffer.new_tensor(value).view(-1, 1, 1))
    return network
