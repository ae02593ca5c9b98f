"""Endless streams of samples, addressed by position.

What a step sees depends on the seed and the step alone, not on workers, processes or earlier steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from multiprocessing.sharedctypes import RawArray
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from u2pl import distributed
from u2pl.data.boxes import boxes_in_crop
from u2pl.data.ids import first_three
from u2pl.data.source import Source
from u2pl.data.transforms import TrainSample, TrainTransform
from u2pl.errors import UserError

#: A sample of a method's batches, a NamedTuple of tensors.
Batch = TypeVar("Batch", bound=tuple[Tensor, ...], covariant=True)
Masks = Literal["needed", "extra", "never"]

_ORDER, _AUGMENT = 0, 1
#: Unlabelled images in a row that are tried until one can be read.
TRIED = 10
#: How many of the unlabelled images may be unreadable: this many, and this share of them.
FEW_BROKEN, BROKEN_SHARE = 10, 0.01
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
            images are unlabelled ones and only the journal uses masks, so a broken mask counts as
            missing, and instead of a broken image the next one is shown, which `skipped` tells.
            "never": none is opened. Without a mask every label is 255.
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
        # shared with the workers, which find out; a byte for each image
        self._broken = RawArray("B", len(self.ids) if masks == "extra" else 0)

    def skipped(self) -> list[str]:
        """The images that could not be read so far, in any worker of any process.

        All processes must call it together. Raises UserError if there are so many that the data is
        not what it should be.
        """
        marks = torch.frombuffer(self._broken, dtype=torch.uint8) if self._broken else None
        if marks is None or not distributed.largest(marks.any().to(distributed.device())):
            return []
        places = distributed.largest(marks.to(distributed.device())).nonzero().flatten().tolist()
        found = sorted(self.ids[place] for place in places)
        if len(found) > max(FEW_BROKEN, len(self.ids) * BROKEN_SHARE):
            raise UserError(
                f"{self.source.name}: images that cannot be read: {first_three(found)}: replace "
                "them, or leave them out; doctor lists them all"
            )
        return found

    def id(self, position: int) -> str:
        """The image at a global position >= 0."""
        return self.ids[self._place(position)]

    def _place(self, position: int) -> int:
        """The place in `ids` of the image at a global position."""
        epoch, place = divmod(position, len(self.ids))
        if epoch != self._epoch:
            self._order = np.random.default_rng([*self._key, _ORDER, epoch]).permutation(
                len(self.ids)
            )
            self._epoch = epoch
        return int(self._order[place])

    def __getitem__(self, position: int) -> TrainSample:
        """The augmented sample at a global position >= 0."""
        if self.masks != "extra":
            return self._cut(self.id(position), self.generator(position))
        for further in range(TRIED):  # the next unlabelled image that can be read
            try:
                return self._cut(self.id(position + further), self.generator(position))
            except UserError as error:
                self._broken[self._place(position + further)] = 1
                last = error
        raise last

    def _cut(self, id: str, rng: np.random.Generator) -> TrainSample:
        image = self.source.image_to_cut(id)
        geometry = self.transform.draw(image.size, rng)
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
            return self.source.mask_to_cut(id)
        except UserError:
            if self.masks == "needed":
                raise
            return None


class TrainingSet(Dataset[Batch]):
    """Samples of a run by position, of which some may have been skipped."""

    def skipped(self) -> list[str]:
        """As `Stream.skipped`."""
        return []


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
