"""Labelled images alone."""

from __future__ import annotations

from pydantic import Field

from u2pl.methods.baseline import Baseline, BaselineConfig
from u2pl.methods.batches import PairBatch


class PlainConfig(BaselineConfig):
    """Options of a method that is never missed."""

    warm_start: float = Field(0.0, ge=0, le=1, description="share of the steps")


class Plain(Baseline[PairBatch]):
    """L = L_s."""

    Config = PlainConfig
