"""From a recipe and `--set` to options with every value filled in; a mistake is one clear line."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails

from u2pl.errors import UserError, did_you_mean, explain
from u2pl.files import parse_toml
from u2pl.methods.discovery import known_methods, load_method, load_method_file
from u2pl.methods.method import AnyMethod, MethodConfig
from u2pl.networks.config import RANDOM, NetworkConfig
from u2pl.run.app import App
from u2pl.run.presets import (
    Nested,
    is_own,
    preset_name,
    read_recipe,
    recipe_path,
    split_assignment,
)
from u2pl.run.request import Request
from u2pl.run.sections import METHOD, Sections, check_key, flat_keys

Checked = TypeVar("Checked", bound=BaseModel)
Shared = TypeVar("Shared", bound=BaseModel)

#: The recipe of data that has none of its own.
USUAL = "light"


class OptionRow(NamedTuple):
    """An option as it is listed."""

    key: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Recipe:
    """A method and its options, before any data is opened."""

    preset: str
    kind: type[AnyMethod]
    sections: Sections
    options: MethodConfig  # the method's own

    @classmethod
    def of(
        cls,
        app: App,
        method: str | Path,
        preset: str,
        assignments: Sequence[str] = (),
        steps: int | None = None,
    ) -> Recipe:
        """Defaults, then the preset, then `steps`, then assignments; UserError for any mistake.

        Args:
            app: whose methods and presets are meant.
            method: its name, or a file with a method of one's own.
            preset: a shipped one, or a `.toml` file.
            assignments: "section.key=value" strings.
            steps: instead of the preset's.
        """
        kind = _load(app, method)
        path = recipe_path(app.recipes, preset)
        if is_own(preset):
            _check_method_section(app, kind, path)
        extra = {} if steps is None else {"train": {"steps": steps}}
        sections = app.sections
        found = resolve(path, kind.Config, assignments, extra, sections)
        return cls(preset_name(preset), kind, *found)

    @classmethod
    def of_config(
        cls,
        app: App,
        method: str | Path,
        config: Nested,
        assignments: Sequence[str] = (),
    ) -> Recipe:
        """The recipe of a run that goes on; no preset is needed.

        Args:
            app: that trains it.
            method: its name, or the file it is in.
            config: config.json of the run.
            assignments: "section.key=value" strings on top.

        Raises:
            UserError: The options are of another version.
        """
        kind, sections = _load(app, method), app.sections
        return cls(
            config["preset"], kind, *begun_options(config, kind.Config, assignments, sections)
        )

    @classmethod
    def of_request(cls, app: App, request: Request) -> Recipe:
        """The recipe of a request; without a preset the one of its data.

        With `init`, no pretrained weights are loaded.
        """
        from u2pl.data.demo.scenes import DEMOS

        scheme = str(next(iter(request.data_values.values()))).partition(":")[0]
        usual = "demo" if scheme in DEMOS else app.presets.get(scheme, USUAL)
        chosen, method = request.preset or usual, request.method_file or request.method
        if request.steps is not None and any(
            each.partition("=")[0].strip() == "train.steps" for each in request.set
        ):
            raise UserError("--steps and --set train.steps both say how long: leave one out")
        recipe = cls.of(app, method, chosen, request.set, request.steps)
        if request.init is None:
            return recipe
        weights = recipe.sections.network.encoder_weights
        asked = any(each.partition("=")[0] == "network.encoder_weights" for each in request.set)
        if asked and weights != RANDOM:
            raise UserError(
                f"--init {request.init} and network.encoder_weights={weights} both say what to "
                "begin with: leave one of them out"
            )
        return recipe.from_random_weights()

    @property
    def network(self) -> NetworkConfig:
        """The network; without a representation head if the method has no use for one."""
        config = self.sections.network
        if not self.kind.uses_embedding:
            return config.model_copy(update={"embed_dim": 0})
        if config.embed_dim == 0:
            raise UserError(
                "network.embed_dim=0 leaves the contrast nothing to compare: set it above 0, or "
                "choose a method without contrast"
            )
        return config

    def total(self, images: int) -> int:
        """Steps of a run whose epoch has so many images."""
        train = self.sections.train
        return train.steps or max(1, round(train.epochs * images / train.batch))

    def with_options(self, **changes: object) -> Recipe:
        """The same with other options of the method."""
        return replace(self, options=self.options.model_copy(update=changes))

    def from_random_weights(self) -> Recipe:
        """The same with an encoder that is not pretrained."""
        network = self.sections.network.model_copy(update={"encoder_weights": RANDOM})
        return replace(self, sections=self.sections.model_copy(update={"network": network}))

    def dump(self) -> Nested:
        """JSON values by section."""
        sections = self.sections.model_dump(mode="json")
        return {**sections, METHOD: self.options.model_dump(mode="json")}

    def rows(self) -> list[OptionRow]:
        """Every option, its value and its meaning."""
        values = self.dump()
        keys = [*flat_keys(type(self.sections)), *flat_keys(type(self.options), f"{METHOD}.")]
        return option_rows(values, keys)


def flat_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat_values(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def option_rows(values: Nested, keys: Iterable[tuple[str, str]]) -> list[OptionRow]:
    """Options as they are listed: their names, values and meanings."""
    rows = []
    for key, text in keys:
        value: Any = values
        for part in key.split("."):
            value = value[part]
        rows.append(OptionRow(key, str(value), text))
    return rows


def _load(app: App, method: str | Path) -> type[AnyMethod]:
    """The class of a method by its name, or in a file of one's own."""
    if isinstance(method, Path):
        return load_method_file(app.methods, method)
    return load_method(f"{app.package}.methods", app.methods, method)


