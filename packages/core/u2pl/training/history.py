"""What happened in a run so far: the part of its state that is no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from u2pl.errors import UserError, explain
from u2pl.evaluate.confusion import Score


class EvaluationEntry(BaseModel):
    """Scores by network after so many steps, as a file holds them."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Score]

    step: NonNegativeInt


class Evaluation(NamedTuple):
    """Scores of a method's networks after some steps."""

    step: int
    scores: dict[str, Score]  # by role

    def entry(self) -> dict[str, object]:
        """As written to journal, state and summary."""
        return {"step": self.step, **{name: s._asdict() for name, s in self.scores.items()}}

    @classmethod
    def of(cls, entry: EvaluationEntry) -> Self:
        """The inverse of `entry`."""
        return cls(entry.step, entry.__pydantic_extra__)


class _Facts(BaseModel):
    """A history as a state holds it; older versions wrote neither scaler nor threads."""

    model_config = ConfigDict(extra="forbid", strict=True)

    step: NonNegativeInt
    seconds: Annotated[FiniteFloat, Field(ge=0)]
    evaluations: list[EvaluationEntry]
    best: EvaluationEntry | dict[str, None]
    scaler: dict[str, int | FiniteFloat] = Field(default_factory=dict)
    threads: NonNegativeInt = 0

    @model_validator(mode="after")
    def _in_order(self) -> _Facts:
        steps = [each.step for each in self.evaluations]
        if steps != sorted({*steps}) or (steps and steps[-1] > self.step):
            raise ValueError(f"evaluations after {steps} of {self.step} steps")
        if self.best not in self.evaluations if self.evaluations else self.best:
            raise ValueError("the best evaluation is none of them")
        return self


@dataclass
class History:
    """The part of a run's state that is no tensor."""

    step: int = 0  # steps done
    seconds: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)
    best: Evaluation | None = None  # the one with the highest mIoU of the method's first network
    scaler: Mapping[str, float] = field(default_factory=dict)  # float16's gradient scaler
    threads: int = 0  # of each process, from the first step on; 0 = not known

    def dump(self) -> dict[str, object]:
        """JSON values."""
        best = self.best.entry() if self.best is not None else {}
        evaluations = [each.entry() for each in self.evaluations]
        return {**vars(self), "evaluations": evaluations, "best": best}

    @classmethod
    def parse(cls, facts: Mapping[str, Any]) -> Self:
        """The inverse of `dump`; UserError if the facts are no history."""
        try:
            found = _Facts.model_validate(facts)
        except ValidationError as error:
            raise UserError(
                f"the state holds no history of a run ({explain(error)}); start again with another "
                "--out"
            ) from error
        best = found.best if isinstance(found.best, EvaluationEntry) else None
        return cls(
            step=found.step,
            seconds=found.seconds,
            evaluations=[Evaluation.of(each) for each in found.evaluations],
            best=Evaluation.of(best) if best is not None else None,
            scaler=found.scaler,
            threads=found.threads,
        )
