"""Holding on to ImageNet: thing classes keep the features that the encoder was pretrained with (DAFormer)."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.losses.feature_distance import feature_distance, majority_label
from u2pl.memory.teacher import batch_norms
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import IGNORE


class FeatureDistanceConfig(BaseModel):
    """The distance of the student's deepest features to those of its pretrained encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(
        0.005,
        ge=0,
        description="weight of the feature distance; 0: none, and no second encoder in memory",
    )
    things: tuple[int, ...] | None = Field(
        None, description="ids of the classes it looks at; the data's thing classes if left out"
    )
    min_share: float = Field(
        0.75,
        gt=0,
        le=1,
        description="share of the pixels under a feature that must be of one thing class",
    )


class ImageNetDistance(nn.Module):
    """A frozen copy of the encoder as it is when this is made, and the distance to it.

    Its BatchNorm layers, if it has any, normalise by the batch as the student's do while it trains (ours; MiT has none): equal weights
    then have no distance, and images of another brightness do not look like forgetting.

    Args:
        config: which classes, and when a feature is of one of them.
        student: the network that is trained; its encoder is copied.
        num_classes: C.
    """

    is_thing: Tensor

    def __init__(self, config: FeatureDistanceConfig, student: Segmentor, num_classes: int) -> None:
        super().__init__()
        self.min_share, self.num_classes = config.min_share, num_classes
        self.encoder = copy.deepcopy(student.encoder).requires_grad_(False)
        is_thing = torch.zeros(IGNORE + 1, dtype=torch.bool)
        is_thing[list(config.things or ())] = True
        self.register_buffer("is_thing", is_thing, persistent=False)
        for norm in batch_norms(self.encoder):
            norm.track_running_stats = False  # nothing may move in a frozen network
        self.train(self.training)

    def train(self, mode: bool = True) -> ImageNetDistance:
        """Without dropout and drop path in any mode; the mode is that of BatchNorm alone."""
        super().train(False)
        for norm in batch_norms(self.encoder):
            norm.train(mode)
        return self

    def forward(self, prepared_B3HW: Tensor, label_BHW: Tensor, deep_BDhw: Tensor) -> Tensor:
        """Mean distance over the features that lie on things, of all processes; a connected zero where none does.

        Args:
            prepared_B3HW: images as the encoder sees them (`Segmentor.prepare`).
            label_BHW: their ground truth.
            deep_BDhw: the student's deepest features of them.
        """
        with torch.no_grad():
            reference = self.encoder(prepared_B3HW)[-1]
            factor = prepared_B3HW.shape[-1] // deep_BDhw.shape[-1]
            on_thing = self.is_thing[
                majority_label(label_BHW, factor, self.min_share, self.num_classes)
            ]
            on_thing = F.pad(
                on_thing,
                (
                    0,
                    deep_BDhw.shape[-1] - on_thing.shape[-1],
                    0,
                    deep_BDhw.shape[-2] - on_thing.shape[-2],
                ),
            )
        return feature_distance(deep_BDhw, reference, on_thing, distributed.average(on_thing.sum()))
