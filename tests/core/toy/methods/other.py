"""Something else."""

from __future__ import annotations

from pydantic import Field

from u2pl.methods.method import Method, MethodConfig
from u2pl.methods.step import StepResult
from u2pl.schedules import Progress


class OtherConfig(MethodConfig):
    """Options of something else."""

    strength: float = Field(0.5, description="how much of it")


class Other(Method[None]):
    """Needs embeddings."""

    Config = OtherConfig
    uses_embedding = True

    def forward(self, batch: None, progress: Progress) -> StepResult:
        raise NotImplementedError
