"""A finished run on disk."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from u2pl.errors import UserError, explain
from u2pl.evaluate.confusion import Score
from u2pl.files import parse_json
from u2pl.model.card import ClassName, EncoderWeights
from u2pl.model.model import Model, load
from u2pl.training.run_folder import SUMMARY


class _Summary(BaseModel):
    """Entries of summary.json that are computed with; older versions wrote fewer of them."""

    model_config = ConfigDict(extra="allow")

    method: str = ""
    data: str = ""
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
    encoder_weights: EncoderWeights | None = None
    versions: dict[str, str] = Field(default_factory=dict)


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
        path = self.folder / SUMMARY
        again = f"delete it, and train --resume {shlex.quote(str(self.folder))} writes it again"
        try:
            found = parse_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self.folder} holds no finished run: it has no {SUMMARY}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); {again}") from None
        if not isinstance(found, dict):
            raise UserError(f"{path} is not the summary of a run; {again}")
        try:
            known = _Summary.model_validate(found)
        except ValidationError as error:
            raise UserError(
                f"{path} is not the summary of a run: {explain(error)}; {again}"
            ) from None
        classes = len(known.classes)
        for name, score in known.networks.items():
            if len(score.per_class_iou) != classes:
                raise UserError(
                    f"{path} is not the summary of a run: {name} has {len(score.per_class_iou)} "
                    f"scores for {classes} classes; {again}"
                )
        return found

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
