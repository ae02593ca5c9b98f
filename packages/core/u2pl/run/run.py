"""A finished run on disk."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationError,
    model_validator,
)

from u2pl.errors import UserError, explain
from u2pl.evaluate.confusion import Score
from u2pl.files import parse_json
from u2pl.model.card import ClassName, EncoderWeights
from u2pl.model.model import Model, load
from u2pl.training.run_folder import SUMMARY


class _Summary(BaseModel):
    """Entries of summary.json that are computed with or said; older versions wrote fewer."""

    model_config = ConfigDict(extra="allow", strict=True)

    method: str = ""
    split: str = ""
    data: str = ""
    labeled: int = 0
    unlabeled: int = 0
    options: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    classes: list[ClassName] = Field(default_factory=list)
    scored: int | None = None
    steps: int = 0
    seconds: FiniteFloat = 0
    network: str = ""
    networks: dict[str, Score] = Field(default_factory=dict)
    evaluation: str = ""
    miou_last: FiniteFloat = 0
    miou_best: FiniteFloat = 0
    step_best: int = 0
    miou_interval: tuple[FiniteFloat, FiniteFloat] | None = None
    subset_miou: dict[str, dict[str, FiniteFloat | None]] = Field(default_factory=dict)
    encoder_weights: EncoderWeights | None = None
    peak_gpu_bytes: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _scores_are_whole(self) -> _Summary:
        for name, score in self.networks.items():
            if len(score.per_class_iou) != len(self.classes):
                found, classes = len(score.per_class_iou), len(self.classes)
                raise ValueError(f"{name} has {found} scores for {classes} classes")
        if self.network and self.networks and self.network not in self.networks:
            raise ValueError(f"it has no scores of the {self.network}, which was kept")
        return self


#: What is said of every finished run, and of one that was scored.
NEEDED = (
    *("method", "split", "labeled", "unlabeled", "options", "classes", "steps", "seconds"),
    "network",
)
SCORED = ("evaluation", "miou_last", "miou_best", "step_best")


@dataclass(frozen=True)
class Run:
    """A folder that training has written.

    Args:
        folder: with config.json, summary.json, last/ and best/.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json: scores, options and circumstances; UserError if the run is not finished."""
        path, again = self.folder / SUMMARY, self._again
        try:
            text = path.read_text(encoding="utf-8")
            found = parse_json(text)
        except FileNotFoundError:
            raise UserError(f"{self.folder} holds no finished run: it has no {SUMMARY}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); {again}") from None
        if not isinstance(found, dict):
            raise UserError(f"{path} is not the summary of a run; {again}")
        try:
            _Summary.model_validate_json(text)
        except ValidationError as error:
            raise UserError(
                f"{path} is not the summary of a run: {explain(error)}; {again}"
            ) from None
        return found

    @property
    def whole_summary(self) -> dict[str, Any]:
        """The summary; UserError if it lacks what is said of a finished run."""
        found = self.summary
        needed = (*NEEDED, *(SCORED if found.get("networks") else ()))
        missing = [name for name in needed if name not in found]
        if missing:
            raise UserError(
                f"{self.folder / SUMMARY} does not say {', '.join(missing)}: {self._again}"
            )
        return found

    @property
    def _again(self) -> str:
        resume = f"train --resume {shlex.quote(str(self.folder))}"
        return f"delete it, and {resume} writes it again"

    @property
    def scores(self) -> dict[str, Score]:
        """The last evaluation, by network; empty if nothing could be scored."""
        return {name: Score(**entry) for name, entry in self.summary.get("networks", {}).items()}

    @cached_property
    def model(self) -> Model:
        """The network of the last step."""
        return load(self.folder / "last")

    @cached_property
    def best(self) -> Model:
        """The network with the highest mIoU; the last one if nothing could be scored."""
        return load(self.folder / "best") if (self.folder / "best").is_dir() else self.model
