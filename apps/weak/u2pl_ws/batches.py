"""Batches of images and their tags.

K: foreground classes, class id = index + 1; background is no tag.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

import torch
from torch import Tensor

from u2pl.data.streams import Stream, TrainingSet


class TagBatch(NamedTuple):
    """B images of one size and their tags."""

    image: Tensor  # uint8 [B, 3, H, W]
    tags: Tensor  # bool [B, K]
    valid: Tensor  # bool [B, H, W], False on padding


class TagStream(TrainingSet[TagBatch]):
    """Sample g of a stream of images without masks, with the image's tags.

    As in AFA, a crop has the tags of its whole image, though it may not show all of them.

    Args:
        stream: of images; opens no masks.
        tags: class ids of each image.
        num_classes: C = 1 + K, including background.
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
