"""Class activation maps (CAMs) of the image-level classifier (AFA, Ru et al. 2022; U2PL+ sec. 4.3).

B C H W h w as in u2pl.notation; K: foreground classes, class id = index + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from u2pl.evaluate.inference import evaluating
from u2pl.maps import resize_image
from u2pl.networks.attention import Attention, attention_of
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
    with evaluating([student]):
        image = image_B3HW.to(torch.float32) / 255
        return multi_scale_cam(partial(_activations, student), image, tags_BK, scales)


class Tokens(NamedTuple):
    """Queries and keys of the last blocks for the tokens inside an image, row by row."""

    blocks: list[Attention]
    grid: tuple[int, int]  # rows and columns of tokens


def maps_and_attention(
    student: Segmentor, image_B3HW: Tensor, tags_BK: Tensor, scales: tuple[float, ...]
) -> tuple[Tensor, Tokens]:
    """As `activation_maps`, and the self-attention on the largest of the views, not mirrored.

    Raises:
        UserError: The encoder is not a MiT.
    """
    largest = scaled_size(image_B3HW, max(scales))
    kept: list[Tokens] = []

    def watched(view: Tensor) -> Tensor:
        if (view.shape[-2], view.shape[-1]) != largest:
            return _activations(student, view)
        with attention_of(student.encoder) as blocks:
            maps = _activations(student, view)
        plain = [Attention(*(part.chunk(2)[0] for part in block)) for block in blocks]
        kept.append(tokens_inside(student, plain, largest))
        return maps

    with evaluating([student]):
        cam = multi_scale_cam(watched, image_B3HW.to(torch.float32) / 255, tags_BK, scales)
    return cam, kept[-1]


def tokens_inside(student: Segmentor, blocks: Sequence[Attention], size: tuple[int, int]) -> Tokens:
    """Attention without the tokens of the padding, for images of `size` = (H, W)."""
    stride, divisor = student.encoder.strides[-1], student.divisor
    height, width = (-(-side // stride) for side in size)
    padded = [-(-side // divisor) * divisor // stride for side in size]

    def inside(part_BnD: Tensor) -> Tensor:
        return part_BnD.unflatten(1, padded)[:, :height, :width].flatten(1, 2)

    return Tokens([Attention(*map(inside, block)) for block in blocks], (height, width))


def _activations(student: Segmentor, image: Tensor) -> Tensor:
    prepared = student.prepare(image)
    deep = student.encoder(prepared)[-1]
    stride = prepared.shape[-1] // deep.shape[-1]
    height, width = (-(-side // stride) for side in image.shape[-2:])  # cuts off padding
    return student.activation(deep)[..., :height, :width]


def scaled_size(image_B3HW: Tensor, scale: float) -> tuple[int, int]:
    """Height and width of a view, in pixels."""
    height, width = image_B3HW.shape[-2:]
    return max(1, int(scale * height)), max(1, int(scale * width))


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
    view = resize_image(image_B3HW, scaled_size(image_B3HW, scale))
    maps = activations(torch.cat([view, view.flip(-1)])).float()
    size = image_B3HW.shape[-2:]
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
