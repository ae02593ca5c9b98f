"""The options that all methods share, and options by their dotted names. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field

from u2pl.errors import UserError, did_you_mean
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.networks.config import NetworkConfig
from u2pl.training.config import DataConfig, TrainConfig

#: The section of a recipe that belongs to the method.
METHOD = "method"


class Sections(BaseModel):
    """Options that all methods share; an app may have a subclass in its `sections.py`."""

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


def flat_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names of a model's values, and their descriptions."""
    for name, found in model.model_fields.items():
        kind = found.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from flat_keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", found.description or ""


def check_key(key: str, known: Sequence[str]) -> None:
    """UserError if no option has this dotted name; says which may be meant."""
    if key not in known:
        near = meant_by(key, known)
        raise UserError(f"--set {key}: there is no such option{near}; `show` lists them all")


def meant_by(key: str, known: Sequence[str]) -> str:
    """The options that a name which is none may mean, for its error; empty if none is near."""
    inside = [name for name in known if name.startswith(f"{key}.")][:1]
    meant = inside or [name for name in known if name.endswith(f".{key}")]
    return f" (did you mean {' or '.join(meant[:3])}?)" if meant else did_you_mean(key, known, 0.75)
