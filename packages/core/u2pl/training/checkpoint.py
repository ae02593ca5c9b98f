"""The state of a run, for an exact resume: one safetensors file, replaced atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from u2pl.errors import UserError
from u2pl.files import parse_json, replace_file
from u2pl.methods.method import AnyMethod
from u2pl.tensor_file import (
    UNCHECKED,
    Damaged,
    Held,
    Kind,
    differing,
    not_finite,
    read_facts,
    read_tensors,
    tensor_file,
)

FILE = "resume.safetensors"
#: The first format had no digest, the second holds tensors of two names twice.
FORMAT, SECOND, FIRST = "u2pl-resume-3", "u2pl-resume-2", "u2pl-resume-1"
_AGAIN = "start again with another --out"


class Loaded(NamedTuple):
    """What a state says beside its tensors."""

    facts: dict[str, Any]
    note: str  # for a person; empty if there is nothing to say


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder holds a state."""
    return (folder / FILE).exists()


def saved_step(folder: Path) -> int:
    """Steps done in the state of a folder; 0 if there is none, or none that can be read."""
    try:
        return int(parse_json(read_facts(folder / FILE)["facts"])["step"])
    except (Damaged, KeyError, TypeError, ValueError):
        return 0


def save_checkpoint(
    folder: Path, method: AnyMethod, optimizer: torch.optim.Optimizer, facts: dict[str, object]
) -> None:
    """Write what a run needs to resume: networks, memories, optimizer, `facts` (step, scores, ...).

    Learning rate, sampling and random draws follow from the step and are not saved. A tensor of two
    names, such as those of a frozen encoder that student and teacher share, is written once.
    """
    tensors = {f"method.{name}": value for name, value in method.state_dict().items()}
    shared = _shared(tensors)
    tensors = {name: value for name, value in tensors.items() if name not in shared}
    tensors |= _optimizer_tensors(optimizer)
    metadata = {"format": FORMAT, "facts": json.dumps(facts), "shared": json.dumps(shared)}
    replace_file(folder / FILE, tensor_file(tensors, metadata))


def load_checkpoint(folder: Path, method: AnyMethod, optimizer: torch.optim.Optimizer) -> Loaded:
    """Load the saved state into a method and its optimizer.

    Raises UserError if the file is damaged or belongs to another network or method.
    """
    path = folder / FILE
    try:
        held = read_tensors(path)
    except Damaged as error:
        raise UserError(f"{path} cannot be read ({error}); {_AGAIN}") from error
    version = held.facts.get("format")
    if version not in (FORMAT, SECOND, FIRST):
        raise UserError(f"{path} is not a state of this version of u2pl ({FORMAT}); {_AGAIN}")
    try:
        if version != FIRST and not held.checked:
            raise ValueError("its digest is missing")
        facts = parse_json(held.facts["facts"])
        if not isinstance(facts, dict):
            raise ValueError("its facts are none")
        own, theirs = _parts(held.tensors | (_again(held) if version == FORMAT else {}))
        _check_method(method, own)
        state = _optimizer_state(optimizer, theirs)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); {_AGAIN}") from error
    except _Other as error:
        raise UserError(f"{path} is of another network or method: {error}") from error
    method.load_state_dict(own)
    _load_optimizer(optimizer, state)
    return Loaded(facts, "" if held.checked else f"{path} {UNCHECKED}")


def _shared(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that are, number for number in memory, one of an earlier name: that name."""
    first: dict[tuple[object, ...], str] = {}
    found = {}
    for name, value in tensors.items():
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        earlier = first.setdefault(place, name)
        if earlier != name and value.numel():
            found[name] = earlier
    return found


def _again(held: Held) -> dict[str, Tensor]:
    """The tensors that are written under another name; ValueError if one is not."""
    shared = parse_json(held.facts["shared"])
    if not isinstance(shared, dict) or not held.tensors.keys() >= {*map(str, shared.values())}:
        raise ValueError("a tensor of two names is under none")
    return {name: held.tensors[str(first)] for name, first in shared.items()}


class _Other(Exception):
    """The state does not fit what is to go on with it."""


def _parts(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The method's tensors and the optimizer's, without what their names begin with."""
    parts: dict[str, dict[str, Tensor]] = {"method": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise ValueError(f"{name} is of neither method nor optimizer")
        parts[part][rest] = value
    return parts["method"], parts["optimizer"]


def _check_method(method: AnyMethod, found: Mapping[str, Tensor]) -> None:
    """_Other if the tensors are those of another method, ValueError if a number is not finite."""
    wanted = method.state_dict()
    kinds = ({key: Kind.of(each) for key, each in of.items()} for of in (wanted, found))
    said = differing(*kinds)
    if said:
        raise _Other(said)
    said = not_finite(found)
    if said:
        raise ValueError(f"it holds {said}")


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": value
        for index, entry in state.items()
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }


def _optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> dict[int, dict[str, Tensor]]:
    """The optimizer's tensors by the number of their parameter.

    Raises ValueError if one is of no parameter or no number, or some are missing. A parameter that
    had no gradient yet has none; the digest tells if one that had some has lost them.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, entry = name.partition(".")
        known = int(index) in range(len(parameters))
        if (
            not known
            or value.shape not in ((), parameters[int(index)].shape)
            or not value.is_floating_point()
        ):
            raise ValueError(f"optimizer.{name} is of no parameter")
        state.setdefault(int(index), {})[entry] = value
    said = not_finite(tensors)
    if said:
        raise ValueError(f"the optimizer holds {said}")
    if len({frozenset(entry) for entry in state.values()}) != 1:
        raise ValueError("tensors of the optimizer are missing")
    return state


def _load_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Tensor]]
) -> None:
    """Put the optimizer's tensors where they were."""
    optimizer.load_state_dict(
        {
            "state": {index: dict(entry) for index, entry in state.items()},
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )
    # fused steps walk a parameter and its averages in one order, so their layouts must be the same
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            like = parameter if value.shape == parameter.shape else value
            # a copy in any case: what is mapped to the file would keep it on the disk
            entry[name] = torch.empty_like(like, dtype=value.dtype).copy_(value)
