"""Class activation maps (CAMs) of the image-level classifier (AFA, Ru et al. 2022; U2PL+ sec. 4.3).

B C H W h w as in u2pl.notation; K: foreground classes, class id = index + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from u2pl.evaluate.inference import evaluating
from u2pl.maps import resize_image
from u2pl.networks.segmentor import Segmentor
from u2pl_ws.map_labels import Levels


class ActivationConfig(BaseModel):
    """Class activation maps and the pseudo-labels made from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: tuple[PositiveFloat, ...] = Field(
        (1.0, 0.5, 1.5),
        min_length=1,
        description="scales of the maps, relative to the image's size",
    )
    high: float = Field(
        0.55,
        ge=0,
        le=1,
        description="background score above which a pixel is confidently foreground (AFA)",
    )
    low: float = Field(
        0.35,
        ge=0,
        le=1,
        description="background score below which a pixel is confidently background (AFA)",
    )
    most_tags: int = Field(
        0, ge=0, description="maximum number of tags per image; 0 = taken from the data"
    )

    @property
    def levels(self) -> Levels:
        """Both background scores."""
        return Levels(self.high, self.low)


def activation_maps(
    student: Segmentor, image_B3HW: Tensor, tags_BK: Tensor, scales: tuple[float, ...]
) -> Tensor:
    """The network's normalised maps in eval mode, float32 [B, K, H, W] in [0, 1].

    Args:
        student: with an image-level classifier.
        image_B3HW: uint8.
        tags_BK: bool; maps of other classes are 0.
        scales: relative to the image's size.
    """

    def activations(image: Tensor) -> Tensor:
        prepared = student.prepare(image)
        deep = student.encoder(prepared)[-1]
        stride = prepared.shape[-1] // deep.shape[-1]
        height, width = (-(-side // stride) for side in image.shape[-2:])  # cuts off padding
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
    """Multi-scale CAM with flip, normalised per image and class, float32 [B, K, H, W] (U2PL+ Eq 5).

        for each scale: M += ReLU(max(map of the image, flipped map of the flipped image))
        M = (M - min M) / (max (M - min M) + 1e-5), and 0 for classes without tag

    Args:
        activations: a network's maps before pooling, [2B, 3, H', W'] -> [2B, K, h, w]; called once
            per scale with the images and their flipped copies.
        image_B3HW: float, in the range that `activations` expects.
        tags_BK: bool, which classes an image shows.
        scales: relative to the image's size.
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
    view = resize_image(image_B3HW, scaled)
    maps = activations(torch.cat([view, view.flip(-1)])).float()
    plain, mirrored = F.interpolate(maps, size, mode="bilinear", align_corners=False).chunk(2)
    return torch.maximum(plain, mirrored.flip(-1)).relu_()


def normalize(cam_BKHW: Tensor) -> Tensor:
    """Min-max normalise each map to [0, 1); constant maps become 0."""
    above = cam_BKHW - cam_BKHW.amin(dim=(2, 3), keepdim=True)
    return above / (above.amax(dim=(2, 3), keepdim=True) + 1e-5)


def only_tagged(cam_BKHW: Tensor, tags_BK: Tensor) -> Tensor:
    """The maps, with those of classes without tag set to 0, NaN and infinity included."""
    return torch.where(tags_BK.bool()[:, :, None, None], cam_BKHW, 0.0)


def cam_label(cam_BKHW: Tensor, background: float = 0.45) -> Tensor:
    """Class id of the highest map, 0 where none exceeds `background`, int64 [B, H, W] (U2PL+ Eq 8).

    Args:
        cam_BKHW: float maps, 0 for classes without tag.
        background: threshold beta.
    """
    value, index = cam_BKHW.max(dim=1)
    return torch.where(value > background, index + 1, 0)
