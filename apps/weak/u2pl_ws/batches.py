"""What a training step is fed: images and the names of what they show."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from u2pl.data.streams import Stream


class TagBatch(NamedTuple):
    """B images of one size and their tags."""

    image: Tensor  # uint8 [B, 3, H, W]
    tags: Tensor  # bool [B, K]; tag k is class id k + 1, background is none
    valid: Tensor  # bool [B, H, W], False on padding


class TagStream(Dataset[TagBatch]):
    """Sample number g of a stream of images that opens no masks, with the image's tags.

    A crop keeps the tags of its whole image, as in AFA, though it may not show all of them.

    Args:
        stream: of images.
        tags: class ids of each of its images.
        num_classes: C, with the background.
    """

    def __init__(self, stream: Stream, tags: Mapping[str, Set[int]], num_classes: int) -> None:
        self.stream = stream
        self.tags = {
            id: torch.tensor([k in classes for k in range(1, num_classes)])
            for id, classes in tags.items()
        }

    def __getitem__(self, position: int) -> TagBatch:
        sample = self.stream[position]
        return TagBatch(sample.image, self.tags[self.stream.id(position)], sample.valid)
