"""The baseline of every table: labelled images alone."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from u2pl import distributed
from u2pl.batches import PairBatch
from u2pl.memory.teacher import AverageConfig, Teacher
from u2pl.method import LabeledMethodConfig, Method
from u2pl.outputs import StepResult
from u2pl.schedules import Progress


class BaselineConfig(LabeledMethodConfig):
    """Options of a supervised baseline."""

    teacher: AverageConfig = Field(AverageConfig(), description="the moving average that is evaluated beside the student")


class Baseline(Method):
    """L = L_s.

    The moving average of the weights is evaluated beside them, since averaging alone often gains more than a method does.
    """

    Config = BaselineConfig
    uses_unlabeled = False

    def __init__(self, config: BaselineConfig, student: nn.Module, num_classes: int) -> None:
        super().__init__(config, student, num_classes)
        self.ema = Teacher(student, config.teacher)

    def forward(self, batch: PairBatch, progress: Progress) -> StepResult:
        return self.supervised_step(batch.image_l, batch.label_l)

    def after_step(self, progress: Progress) -> None:
        distributed.average_buffers(self.student)
        self.ema.update(self.student, progress.step)

    def networks(self) -> dict[str, nn.Module]:
        return {"student": self.student, "ema": self.ema.network}
