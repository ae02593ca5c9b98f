"""A trained network as a folder that anyone can load: model.safetensors, config.json and README.md.

config.json holds a format version, the network's config, its colours' normalisation, and what `info` says about classes, data,
protocol, method, scores and versions. Loading reads nothing else: no pretrained weights, no pickles.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from u2pl.errors import UserError
from u2pl.networks.build import build_segmentor
from u2pl.networks.card import model_card
from u2pl.networks.config import RANDOM, NetworkConfig
from u2pl.networks.segmentor import Segmentor

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def save_shared(folder: Path, network: Segmentor, info: Mapping[str, Any]) -> None:
    """Write `network` and what is known about it; at every moment a complete folder, the old or the new, can be loaded.

    Args:
        folder: Made, or replaced as a whole.
        network: Only its own weights are written.
        info: JSON values; "network" (a dumped `NetworkConfig`) and "classes" (names in order of id) are required.

    Raises:
        UserError: The disk is full or refuses; the folder is as it was.
    """
    assert {"network", "classes"} <= info.keys(), sorted(info)
    config = {"format": FORMAT, **info, "normalisation": {"mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist()}}
    files = {
        WEIGHTS: safetensors.torch.save({key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}),
        CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
        CARD: model_card(config).encode(),
    }
    new, old = _beside(folder, "new"), _beside(folder, "old")
    try:
        _settle(folder)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name, content in files.items():
            (new / name).write_bytes(content)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        _settle(folder)
        raise UserError(f"cannot write the model to {folder}: {error.strerror}; what was there is unchanged") from error
    shutil.rmtree(old, ignore_errors=True)


def load_shared(path: Path) -> tuple[Segmentor, dict[str, Any]]:
    """A network in evaluation mode on the CPU, and its config.json.

    Args:
        path: The folder, its model.safetensors, or a run folder (its `last/`).

    Raises:
        UserError: Nothing there, or anything in it that is missing, damaged, too new or does not fit.
    """
    folder = find_shared(path)
    config = _read_config(folder / CONFIG)
    network = _build(config, folder / CONFIG)
    _fill(network, folder / WEIGHTS)
    return network.eval(), config


def find_shared(path: Path) -> Path:
    """The folder that `path` names: a run's last, else its best, the folder itself, or the one around a model.safetensors."""
    path = Path(path)
    runs = [] if path.name == WEIGHTS else [path / "last", path / "best"]
    itself = path.parent if path.name == WEIGHTS else path
    folder = next((run for run in map(_complete, runs) if run.is_dir()), _complete(itself))
    if not folder.is_dir():
        raise UserError(f"no trained network at {path}: no such folder; give a run, or a folder with {WEIGHTS} and {CONFIG}")
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"no trained network in {folder}: it has no {name}; give a run, or a folder with {WEIGHTS} and {CONFIG}")
    return folder


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); copy the folder again") from error
    version = config.get("format") if isinstance(config, dict) else None
    if not isinstance(version, int) or version < 1:
        raise UserError(f"{path} is not the config of a shared network: it has no format number")
    if version > FORMAT:
        raise UserError(f"{path} has format {version}, newer than {FORMAT}, the newest this version reads; upgrade u2pl")
    return config


def _build(config: Mapping[str, Any], path: Path) -> Segmentor:
    try:
        classes, normalisation = config["classes"], config["normalisation"]
        network_config = NetworkConfig.model_validate({**config["network"], "encoder_weights": RANDOM})
        if not isinstance(classes, list) or not classes:
            raise TypeError("classes is no list of names")
        network = build_segmentor(network_config, len(classes))
        for name, buffer in (("mean", network.mean), ("std", network.std)):
            buffer.copy_(buffer.new_tensor(normalisation[name]).view(3, 1, 1))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path}: network.{'.'.join(map(str, first['loc']))}: {first['msg']}; copy the folder again or upgrade u2pl"
        ) from error
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} does not describe a network ({type(error).__name__}: {error}); copy the folder again") from error
    return network


def _fill(network: Segmentor, path: Path) -> None:
    try:
        state = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or truncated ({error}); copy it again") from error
    own: dict[str, Tensor] = network.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or [key for key in own if own[key].shape != state[key].shape]
    if wrong:
        raise UserError(
            f"{path} does not fit its {CONFIG}: {len(wrong)} tensors are missing, unknown or of another shape; first: {wrong[0]}"
        )
    network.load_state_dict(state)


def _beside(folder: Path, role: str) -> Path:
    return folder.absolute().with_name(f".{folder.absolute().name}.{role}")


def _complete(folder: Path) -> Path:
    """`folder`, or what it was before an exchange that was cut short."""
    return folder if folder.exists() else _beside(folder, "old")


def _settle(folder: Path) -> None:
    """Undo or finish an exchange of folders that was cut short."""
    old = _beside(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
