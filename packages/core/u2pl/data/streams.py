"""Endless streams of samples, addressed by position.

What a step sees depends on the seed and the step alone, not on workers, processes or earlier steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from u2pl.data.boxes import boxes_in_crop
from u2pl.data.source import Source
from u2pl.data.transforms import TrainSample, TrainTransform
from u2pl.errors import UserError

Masks = Literal["needed", "extra", "never"]

_ORDER, _AUGMENT = 0, 1
#: An image without boxes.
NO_BOXES = np.zeros((0, 6))


class Stream(Dataset[TrainSample]):
    """Sample g of an endless pass over `ids`, reshuffled every epoch.

    Args:
        source: where images and masks come from.
        ids: the images of one epoch.
        transform: cuts a training sample.
        seed: of the run.
        name: of the stream; streams of a run have different names, hence independent orders.
        masks: "needed": every existing mask is opened; a broken one raises UserError. "extra": the
            same, but only the journal uses them, so a broken one counts as missing. "never": none
            is opened. Without a mask every label is 255.
        boxes: of the images, by id; None: samples have none.

    Raises UserError if `ids` is empty.
    """

    def __init__(
        self,
        source: Source,
        ids: Sequence[str],
        transform: TrainTransform,
        seed: int,
        name: str,
        masks: Masks = "needed",
        boxes: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        if not ids:
            raise UserError(
                f"there are no {name} images in {source.name}: choose fewer labelled ones, or "
                "another split"
            )
        self.source, self.ids, self.transform, self.masks = source, tuple(ids), transform, masks
        self._key = (seed, zlib.crc32(name.encode()))
        self.boxes = boxes
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def id(self, position: int) -> str:
        """The image at a global position >= 0."""
        epoch, place = divmod(position, len(self.ids))
        if epoch != self._epoch:
            self._order = np.random.default_rng([*self._key, _ORDER, epoch]).permutation(
                len(self.ids)
            )
            self._epoch = epoch
        return self.ids[self._order[place]]

    def __getitem__(self, position: int) -> TrainSample:
        """The augmented sample at a global position >= 0."""
        id = self.id(position)
        image = self.source.image(id)
        geometry = self.transform.draw(image.size, self.generator(position))
        sample = self.transform.cut(image, self._mask(id), geometry)
        if self.boxes is None:
            return sample
        own = boxes_in_crop(self.boxes.get(id, NO_BOXES), geometry)
        return sample._replace(boxes=torch.from_numpy(own))

    def generator(self, position: int) -> np.random.Generator:
        """A new random generator, seeded by the position."""
        return np.random.default_rng([*self._key, _AUGMENT, position])

    def _mask(self, id: str) -> np.ndarray | None:
        if self.masks == "never" or not self.source.has_mask(id):
            return None
        try:
            return self.source.mask(id)
        except UserError:
            if self.masks == "needed":
                raise
            return None


class Interleaved(Dataset[TrainSample]):
    """Samples of two streams in turn: a share of them, spread evenly, are the second's.

    Each stream gives its samples in its own order, without a gap.

    Args:
        first: stream of the other samples.
        second: stream that has the share.
        share: of the second stream, between 0 and 1.
    """

    def __init__(
        self, first: Dataset[TrainSample], second: Dataset[TrainSample], share: float
    ) -> None:
        self.streams = (first, second)
        # exact: a rounded product could skip a sample of a long run
        self.share = Fraction(share).limit_denominator(1000)

    def __getitem__(self, position: int) -> TrainSample:
        """The augmented sample at a global position >= 0."""
        which, place = self.place(position)
        return self.streams[which][place]

    def place(self, position: int) -> tuple[int, int]:
        """Which stream a global position belongs to, and its position in that stream."""
        before, after = (int(each * self.share) for each in (position, position + 1))
        return (1, before) if after > before else (0, position - before)


class StepSampler(Sampler[list[int]]):
    """For each step in [start, stop) the `batch` global positions of this process.

    Step s of `world` processes covers positions [s * batch * world, (s + 1) * batch * world), rank
    by rank. So 2 processes x 4 samples see what 1 x 8 sees, and a run resumed at step s sees what
    an uninterrupted one does.
    """

    def __init__(self, start: int, stop: int, batch: int, rank: int = 0, world: int = 1) -> None:
        self.steps, self.batch, self.rank, self.world = range(start, stop), batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))

    def __len__(self) -> int:
        return len(self.steps)
