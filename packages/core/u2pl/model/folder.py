"""A model as a folder that anyone can load: model.safetensors, config.json and README.md.

Loading reads nothing else: no pretrained weights, no pickles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from u2pl.errors import UserError, explain
from u2pl.files import replace_folder, whole_folder
from u2pl.model.card import FORMAT, Card, Normalisation
from u2pl.model.readme import readme
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import RANDOM
from u2pl.networks.segmentor import Segmentor

WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"


def save_folder(folder: Path, network: Segmentor, card: Card) -> None:
    """Write a network and its card; at every moment the old or the new folder can be loaded whole.

    Args:
        folder: Made, or replaced as a whole.
        network: Only its own weights are written.
        card: Its normalisation is taken from the network.

    Raises:
        UserError: The disk is full or refuses; the folder is as it was.
    """
    colours = Normalisation(
        mean=network.mean.flatten().tolist(), std=network.std.flatten().tolist()
    )
    card = card.model_copy(update={"format": FORMAT, "normalisation": colours})
    weights = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in network.state_dict().items()
    }
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    replace_folder(
        folder,
        {
            WEIGHTS: safetensors.torch.save(weights),
            CONFIG: f"{text}\n".encode(),
            README: readme(card).encode(),
        },
    )


def load_folder(path: Path) -> tuple[Segmentor, Card]:
    """A network in evaluation mode on the CPU, and its card.

    Args:
        path: The folder, its model.safetensors, or a run folder (its `last/`).

    Raises:
        UserError: Nothing there, or anything in it is missing, damaged, too new or does not fit.
    """
    folder = find_folder(path)
    card = read_card(folder / CONFIG)
    network = _build(card, folder / CONFIG)
    _fill(network, card, folder / WEIGHTS)
    return network.eval(), card


def find_folder(path: Path) -> Path:
    """The folder that `path` names.

    A run's last, else its best, the folder itself, or the one around a model.safetensors.
    """
    path = Path(path)
    runs = [] if path.name == WEIGHTS else [path / "last", path / "best"]
    itself = path.parent if path.name == WEIGHTS else path
    found = (run for run in map(whole_folder, runs) if run.is_dir())
    folder = next(found, whole_folder(itself))
    expected = f"give a run, or a folder with {WEIGHTS} and {CONFIG}"
    if not folder.is_dir():
        raise UserError(f"no trained network at {path}: no such folder; {expected}")
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"no trained network in {folder}: it has no {name}; {expected}")
    return folder


def read_card(path: Path) -> Card:
    """The card in a config.json; UserError if it is unreadable, too new, or no card."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
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
        return Card.model_validate(_without_old_head(config) if version == 1 else config)
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


def _build(card: Card, path: Path) -> Segmentor:
    config = card.network.model_copy(update={"encoder_weights": RANDOM})
    network = build_segmentor(config, len(card.classes))
    if card.normalisation is None:
        raise UserError(f"{path} does not describe a network (no normalisation); copy it again")
    for buffer, value in (
        (network.mean, card.normalisation.mean),
        (network.std, card.normalisation.std),
    ):
        buffer.copy_(buffer.new_tensor(value).view(3, 1, 1))
    return network


def _fill(network: Segmentor, card: Card, path: Path) -> None:
    try:
        state = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or truncated ({error}); copy it again") from error
    own: dict[str, Tensor] = network.state_dict()
    if card.format == 1 and network.embedder is None:
        state = {key: value for key, value in state.items() if not key.startswith("embedder.")}
    wrong = sorted(own.keys() ^ state.keys()) or [k for k in own if own[k].shape != state[k].shape]
    if wrong:
        raise UserError(
            f"{path} does not fit its {CONFIG}: {len(wrong)} tensors are missing, unknown or of "
            f"another shape; first: {wrong[0]}"
        )
    network.load_state_dict(state)
