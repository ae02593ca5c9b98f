"""Class activation maps of a network that is being trained, and the labels they make."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from u2pl.evaluate.inference import evaluating
from u2pl.networks.segmentor import Segmentor
from u2pl_ws.affinity_labels import Levels
from u2pl_ws.cam import multi_scale_cam


class CamConfig(BaseModel):
    """Class activation maps and the labels they make."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: tuple[PositiveFloat, ...] = Field((1.0, 0.5, 1.5), min_length=1, description="sizes of the views, relative to the image's own")
    high: float = Field(0.55, ge=0, le=1, description="score of the background that a certain foreground pixel beats (AFA)")
    low: float = Field(0.35, ge=0, le=1, description="score of the background that beats a certain background pixel (AFA)")
    most_tags: int = Field(0, ge=0, description="most tags that an image has; 0: counted in the tags")

    @property
    def levels(self) -> Levels:
        """Both scores of the background."""
        return Levels(self.high, self.low)


def activation_maps(student: Segmentor, image_B3HW: Tensor, tags_BK: Tensor, scales: tuple[float, ...]) -> Tensor:
    """The network's normalised maps of the tagged classes, as it answers when it is not training: float32 [B, K, H, W] in [0, 1].

    Args:
        student: with an image-level classifier.
        image_B3HW: uint8.
        tags_BK: bool.
        scales: of the views.
    """

    def activations(image: Tensor) -> Tensor:
        prepared = student.prepare(image)
        deep = student.encoder(prepared)[-1]
        stride = prepared.shape[-1] // deep.shape[-1]
        height, width = (-(-side // stride) for side in image.shape[-2:])  # without what lies on the padding alone
        return student.activation(deep)[..., :height, :width]

    with evaluating([student]):
        return multi_scale_cam(activations, image_B3HW.to(torch.float32) / 255, tags_BK, scales)
