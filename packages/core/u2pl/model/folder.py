"""A model as a folder that anyone can load: model.safetensors, config.json and README.md.

Loading reads nothing else: no pretrained weights, no pickles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError

from u2pl.errors import UserError, explain
from u2pl.files import parse_json, replace_folder, whole_folder
from u2pl.model.card import FORMAT, Card, Normalisation
from u2pl.model.hub import fetch, hub_name
from u2pl.model.readme import readme
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import RANDOM
from u2pl.networks.pretrained import check_finite
from u2pl.networks.segmentor import Segmentor

T = TypeVar("T")

WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"


#: First bytes of a file of `torch.save`: a zip archive, or a bare pickle.
PICKLES = (b"PK", b"\x80")
#: Types of numbers as safetensors spells them.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Found(NamedTuple):
    """Where a network lies."""

    folder: Path  # with its three files
    name: str  # what to call it: the folder, or the hub's name with the commit
    beside: Path  # where results on it go: its folder, or the current one for the hub's


def save_folder(
    folder: Path, network: Segmentor, card: Card, more: Mapping[str, bytes] | None = None
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


def folder_files(network: Segmentor, card: Card, name: str = "FOLDER") -> dict[str, bytes]:
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
    weights = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in network.state_dict().items()
    }
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return {
        WEIGHTS: safetensors.torch.save(weights),
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
    _fill(network, card, folder / WEIGHTS)
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


def check_fit(card: Card, folder: Path) -> None:
    """UserError if the weights in a folder are not those of the card's network.

    The network is built without memory and compared with the file's header, so that a damaged
    config or header cannot ask for more memory than the file has bytes.
    """
    path = folder / WEIGHTS
    try:
        network = _outline(card, folder / CONFIG)
        own = {k: ([*v.shape], DTYPES[v.dtype]) for k, v in network.state_dict().items()}
    except UserError:
        raise
    except Exception as error:  # whatever numbers that make no sense can raise in torch and timm
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder / CONFIG} describes no network ({reason})") from error
    given = _header(path)
    if card.format == 1 and network.embedder is None:
        given = _without_embedder(given)
    wrong = sorted(own.keys() ^ given.keys()) or [key for key in own if own[key] != given[key]]
    if not wrong:
        return
    key, said = wrong[0], ""
    if key in own and key in given:
        (shape, kind), (theirs, their_kind) = own[key], given[key]
        said = f" ({their_kind} {theirs}, not {kind} {shape})"
    raise UserError(
        f"{path} does not fit its {CONFIG}: {len(wrong)} tensors are missing, unknown or of "
        f"another shape or type; first: {key}{said}"
    )


def _outline(card: Card, path: Path) -> Segmentor:
    """The card's network without memory, if its encoder can be built so: ours and timm's can."""
    try:
        with torch.device("meta"):
            return _build(card, path)
    except NotImplementedError:  # its code looks at numbers that are not there
        return _build(card, path)


def _header(path: Path) -> dict[str, tuple[list[int], str]]:
    """Shape and type of each tensor of a file, without reading any."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
            # safetensors: eight bytes of length, which may look like anything, then JSON
            if start.startswith(PICKLES) and start[8:] != b"{":
                raise UserError(
                    f"{path} is a pickle by another name, which could run code: it is not opened; "
                    "get the safetensors file"
                )
        with safetensors.safe_open(path, "pt") as held:
            slices = {key: held.get_slice(key) for key in held.keys()}  # noqa: SIM118, not a dict
            return {k: ([*v.get_shape()], v.get_dtype()) for k, v in slices.items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or truncated ({error}); copy it again") from error


def _build(card: Card, path: Path) -> Segmentor:
    # nothing is trained here, so nothing needs to be computed twice
    config = card.network.model_copy(update={"encoder_weights": RANDOM, "checkpointing": False})
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
    if card.format == 1 and network.embedder is None:
        state = _without_embedder(state)
    check_finite(state, str(path))
    network.load_state_dict(state)


def _without_embedder(state: Mapping[str, T]) -> dict[str, T]:
    return {key: value for key, value in state.items() if not key.startswith("embedder.")}
