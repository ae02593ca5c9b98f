"""The state of a run, for an exact resume: one safetensors file, replaced atomically."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from u2pl.errors import UserError
from u2pl.files import parse_json, replace_file
from u2pl.methods.method import AnyMethod

FILE = "resume.safetensors"
FORMAT = "u2pl-resume-1"


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder holds a state."""
    return (folder / FILE).exists()


def saved_step(folder: Path) -> int:
    """Steps done in the state of a folder; 0 if there is none, or none that can be read."""
    try:
        with safe_open(folder / FILE, "pt") as file:
            return int(parse_json((file.metadata() or {})["facts"])["step"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return 0


def save_checkpoint(
    folder: Path, method: AnyMethod, optimizer: torch.optim.Optimizer, facts: dict[str, object]
) -> None:
    """Write what a run needs to resume: networks, memories, optimizer, `facts` (step, scores, ...).

    Learning rate, sampling and random draws follow from the step and are not saved.
    """
    tensors = {f"method.{name}": value for name, value in method.state_dict().items()}
    for index, state in _optimizer_state(optimizer).items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {"format": FORMAT, "facts": json.dumps(facts)}

    def write(path: Path) -> None:
        try:
            save_file(own, path, metadata)
            shutil.copymode(folder, path)  # it makes a file for its owner alone
            path.chmod(path.stat().st_mode & 0o666)
        except SafetensorError as error:  # safetensors' form of an OSError while writing
            raise OSError(None, str(error)) from error

    replace_file(folder / FILE, write)


def load_checkpoint(
    folder: Path, method: AnyMethod, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load the saved state into a method and its optimizer; returns the facts.

    Raises UserError if the file is damaged or belongs to another network or method.
    """
    path = folder / FILE
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); start again with another --out"
        ) from error
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a state of this version of u2pl ({FORMAT}); start again with another "
            "--out"
        )
    try:
        method.load_state_dict(
            {
                name.removeprefix("method."): t
                for name, t in tensors.items()
                if name.startswith("method.")
            }
        )
    except RuntimeError as error:
        raise UserError(
            f"{path} is of another network or method: {str(error).splitlines()[1].strip()}"
        ) from error
    try:
        facts = parse_json(metadata["facts"])
        _load_optimizer_state(optimizer, tensors)
    except (KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); start again with another --out"
        ) from error
    return cast(dict[str, Any], facts)


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {
        index: {name: value for name, value in entry.items() if isinstance(value, Tensor)}
        for index, entry in state.items()
    }


def _load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the optimizer's tensors where they were; ValueError if one is of no parameter."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, entry = name.split(".", 2)
            known = int(index) in range(len(parameters))
            if not known or value.shape not in ((), parameters[int(index)].shape):
                raise ValueError(f"{name} is of no parameter")
            state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    # fused steps walk a parameter and its averages in one order, so their layouts must be the same
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
