"""The options that all methods between domains share. Loads no torch."""

from __future__ import annotations

from pydantic import Field

from u2pl.run.sections import Sections
from u2pl.training.config import DataConfig


class AdaptDataConfig(DataConfig):
    """Crops and augmentation of the images of two domains."""

    target_long_side: int = Field(
        0,
        ge=0,
        description="as long_side, for the target images (long_side is for the source images); 0 = "
        "never shrunk",
    )
    target_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the labelled images of a step that are of the target, with "
        "--target-labeled",
    )


class AdaptSections(Sections):
    """Options that all methods share."""

    data: AdaptDataConfig = Field(
        default_factory=lambda: AdaptDataConfig(), description="crops and augmentation"
    )
