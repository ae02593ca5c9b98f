"""The options that all semi-supervised methods share. Loads no torch."""

from __future__ import annotations

from pydantic import Field

from u2pl.run.sections import Sections
from u2pl.training.config import DataConfig


class SemiDataConfig(DataConfig):
    """Crops and augmentation, and which data are accepted."""

    allow_absent_classes: bool = Field(
        False, description="train although a class occurs in no labelled mask"
    )
    boxes: str = Field(
        "",
        description="file of `detector predict`: pixels inside boxes of their class shape the "
        "prototypes of method.pixel_weight too; none if empty",
    )
    box_threshold: float = Field(
        0.85,
        ge=0,
        le=1,
        description="score of the boxes that are used; 0.85 on VOC, 0.95 on Cityscapes "
        "(Weighting-PL sec. 4.1)",
    )


class SemiSections(Sections):
    """Options that all methods share."""

    data: SemiDataConfig = Field(
        default_factory=lambda: SemiDataConfig(), description="crops and augmentation"
    )
