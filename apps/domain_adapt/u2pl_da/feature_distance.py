"""DAFormer's ImageNet feature distance: features of thing classes stay close to pretrained ones."""

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
    """Distance between the student's deepest features and those of its pretrained encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(
        0.005,
        ge=0,
        description="lambda_FD, weight of the feature distance; 0: off, without a second encoder "
        "in memory",
    )
    things: tuple[int, ...] | None = Field(
        None,
        description="ids of the classes whose features it compares; the data's thing classes by "
        "default",
    )
    min_share: float = Field(
        0.75,
        gt=0,
        le=1,
        description="minimum share of one thing class among the pixels under a feature",
    )


class ImageNetDistance(nn.Module):
    """A frozen copy of the encoder, made on construction, and the distance to its features.

    In training, its BatchNorm layers, if any, normalise by the batch as the student's do (ours; MiT
    has none). So equal weights have distance 0, and a brightness shift is not mistaken for drift.

    Args:
        config: which classes, and their minimum share under a feature.
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
            norm.track_running_stats = False  # a frozen network keeps its statistics
        self.train(self.training)

    def train(self, mode: bool = True) -> ImageNetDistance:
        """Set the mode of BatchNorm; dropout and drop path stay off."""
        super().train(False)
        for norm in batch_norms(self.encoder):
            norm.train(mode)
        return self

    def forward(self, prepared_B3HW: Tensor, label_BHW: Tensor, deep_BDhw: Tensor) -> Tensor:
        """Mean distance over the features on things, of all processes; a connected zero if none is.

        Args:
            prepared_B3HW: the encoder's input (`Segmentor.prepare`).
            label_BHW: integer ground truth, 255 = ignore; without the input's padding.
            deep_BDhw: the student's deepest features.
        """
        with torch.no_grad():
            reference = self.encoder(prepared_B3HW)[-1]
            factor = prepared_B3HW.shape[-1] // deep_BDhw.shape[-1]
            label = majority_label(label_BHW, factor, self.min_share, self.num_classes)
            on_thing = self.is_thing[label]
            down, right = (deep_BDhw.shape[i] - on_thing.shape[i] for i in (-2, -1))
            on_thing = F.pad(on_thing, (0, right, 0, down))
        return feature_distance(deep_BDhw, reference, on_thing, distributed.average(on_thing.sum()))
