"""The options that the app's methods share."""

from __future__ import annotations

from pydantic import Field

from u2pl.cli.config import Sections
from u2pl.train.config import DataConfig


class SemiDataConfig(DataConfig):
    """What is cut from the images, and which are accepted."""

    allow_absent_classes: bool = Field(False, description="train although a class occurs in no labelled mask")


class SemiSections(Sections):
    """What every method shares."""

    data: SemiDataConfig = Field(default_factory=lambda: SemiDataConfig(), description="what is cut from the images")
