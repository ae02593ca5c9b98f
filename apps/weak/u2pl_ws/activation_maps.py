"""Class activation maps: where a classifier of image tags looks (AFA, Ru et al. 2022; 000, sec. 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from u2pl.evaluate.inference import evaluating
from u2pl.networks.segmentor import Segmentor
from u2pl_ws.map_labels import Levels


class ActivationConfig(BaseModel):
    """Class activation maps and the labels they make."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: tuple[PositiveFloat, ...] = Field(
        (1.0, 0.5, 1.5), min_length=1, description="sizes of the views, relative to the image's own"
    )
    high: float = Field(
        0.55,
        ge=0,
        le=1,
        description="score of the background that a certain foreground pixel beats (AFA)",
    )
    low: float = Field(
        0.35,
        ge=0,
        le=1,
        description="score of the background that beats a certain background pixel (AFA)",
    )
    most_tags: int = Field(
        0, ge=0, description="most tags that an image has; 0: counted in the tags"
    )

    @property
    def levels(self) -> Levels:
        """Both scores of the background."""
        return Levels(self.high, self.low)


def activation_maps(
    student: Segmentor, image_B3HW: Tensor, tags_BK: Tensor, scales: tuple[float, ...]
) -> Tensor:
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
        height, width = (
            -(-side // stride) for side in image.shape[-2:]
        )  # without what lies on the padding alone
        return student.activation(deep)[..., :height, :width]

    with evaluating([student]):
        return multi_scale_cam(activations, image_B3HW.to(torch.float32) / 255, tags_BK, scales)


@torch.no_grad()
def multi_scale_cam(
    activations: Callable[[Tensor], Tensor],
    image_B3HW: Tensor,
    tags_BK: Tensor,
    scales: Sequence[float] = (1.0, 0.5, 1.5),
) -> Tensor:
    """Activation maps of several sizes and mirrored views, normalised per image and class: float32 [B, K, H, W] (000 Eq 5).

        for each scale: positive part of the higher of the plain and the unmirrored map, at the image's size
        M = sum over scales;  M = (M - min M) / (max (M - min M) + 1e-5);  0 for classes without tag

    Args:
        activations: a network's maps before pooling, [2B, 3, H', W'] -> [2B, K, h, w]; called once for each scale, on the images and
            their mirror images.
        image_B3HW: float, as `activations` wants it.
        tags_BK: bool, which of the K foreground classes an image shows.
        scales: sizes relative to the image's own.
    """
    first, *others = scales
    total = _positive_part(activations, image_B3HW, first)
    for scale in others:
        total += _positive_part(activations, image_B3HW, scale)
    return only_tagged(normalize(total), tags_BK)


def _positive_part(
    activations: Callable[[Tensor], Tensor], image_B3HW: Tensor, scale: float
) -> Tensor:
    size = (image_B3HW.shape[-2], image_B3HW.shape[-1])
    scaled = (max(1, int(scale * size[0])), max(1, int(scale * size[1])))
    view = (
        image_B3HW
        if scaled == size
        else F.interpolate(image_B3HW, scaled, mode="bilinear", align_corners=False)
    )
    maps = activations(torch.cat([view, view.flip(-1)])).float()
    plain, mirrored = F.interpolate(maps, size, mode="bilinear", align_corners=False).chunk(2)
    return torch.maximum(plain, mirrored.flip(-1)).relu_()


def normalize(cam_BKHW: Tensor) -> Tensor:
    """Each image's map of each class from 0 to (just below) 1; a map of one value becomes 0."""
    above = cam_BKHW - cam_BKHW.amin(dim=(2, 3), keepdim=True)
    return above / (above.amax(dim=(2, 3), keepdim=True) + 1e-5)


def only_tagged(cam_BKHW: Tensor, tags_BK: Tensor) -> Tensor:
    """The maps, 0 for each class that its image is not tagged with, whatever was there."""
    return torch.where(tags_BK.bool()[:, :, None, None], cam_BKHW, 0.0)


def cam_label(cam_BKHW: Tensor, background: float = 0.45) -> Tensor:
    """The class id of the highest map, background where none exceeds `background`: int64 [B, H, W] (000 Eq 8).

    Args:
        cam_BKHW: maps of the K foreground classes, 0 for those without tag; class id = index + 1.
        background: score of the background.
    """
    value, index = cam_BKHW.max(dim=1)
    return torch.where(value > background, index + 1, 0)
