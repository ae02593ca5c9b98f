"""The options that the app's methods share."""

from __future__ import annotations

from pydantic import Field

from u2pl.cli.config import Sections
from u2pl.train.config import DataConfig


class AdaptDataConfig(DataConfig):
    """What is cut from the images of two domains."""

    target_long_side: int = Field(
        0, ge=0, description="as long_side, for the target images (long_side is for the source images); 0 = never shrunk"
    )


class AdaptSections(Sections):
    """What every method shares."""

    data: AdaptDataConfig = Field(default_factory=lambda: AdaptDataConfig(), description="what is cut from the images")
