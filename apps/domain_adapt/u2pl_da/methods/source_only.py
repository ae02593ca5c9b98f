"""Source only: trained on the source images and asked about the target's; the baseline that adaptation has to beat."""

from __future__ import annotations

from pydantic import Field

from u2pl.memory.teacher import AverageConfig
from u2pl.methods.baseline import Baseline, BaselineConfig
from u2pl_da.batches import DomainBatch


class SourceOnlyConfig(BaselineConfig):
    """Options of source_only."""

    teacher: AverageConfig = Field(
        AverageConfig(momentum=0.999),
        description="the moving average that is evaluated beside the student",
    )


class SourceOnly(Baseline[DomainBatch]):
    """L = L_s."""

    Config = SourceOnlyConfig
    config: SourceOnlyConfig
