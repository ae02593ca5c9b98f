"""From a recipe and `--set` to one resolved config; every mistake is one line that names what is meant."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from u2pl.errors import UserError
from u2pl.evaluate.protocol import Protocol
from u2pl.networks.config import NetworkConfig
from u2pl.train.config import DataConfig, TrainConfig

Checked = TypeVar("Checked", bound=BaseModel)

#: The section of a recipe that belongs to the method.
METHOD = "method"


class Sections(BaseModel):
    """What every method shares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkConfig = Field(default_factory=lambda: NetworkConfig(), description="encoder, decoder, heads")
    data: DataConfig = Field(default_factory=lambda: DataConfig(), description="what is cut from the images")
    train: TrainConfig = Field(default_factory=lambda: TrainConfig(), description="length, batch, optimizer")
    evaluate: Protocol = Field(default_factory=lambda: Protocol(), description="how images are shown to the network when it is scored")


class Resolved(BaseModel):
    """A recipe with every value filled in."""

    model_config = ConfigDict(frozen=True)

    sections: Sections
    method: BaseModel

    def dump(self) -> dict[str, Any]:
        """JSON values by section."""
        return {**self.sections.model_dump(mode="json"), METHOD: self.method.model_dump(mode="json")}


def recipe_path(recipes: Path, name: str) -> Path:
    """The file of a shipped recipe; UserError that names the nearest when there is none."""
    path = recipes / f"{name}.toml"
    if not path.is_file():
        known = sorted(entry.stem for entry in recipes.glob("*.toml"))
        raise UserError(f"no preset {name!r}{_meant(name, known)}; there are {', '.join(known)}")
    return path


def resolve(
    recipe: Path,
    method_config: type[BaseModel],
    assignments: Sequence[str] = (),
    extra: dict[str, Any] | None = None,
    sections: type[Sections] = Sections,
) -> Resolved:
    """Defaults, then the recipe, then `extra`, then `--set` assignments.

    A recipe's [method] section serves every method: what this one has no field for is left out.

    Args:
        recipe: TOML file with sections network, data, train, evaluate, method.
        method_config: the method's own config class.
        assignments: "section.key=value" strings.
        extra: nested values of other options of the command.
        sections: what the app's methods share.
    """
    values = tomllib.loads(recipe.read_text())
    # on top of the method's own defaults: those of a nested config differ between methods
    method_values = method_config().model_dump()
    _merge(method_values, {key: value for key, value in values.get(METHOD, {}).items() if key in method_config.model_fields})
    values[METHOD] = method_values
    _merge(values, extra or {})
    known = {**{key: "" for key, _ in flat_keys(sections)}, **{f"{METHOD}.{key}": "" for key, _ in flat_keys(method_config)}}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: write it as section.key=value")
        if key not in known:
            raise UserError(f"--set {key}: there is no such option{_meant(key, list(known))}; `show` lists them all")
        nested: Any = _value(text)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge(values, nested)
    method = _validated(method_config, values.pop(METHOD), f"{METHOD}.")
    return Resolved(sections=_validated(sections, values), method=method)


def flat_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names of a model's values, and their descriptions."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from flat_keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description or ""


def _validated(model: type[Checked], values: dict[str, Any], prefix: str = "") -> Checked:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, prefix)) from error


def explain(error: ValidationError, prefix: str = "") -> str:
    """The first complaint of pydantic in one line; `prefix` is put in front of the option's name."""
    first = error.errors()[0]
    where = prefix + ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" + (f", not {first['input']!r}" if where and first["type"] != "extra_forbidden" else "")


def _value(text: str) -> Any:
    """A TOML value where it is one (numbers, true, [1, 2]), else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merge(values: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _meant(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f" (did you mean {near[0]}?)" if near else ""
