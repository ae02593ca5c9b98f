"""Rare-class sampling (DAFormer sec. 3.3): source images of rare classes are drawn more often.

C: classes.
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
    """How source images are sampled; DAFormer's values by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(
        True,
        description="sample source images by their rare classes; off: every image once per epoch",
    )
    temperature: float = Field(
        0.01,
        gt=0,
        allow_inf_nan=False,
        description="T of the class probabilities; lower values prefer rare classes more strongly",
    )
    min_pixels: int = Field(
        3000,
        ge=0,
        description="an image can be drawn for a class if its mask has more pixels of the class "
        "than this",
    )
    crop_ratio: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of min_pixels that a crop must exceed, counted in pixels of the crop",
    )
    retries: int = Field(
        10,
        ge=0,
        description="maximum number of new crops if one has too few pixels of the class; the last "
        "one is kept",
    )


def class_probabilities(count_C: np.ndarray, temperature: float) -> np.ndarray:
    """P(c) = softmax((1 - f_c) / T) over classes that occur; f_c: share of the labelled pixels.

    Args:
        count_C: labelled pixels of each class, integer.
        temperature: T > 0.

    Returns: float64 [C]; 0 for classes that do not occur, since no image could be drawn for them.
    """
    if not count_C.any():
        return np.zeros(len(count_C))
    logit_C = np.where(count_C > 0, (1 - count_C / count_C.sum()) / temperature, -np.inf)
    weight_C = np.exp(logit_C - logit_C.max())
    return weight_C / weight_C.sum()


def classes_without_pixels(classes: Sequence[str], counts: np.ndarray) -> list[str]:
    """Names of the classes that occur in no mask, given `class_counts` [images, C].

    They are never drawn and cannot be learnt.
    """
    return [name for name, pixels in zip(classes, counts.sum(axis=0), strict=True) if not pixels]


class RareClassStream(Stream):
    """Sample g of an endless stream: draws a class, an image with enough of it, a crop with enough.

    As in the released code, pixels are counted in the stored mask to choose an image, and in the
    scaled crop to accept it. If no mask has more than `min_pixels` of a class, images with fewer
    are drawn, and crops are judged by the image's own count (ours; the released code fails). Image
    and mask are decoded once, however many crops are tried.

    Args:
        source: where images and masks come from.
        ids: images with masks.
        transform: cuts a training sample.
        seed: of the run.
        name: of the stream.
        counts: pixels of each class in each mask, int64 [len(ids), C], from `class_counts`.
        config: thresholds.
        among: pixels of each class in all labelled images, int64 [C], if these are not all of them:
            what is rare among them is drawn more often.

    Raises UserError if `ids` is empty or no mask holds a labelled pixel.
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
        among: np.ndarray | None = None,
    ) -> None:
        super().__init__(source, ids, transform, seed, name)
        assert counts.shape == (len(ids), len(source.classes))
        if not counts.any():
            raise UserError(
                f"{source.name}: the {name} masks hold no labelled pixel: choose other images, or "
                "correct the masks"
            )
        self.counts, self.config = counts, config
        own = counts.sum(axis=0)
        every = own if among is None else among
        self.probability_C = class_probabilities(every, config.temperature)
        if among is not None:  # the others' classes cannot be drawn here
            self.probability_C *= own > 0
            self.probability_C /= self.probability_C.sum()
        self._rows = [_rows_with(pixels, config.min_pixels) for pixels in counts.T]

    def id(self, position: int) -> str:
        """The image at a global position >= 0."""
        _, row = self._choose(self.generator(position))
        return self.ids[row]

    def __getitem__(self, position: int) -> TrainSample:
        """The augmented sample at a global position >= 0."""
        rng = self.generator(position)
        class_id, row = self._choose(rng)
        id = self.ids[row]
        image, mask = self.source.image_to_cut(id), self.source.mask_to_cut(id)
        available = min(self.config.min_pixels, int(self.counts[row, class_id]))
        demand = self.config.crop_ratio * available
        for _ in range(1 + self.config.retries):
            geometry = self.transform.draw(image.size, rng)
            if np.count_nonzero(self.transform.cut_mask(mask, geometry) == class_id) > demand:
                break
        return self.transform.cut(image, mask, geometry)

    def _choose(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw a class and an image for it; the image by its row in `counts`."""
        class_id = int(rng.choice(len(self.probability_C), p=self.probability_C))
        return class_id, int(rng.choice(self._rows[class_id]))


def _rows_with(pixels: np.ndarray, min_pixels: int) -> np.ndarray:
    """Rows of the images with more than `min_pixels`, or else with any pixel."""
    enough = np.flatnonzero(pixels > min_pixels)
    return enough if len(enough) else np.flatnonzero(pixels)
