"""Source only: trained on source images, evaluated on the target; baseline without adaptation."""

from __future__ import annotations

from pydantic import Field

from u2pl.memory.teacher import AverageConfig
from u2pl.methods.baseline import Baseline, BaselineConfig
from u2pl_da.batches import DomainBatch


class SourceOnlyConfig(BaselineConfig):
    """Options of source_only."""

    teacher: AverageConfig = Field(
        AverageConfig(momentum=0.999),
        description="moving average of the student, evaluated too",
    )


class SourceOnly(Baseline[DomainBatch]):
    """L = L_s."""

    Config = SourceOnlyConfig
    config: SourceOnlyConfig
