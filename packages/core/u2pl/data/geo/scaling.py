"""Bands of a raster as the channels that a network sees, of 8 bits each.

8-bit bands stay as they are. All others are scaled by percentiles, which are looked for once, over
the training tiles, and kept with the network: what is trained on, scored on and predicted is scaled
alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from u2pl.data.geo.rasters import Pixels, Raster
from u2pl.errors import UserError
from u2pl.notation import padding

#: Percentiles of a band that become 0 and 255.
LOW, HIGH = 2.0, 98.0

#: Of a raster, from 1.
Band = Annotated[int, Field(ge=1)]


class Scaling(BaseModel):
    """Which bands become channels, and which of their values 0 and 255."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str  # NumPy's name of the bands' numbers
    bands: tuple[Band, ...] = Field(min_length=1)  # as many as channels
    low: tuple[FiniteFloat, ...]  # of each becomes 0, and so does what is below
    high: tuple[FiniteFloat, ...]  # of each becomes 255, and so does what is above
    nodata: FiniteFloat | None = None  # value without data; None: what the file says

    @model_validator(mode="after")
    def _rising(self) -> Scaling:
        if not len(self.bands) == len(self.low) == len(self.high):
            raise ValueError("scaling.low and scaling.high must have a number for each band")
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("scaling.low must be below scaling.high in each band")
        return self

    def colours(self, pixels: Pixels) -> np.ndarray:
        """uint8 [h, w, channels]; the mean colour of photos where there is no data."""
        if self.kind == "uint8":
            colours = pixels.values.transpose(1, 2, 0).copy()
        else:
            sides = np.array((self.low, self.high), np.float64)
            low, high = sides[:, :, None, None]
            values = np.where(pixels.valid, pixels.values, low)
            scaled = (values - low) * (255 / (high - low))
            colours = (scaled.clip(0, 255) + 0.5).astype(np.uint8).transpose(1, 2, 0)
        colours[~pixels.valid] = padding(len(self.bands))
        return colours

    def check(self, raster: Raster) -> None:
        """UserError if a raster lacks the bands, or its numbers mean something else."""
        lacking = [band for band in self.bands if band > raster.bands]
        if lacking:
            raise UserError(
                f"{raster.path} has {raster.bands} bands, and band {lacking[0]} is wanted: use "
                "rasters with the same bands, in the same order"
            )
        if raster.kind != self.kind:
            raise UserError(
                f"{raster.path} holds {raster.kind}, and the others that were trained on "
                f"{self.kind}: convert it, without changing its values' meaning"
            )


def unscaled(bands: tuple[int, ...], nodata: float | None = None) -> Scaling:
    """8-bit bands as they are."""
    low, high = (0,) * len(bands), (255,) * len(bands)
    return Scaling(kind="uint8", bands=bands, low=low, high=high, nodata=nodata)


def percentiles(samples: Iterable[Pixels]) -> np.ndarray:
    """The low and the high end of each band, over all samples together: float64 [2, bands].

    Raises UserError if no sample holds data.
    """
    found = [each.values[:, each.valid] for each in samples]
    if not any(each.size for each in found):
        raise UserError("the training tiles hold no data: check the nodata value")
    values = np.concatenate(found, axis=1).astype(np.float64)
    low, high = np.percentile(values, (LOW, HIGH), axis=1)
    return np.stack([low, np.where(high > low, high, low + 1)])


def usual_bands(raster: Raster) -> tuple[int, int, int]:
    """What is shown as a photo: the first three bands, or the first one for all colours."""
    return (1, 2, 3) if raster.bands >= 3 else (1, 1, 1)
