"""Pixel-adaptive refinement (PAR): maps follow image edges (AFA, Ru et al. 2022; U2PL+ sec. 4.3).

B C H W as in u2pl.notation; J: neighbours of a pixel; N = B H W: the pixels of all images.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Distances of the neighbours, in pixels.
DILATIONS = (1, 2, 4, 8, 12, 24)

#: Steps (down, right) to the eight neighbours at distance 1.
_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


class Kernel(NamedTuple):
    """Weights of each pixel's J neighbours."""

    weight_NJ: Tensor  # float32; each row sums to 1 + position_weight
    index_NJ: Tensor  # int32, row of the neighbour; outside the image, of its nearest pixel
    size: tuple[int, int]  # H, W


def half_size(image_B3HW: Tensor) -> Tensor:
    """The image at half its size, at which AFA refines: float32 [B, 3, H // 2, W // 2] in [0, 1].

    Args:
        image_B3HW: uint8, or float in [0, 1].
    """
    image = image_B3HW.float() / 255 if image_B3HW.dtype == torch.uint8 else image_B3HW.float()
    height, width = image.shape[-2:]
    return F.interpolate(
        image, (max(1, height // 2), max(1, width // 2)), mode="bilinear", align_corners=False
    )


@torch.no_grad()
def affinity_kernel(
    image_B3HW: Tensor,
    dilations: tuple[int, ...] = DILATIONS,
    spread: float = 0.3,
    position_weight: float = 0.01,
) -> Kernel:
    """Weights of a pixel's neighbours by similarity of colour and, slightly, by distance (AFA).

        w_j = softmax_j(mean over rgb of -(|I_j - I_0| / (std_j(I_j) + 1e-8) / spread)^2)
            + position_weight * softmax_j(-(r_j / (std(r) + 1e-8) / spread)^2)

    Both standard deviations are unbiased, over the J = 8 x len(dilations) neighbours.

    Args:
        image_B3HW: float in [0, 1], at the size at which maps are refined (see `half_size`).
        dilations: distances of the neighbours in pixels; diagonal ones are sqrt(2) times as far.
        spread: width of both kernels, in standard deviations.
        position_weight: weight of the second term; not normalised, so maps grow by this share in
            each iteration, as in the released code.
    """
    image, offsets = image_B3HW.float(), _offsets(dilations)
    height, width = image.shape[-2:]
    reach = max(dilations)
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    neighbours = [
        padded[..., reach + down :, reach + right :][..., :height, :width]
        for down, right in offsets
    ]
    # two passes: the difference of two large sums would cancel the variance of flat patches
    mean = torch.zeros_like(image)
    for neighbour in neighbours:
        mean += neighbour
    mean /= len(offsets)
    variance = torch.zeros_like(image)
    for neighbour in neighbours:
        away = neighbour - mean
        variance.addcmul_(away, away)
    scale = 1 / (((variance / (len(offsets) - 1)).sqrt() + 1e-8) * spread)
    likeness = image.new_empty(image.shape[0], len(offsets), height, width)
    for j, neighbour in enumerate(neighbours):
        torch.mean(((neighbour - image) * scale).square_(), dim=1, out=likeness[:, j])
    weight = likeness.neg_().permute(0, 2, 3, 1).flatten(0, 2).softmax(dim=1)
    position_J = position_weights(dilations, spread, position_weight)
    weight += position_J.to(weight.device, non_blocking=True)
    index = _neighbours(image.shape[0], height, width, offsets, image.device)
    return Kernel(weight, index, (height, width))


def position_weights(
    dilations: tuple[int, ...] = DILATIONS, spread: float = 0.3, position_weight: float = 0.01
) -> Tensor:
    """The second term of the weights, the same for every pixel, float32 [J]."""
    radius = torch.tensor([math.hypot(*offset) for offset in _offsets(dilations)])
    return position_weight * (-(radius / (radius.std() + 1e-8) / spread).square()).softmax(dim=0)


@torch.no_grad()
def refine(map_BCHW: Tensor, kernel: Kernel, iterations: int = 10) -> Tensor:
    """Replace each pixel by the weighted sum of its neighbours, `iterations` times (AFA).

        for each iteration, pixel p and class c:
            new[c][p] = sum over j of w[p][j] * old[c][neighbour(p, j)]

    Args:
        map_BCHW: maps of any number of classes, of any floating dtype; resized to the kernel's size
            first (bilinear, with aligned corners only here, as in the released code).
        kernel: of the batch's images.
        iterations: 10 in AFA.

    Returns: float32 [B, C, H, W] of the kernel's size.
    """
    maps = map_BCHW.float()
    if maps.shape[-2:] != kernel.size:
        maps = F.interpolate(maps, kernel.size, mode="bilinear", align_corners=True)
    rows_NC = maps.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
    for _ in range(iterations):
        # embedding_bag sums J weighted rows in one pass over memory; adding J shifted maps takes J
        rows_NC = F.embedding_bag(
            kernel.index_NJ, rows_NC, per_sample_weights=kernel.weight_NJ, mode="sum"
        )
    return rows_NC.view(maps.shape[0], *kernel.size, -1).permute(0, 3, 1, 2)


def _offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(down * far, right * far) for far in dilations for down, right in _AROUND]


def _neighbours(
    batch: int, height: int, width: int, offsets: list[tuple[int, int]], device: torch.device
) -> Tensor:
    """Rows of every pixel's neighbours, int32 [N, J]; clamped, which equals replicate padding."""
    # created on a GPU, a tensor from a list would synchronise with the device
    down, right = torch.tensor(offsets, dtype=torch.int32).to(device, non_blocking=True).unbind(1)
    rows, columns, images = (
        torch.arange(size, dtype=torch.int32, device=device).unsqueeze(1)
        for size in (height, width, batch)
    )
    y, x = (rows + down).clamp(0, height - 1), (columns + right).clamp(0, width - 1)
    inside = (y.unsqueeze(1) * width + x).view(1, -1)
    return (images * (height * width) + inside).view(-1, len(offsets))
