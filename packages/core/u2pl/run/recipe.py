"""From a recipe and `--set` to options with every value filled in; a mistake is one clear line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from u2pl.errors import UserError, did_you_mean, explain
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.methods.discovery import load_method
from u2pl.methods.method import AnyMethod, MethodConfig
from u2pl.networks.config import RANDOM, NetworkConfig
from u2pl.run.app import App
from u2pl.run.request import Request
from u2pl.training.config import DataConfig, TrainConfig

Checked = TypeVar("Checked", bound=BaseModel)
Shared = TypeVar("Shared", bound=BaseModel)

#: Values by section and name, as TOML and JSON hold them.
Nested = dict[str, Any]
#: The section of a recipe that belongs to the method.
METHOD = "method"
#: The recipe of data that has none of its own.
USUAL = "light"


class Sections(BaseModel):
    """Options that all methods share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkConfig = Field(
        default_factory=lambda: NetworkConfig(), description="encoder, decoder, heads"
    )
    data: DataConfig = Field(
        default_factory=lambda: DataConfig(), description="crops and augmentation"
    )
    train: TrainConfig = Field(
        default_factory=lambda: TrainConfig(), description="length, batch, optimizer"
    )
    evaluate: EvaluationProtocol = Field(
        default_factory=lambda: EvaluationProtocol(), description="evaluation protocol"
    )


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
        method: str,
        preset: str,
        assignments: Sequence[str] = (),
        steps: int | None = None,
    ) -> Recipe:
        """Defaults, then the preset, then `steps`, then assignments; UserError for any mistake."""
        kind = load_method(f"{app.package}.methods", app.methods, method)
        path = recipe_path(app.recipes, preset)
        extra = {} if steps is None else {"train": {"steps": steps}}
        return cls(
            preset, kind, *resolve(path, kind.Config, assignments, extra, app.task_module.SECTIONS)
        )

    @classmethod
    def of_request(cls, app: App, request: Request) -> Recipe:
        """The recipe of a request; without a preset the one of its data.

        With `init`, no pretrained weights are loaded.
        """
        from u2pl.data.demo.scenes import DEMOS

        scheme = str(next(iter(request.data_values.values()))).partition(":")[0]
        usual = "demo" if scheme in DEMOS else app.presets.get(scheme, USUAL)
        chosen = request.preset or usual
        recipe = cls.of(app, request.method, chosen, request.set, request.steps)
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


def recipe_path(recipes: Path, name: str) -> Path:
    """The file of a shipped recipe; UserError that suggests the nearest if there is none."""
    path = recipes / f"{name}.toml"
    if not path.is_file():
        known = sorted(entry.stem for entry in recipes.glob("*.toml"))
        near = did_you_mean(name, known, 0.4)
        raise UserError(f"no preset {name!r}{near}; there are {', '.join(known)}")
    return path


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
    values = tomllib.loads(recipe.read_text(encoding="utf-8"))
    # on top of the method's own defaults: those of a nested config differ between methods
    own = _explicit(method_config())
    fields = method_config.model_fields
    _merge(own, {key: value for key, value in values.get(METHOD, {}).items() if key in fields})
    values[METHOD] = own
    _merge(values, extra or {})
    known = [key for key, _ in (*flat_keys(sections), *flat_keys(method_config, f"{METHOD}."))]
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: write it as section.key=value")
        if key not in known:
            inside = [name for name in known if name.startswith(f"{key}.")]
            near = f" (did you mean {inside[0]}?)" if inside else did_you_mean(key, known, 0.75)
            raise UserError(f"--set {key}: there is no such option{near}; `show` lists them all")
        nested: Any = _value(text)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge(values, nested)
    method = _validated(method_config, values.pop(METHOD), f"{METHOD}.")
    return _validated(sections, values), method


def _explicit(config: BaseModel) -> Nested:
    """What a config's own class says of its nested configs; what follows from that is left out."""
    parts = {name: getattr(config, name) for name in type(config).model_fields}
    return {
        name: part.model_dump(exclude_unset=True)
        for name, part in parts.items()
        if isinstance(part, BaseModel)
    }


def flat_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names of a model's values, and their descriptions."""
    for name, found in model.model_fields.items():
        kind = found.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from flat_keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", found.description or ""


def _validated(model: type[Checked], values: Nested, prefix: str = "") -> Checked:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, prefix)) from error


def _value(text: str) -> object:
    """A TOML value if it is one (numbers, true, [1, 2]), else the text itself."""
    try:
        found: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return found


def _merge(values: Nested, more: Nested) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value