def _check_method_section(app: App, kind: type[AnyMethod], path: Path) -> None:
    """UserError if a recipe of one's own sets an option that no method has: a slip of the pen."""
    written = read_recipe(path).get(METHOD, {})
    known = set(kind.Config.model_fields)
    if written.keys() <= known:
        return
    for name in known_methods(app.methods):
        known |= set(_load(app, name).Config.model_fields)
    for key in written:
        if key not in known:
            near = did_you_mean(key, sorted(kind.Config.model_fields))
            raise UserError(f"{path}: {METHOD}.{key}: no method has such an option{near}")


def resolve(
    recipe: Path,
    method_config: type[MethodConfig],
    assignments: Sequence[str] = (),
    extra: Nested | None = None,
    sections: type[Shared] = Sections,  # type: ignore[assignment]
) -> tuple[Shared, MethodConfig]:
    """Defaults, then the recipe, then `extra`, then `--set` assignments.

    A recipe's [method] section serves every method: what this one has no field for is left out.

    Args:
        recipe: TOML file with sections network, data, train, evaluate, method.
        method_config: the method's own config class.
        assignments: "section.key=value" strings.
        extra: nested values of other options of the command.
        sections: what the app's methods share.
    """
    values = read_recipe(recipe)
    written = set(_typed_keys(values))
    # on top of the method's own defaults: those of a nested config differ between methods
    own = _explicit(method_config())
    fields = method_config.model_fields
    _merge(own, {key: value for key, value in values.get(METHOD, {}).items() if key in fields})
    values[METHOD] = own
    _merge(values, extra or {})
    known = _known_keys(sections, method_config)
    _assign(values, assignments, known)
    typed = {each.partition("=")[0] for each in assignments} | set(_typed_keys(extra or {}))

    def validated(model: type[Checked], part: Nested, prefix: str = "") -> Checked:
        try:
            return _strict(model, part)
        except ValidationError as error:
            first = error.errors()[0]
            where = prefix + ".".join(map(str, first["loc"]))
            of_file = _meets(where, written) and not _meets(where, typed)
            said = explain(error, prefix)
            if first["type"] == "extra_forbidden":
                said = f"{where}: there is no such option{did_you_mean(where, known)}"
            raise UserError(f"{recipe}: {said}" if of_file else said) from error

    method = validated(method_config, values.pop(METHOD), f"{METHOD}.")
    return validated(sections, values), method


def begun_options(
    config: Nested,
    method_config: type[MethodConfig],
    assignments: Sequence[str],
    sections: type[Shared] = Sections,  # type: ignore[assignment]
) -> tuple[Shared, MethodConfig]:
    """The options of a run that goes on.

    Args:
        config: config.json of the run.
        method_config: the method's own config class.
        assignments: "section.key=value" strings on top.
        sections: what the app's methods share.

    Raises:
        UserError: The options are of another version.
    """
    values = copy.deepcopy(config["options"])
    _assign(values, assignments, _known_keys(sections, method_config))
    try:
        own = _strict(method_config, values.pop(METHOD, {}))
        return _strict(sections, values), own
    except ValidationError as error:
        raise UserError(
            f"--resume: the run is of another version of the options ({explain(error)}); go on "
            "with that version, or start a new run"
        ) from None


def _known_keys(sections: type[BaseModel], method_config: type[MethodConfig]) -> list[str]:
    return [key for key, _ in (*flat_keys(sections), *flat_keys(method_config, f"{METHOD}."))]


def _assign(values: Nested, assignments: Sequence[str], known: Sequence[str]) -> None:
    """Put "section.key=value" strings into nested values; UserError for an unknown key."""
    for assignment in assignments:
        key, text = split_assignment(assignment)
        check_key(key, known)
        nested: Any = _value(text)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge(values, nested)


def _typed_keys(values: Nested, prefix: str = "") -> Iterator[str]:
    """Dotted names of nested values as they are written."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _typed_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _meets(where: str, keys: Iterable[str]) -> bool:
    """Whether a place among the options is one of these keys, inside one, or around one."""
    return any(
        where == key or where.startswith(f"{key}.") or key.startswith(f"{where}.") for key in keys
    )


def _explicit(config: BaseModel) -> Nested:
    """What a config's own class says of its nested configs; what follows from that is left out."""
    parts = {name: getattr(config, name) for name in type(config).model_fields}
    return {
        name: part.model_dump(exclude_unset=True)
        for name, part in parts.items()
        if isinstance(part, BaseModel)
    }


def _value(text: str) -> object:
    """A TOML value if it is one (numbers, true or True, [1, 2]), else the text itself."""
    if text in ("True", "False"):
        return text == "True"
    try:
        found = parse_toml(f"value = {text}")
    except ValueError:
        return text
    return found["value"] if len(found) == 1 else text  # a second line would be lost


def _strict(model: type[Checked], values: Nested) -> Checked:
    """Options as they are written: a number is no truth value, and a finite one."""
    for place, value in _endless(values):
        found = InitErrorDetails(type="finite_number", loc=place, input=value)
        raise ValidationError.from_exception_data(model.__name__, [found])
    return model.model_validate_json(json.dumps(_written(values)), strict=True)


def _endless(value: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, object]]:
    """The numbers that are NaN, infinite, or larger than any float, and where they stand."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _endless(each, (*place, key))
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value):
            yield from _endless(each, (*place, number))
    elif isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:
        yield place, value


def _written(value: object) -> object:
    """A TOML value as JSON can hold it; what JSON has no word for becomes a text."""
    if isinstance(value, Mapping):
        return {key: _written(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(each) for each in value]
    return value if isinstance(value, (str, int, float, NoneType)) else str(value)


def _merge(values: Nested, more: Nested) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value
