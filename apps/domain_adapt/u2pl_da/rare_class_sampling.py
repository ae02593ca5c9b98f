"""Rare-class sampling (DAFormer, sec. 3.3): source images are chosen for a class, and rare classes are the likely ones.

C counts classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from u2pl.data.source import Source
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainSample, TrainTransform
from u2pl.errors import UserError


class RareClassConfig(BaseModel):
    """How source images are chosen; DAFormer's values by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(
        True,
        description="choose source images by their rare classes; off: every image once an epoch",
    )
    temperature: float = Field(
        0.01,
        gt=0,
        allow_inf_nan=False,
        description="lower values prefer rare classes more strongly",
    )
    min_pixels: int = Field(
        3000,
        ge=0,
        description="an image is chosen for a class when its mask holds more pixels of it than this",
    )
    crop_ratio: float = Field(
        0.5,
        ge=0,
        le=1,
        description="the share of min_pixels that a crop must exceed, in the crop's own pixels",
    )
    retries: int = Field(
        10,
        ge=0,
        description="how often a crop with too little of the class is cut anew; the last is taken as it is",
    )


def class_probabilities(count_C: np.ndarray, temperature: float) -> np.ndarray:
    """P(c) = softmax((1 - f_c) / T) over the classes that occur, f_c being c's share of all labelled pixels.

    Args:
        count_C: labelled pixels of each class, integer [C].
        temperature: T > 0.

    Returns float64 [C]. A class that never occurs gets 0, though the formula would make it the likeliest: no image shows it.
    Without any labelled pixel all are 0.
    """
    if not count_C.any():
        return np.zeros(len(count_C))
    logit_C = np.where(count_C > 0, (1 - count_C / count_C.sum()) / temperature, -np.inf)
    weight_C = np.exp(logit_C - logit_C.max())
    return weight_C / weight_C.sum()


def classes_without_pixels(classes: Sequence[str], counts: np.ndarray) -> list[str]:
    """Names of the classes that no mask holds, given `class_counts` [images, C]: they are never drawn and cannot be learnt."""
    return [name for name, pixels in zip(classes, counts.sum(axis=0), strict=True) if not pixels]


class RareClassStream(Stream):
    """Sample g of an endless stream: a class by `class_probabilities`, an image that holds enough of it, a crop that keeps enough.

    Image and mask are decoded once, however many crops are tried. As in the released code the image is chosen by pixels of the mask
    as stored, and the crop by pixels of the crop, whatever it was scaled by. Where a mask holds less than `min_pixels` of the class, its
    own count takes their place (ours: the released code ends when no image holds enough).

    Args:
        source: where images and masks come from.
        ids: images with masks.
        transform: cuts a training sample.
        seed: of the run.
        name: of the stream.
        counts: pixels of each class in each mask, int64 [len(ids), C], from `class_counts`.
        config: of rare-class sampling.

    Raises UserError when `ids` is empty or no mask holds a labelled pixel.
    """

    def __init__(
        self,
        source: Source,
        ids: Sequence[str],
        transform: TrainTransform,
        seed: int,
        name: str,
        counts: np.ndarray,
        config: RareClassConfig,
    ) -> None:
        super().__init__(source, ids, transform, seed, name)
        assert counts.shape == (len(ids), len(source.classes))
        if not counts.any():
            raise UserError(
                f"{source.name}: the {name} masks hold no labelled pixel: choose other images, or correct the masks"
            )
        self.counts, self.config = counts, config
        self.probability_C = class_probabilities(counts.sum(axis=0), config.temperature)
        self._rows = [_rows_with(pixels, config.min_pixels) for pixels in counts.T]

    def id(self, position: int) -> str:
        """The image at a global position >= 0."""
        _, row = self._choose(self.generator(position))
        return self.ids[row]

    def __getitem__(self, position: int) -> TrainSample:
        """The augmented sample at a global position >= 0."""
        rng = self.generator(position)
        class_id, row = self._choose(rng)
        image, mask = self.source.image(self.ids[row]), self.source.mask(self.ids[row])
        demand = self.config.crop_ratio * min(
            self.config.min_pixels, int(self.counts[row, class_id])
        )
        for _ in range(1 + self.config.retries):
            geometry = self.transform.draw(image.size, rng)
            if np.count_nonzero(self.transform.cut_mask(mask, geometry) == class_id) > demand:
                break
        return self.transform.cut(image, mask, geometry)

    def _choose(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw a class and the row of an image that holds it."""
        class_id = int(rng.choice(len(self.probability_C), p=self.probability_C))
        return class_id, int(rng.choice(self._rows[class_id]))


def _rows_with(pixels: np.ndarray, min_pixels: int) -> np.ndarray:
    """Rows of the images with more than `min_pixels`; where there are none, of those with any."""
    enough = np.flatnonzero(pixels > min_pixels)
    return enough if len(enough) else np.flatnonzero(pixels)
