"""What a run can be asked: one dataclass is the command line and the Python call.

A field carries `Annotated[type, typer.Option(...)]` or `typer.Argument(...)`; its default is the
option's. An app adds fields of its own in a subclass: those name the data.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args, get_type_hints

import typer

from u2pl.errors import UserError, did_you_mean, explain, synonym
from u2pl.files import expanded

#: Fields that matter to `train` alone; other commands that take a request leave them out.
TRAIN_ONLY = ("baseline", "track", "out", "resume", "accept_changed_data", "deterministic")

#: What generators of random numbers take.
LARGEST_SEED = 2**32 - 1

Parameter = typer.models.OptionInfo | typer.models.ArgumentInfo


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every app's `train` can be asked."""

    #: Fields that name a data source, and those that name another file of the data.
    SOURCES: ClassVar[tuple[str, ...]] = ()
    FILES: ClassVar[tuple[str, ...]] = ()

    method: Annotated[
        str, typer.Argument(help="a method, see `methods`; with --resume the folder of a run")
    ] = "u2plplus"
    preset: Annotated[
        str | None,
        typer.Option(
            help="a recipe, see `presets`, or a .toml file; chosen by the data if left out"
        ),
    ] = None
    set: Annotated[
        list[str],
        typer.Option(help="section.key=value, repeatable; `show` lists all options"),
    ] = field(default_factory=list)
    init: Annotated[
        str | None,
        typer.Option(
            help="begin with a trained network instead of ImageNet weights: a run, a model folder "
            "or a name on the hub (user/name); its last layer is new if the classes are others"
        ),
    ] = None
    method_file: Annotated[
        Path | None,
        typer.Option(help="a method of your own instead of METHOD: a .py file with one Method"),
    ] = None
    steps: Annotated[
        int | None, typer.Option(min=1, help="optimizer steps, instead of the preset's")
    ] = None
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="of everything random")] = 0
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="train the method that learns from labels alone first, to see what this one adds",
        ),
    ] = False
    track: Annotated[
        list[str],
        typer.Option(help="send curves to tensorboard, wandb, mlflow, ...; repeatable"),
    ] = field(default_factory=list)
    out: Annotated[
        Path | None,
        typer.Option(help="folder of the run; runs/<data>-<method>-<n> if left out"),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="go on: train --resume FOLDER alone, or the words of a command with this",
        ),
    ] = False
    accept_changed_data: Annotated[
        bool,
        typer.Option(
            "--accept-changed-data",
            help="with --resume: images or masks may have been repaired, added or removed since",
        ),
    ] = False
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="the same numbers on every run on a GPU too; slower"),
    ] = False
    cpu: Annotated[bool, typer.Option("--cpu", help="do not use a GPU")] = False

    def __post_init__(self) -> None:
        """A file's method has the file's name."""
        file = self.method_file
        if file is None or self.method == file.stem:
            return
        if self.method == default_of(Request, "method"):
            object.__setattr__(self, "method", file.stem)
        elif not self.resume:  # else it is the folder of a run
            raise UserError(
                f"--method-file {file} and {self.method} both name a method: leave one of them out"
            )

    @classmethod
    def of(cls, **values: object) -> Self:
        """A request from Python values, checked as the command line checks them.

        `set` may be a mapping: `set={"train.lr": 1e-3}`, and `resume` the folder of a run. Raises
        UserError for an unknown name, a value of the wrong type, or one that is out of range.
        """
        from pydantic import TypeAdapter, ValidationError

        known = parameters(cls)
        for name in values:
            if name not in known:
                meant = synonym(name)
                near = did_you_mean(name, known)
                if meant is not None:
                    typed = meant.strip("-") if meant[0] == "-" else f'set={{"{meant}": ...}}'
                    near = f" (did you mean {typed}?)"
                raise UserError(f"there is no option {name!r}{near}; there are {', '.join(known)}")
        chosen = values.get("set")
        if isinstance(chosen, Mapping):
            values["set"] = [f"{key}={_toml(value)}" for key, value in chosen.items()]
        folder = values.get("resume")
        if isinstance(folder, (str, Path)):
            if "method" in values:
                raise UserError(f"resume={str(folder)!r} names the run: leave method out")
            values |= {"method": str(folder), "resume": True}
        data = cls.data_fields()
        # data is named by text, which may be a number: labeled=4
        numbers = {k for k in data if isinstance(values.get(k), (int, float))}
        given = {k: str(v) if isinstance(v, Path) or k in numbers else v for k, v in values.items()}
        hints = get_type_hints(cls)
        for name, value in given.items():  # pydantic takes true for 1, and 1 for true
            if isinstance(value, bool) != (hints[name] is bool):
                expected = "true or false" if hints[name] is bool else "a number or a text"
                raise UserError(f"{name}: write {expected}, not {value!r}")
        try:
            request: Self = TypeAdapter(cls).validate_python(given)
        except ValidationError as error:
            raise UserError(explain(error)) from None
        for name, info in known.items():
            value, least = getattr(request, name), info.min
            if least is not None and value is not None and value < least:
                raise UserError(f"{name}: {value} is below the smallest possible value, {least:g}")
            if info.max is not None and value is not None and value > info.max:
                raise UserError(f"{name}: {value} is above the largest possible value, {info.max}")
        paths: dict[str, Any] = {
            name: expanded(value)
            for name, value in vars(request).items()
            if isinstance(value, Path)
        }
        return dataclasses.replace(request, **paths)

    @classmethod
    def data_fields(cls) -> list[str]:
        """The fields that an app adds, which name the data; the first names the training data."""
        common = {each.name for each in dataclasses.fields(Request)}
        return [each.name for each in dataclasses.fields(cls) if each.name not in common]

    @classmethod
    def places(cls) -> tuple[str, ...]:
        """Fields that only say where data lies: its fingerprint tells whether it is the same."""
        return (*cls.SOURCES, *cls.FILES)

    @property
    def data_values(self) -> dict[str, object]:
        """The values that name the data."""
        return {name: getattr(self, name) for name in self.data_fields()}

    def words(self, *left_out: str) -> list[str]:
        """What to type for this request behind the command's name; defaults are left out."""
        words: list[str] = [self.method]
        for name, info in parameters(type(self)).items():
            value = getattr(self, name)
            if name in ("method", *left_out) or value == default_of(type(self), name):
                continue
            for each in value if isinstance(value, list) else [value]:
                words += [flag(name, info), *([] if isinstance(value, bool) else [str(each)])]
        return words


def parameters(request: type) -> dict[str, Parameter]:
    """What typer is told about each field of a request class: method, preset, data, the others."""
    hints = get_type_hints(request, include_extras=True)
    found = {
        each.name: next(m for m in get_args(hints[each.name])[1:] if isinstance(m, Parameter))
        for each in dataclasses.fields(request)
    }
    own = request.data_fields() if issubclass(request, Request) else []
    front = [name for name in ("method", "preset", *own) if name in found]
    return {name: found[name] for name in (*front, *(key for key in found if key not in front))}


def default_of(request: type, name: str) -> Any:
    """The default of a field; `dataclasses.MISSING` if it is required."""
    (found,) = (each for each in dataclasses.fields(request) if each.name == name)
    if found.default_factory is not dataclasses.MISSING:
        return found.default_factory()
    return found.default


def flag(name: str, info: Parameter) -> str:
    """How an option is typed."""
    declared = info.default if isinstance(info.default, str) else ""
    return declared if declared.startswith("--") else "--" + name.replace("_", "-")


def _toml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
