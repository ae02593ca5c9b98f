"""The supervised baseline: training on labelled images only."""

from __future__ import annotations

from typing import Protocol, TypeVar

from pydantic import Field
from torch import Tensor, nn

from u2pl.memory.teacher import AverageConfig, Teacher
from u2pl.methods.method import LabeledMethod, LabeledMethodConfig
from u2pl.methods.step import StepResult
from u2pl.networks.segmentor import Segmentor
from u2pl.schedules import Progress


class LabeledImages(Protocol):
    """What every batch with labelled images has."""

    @property
    def image_l(self) -> Tensor: ...

    @property
    def label_l(self) -> Tensor: ...


LabeledBatch = TypeVar("LabeledBatch", bound=LabeledImages)


class BaselineConfig(LabeledMethodConfig):
    """Options of a supervised baseline."""

    teacher: AverageConfig = Field(
        AverageConfig(), description="EMA of the weights, evaluated alongside the student"
    )


class Baseline(LabeledMethod[LabeledBatch]):
    """L = L_s.

    The EMA of the weights is evaluated too, since it alone often gains more than a method does.
    """

    Config = BaselineConfig
    uses_unlabeled = False

    config: BaselineConfig

    def __init__(self, config: BaselineConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.ema = Teacher(student, config.teacher)

    def forward(self, batch: LabeledBatch, progress: Progress) -> StepResult:
        return self.supervised_step(batch.image_l, batch.label_l)

    def follow(self, progress: Progress) -> None:
        self.ema.update(self.student, progress.step)

    def networks(self) -> dict[str, nn.Module]:
        return {"student": self.student, "ema": self.ema.network}
