"""Pixel-adaptive refinement (PAR): class maps follow the image's edges (AFA, Ru et al. 2022; 000, sec. 4.3)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Distances of the neighbours in pixels.
DILATIONS = (1, 2, 4, 8, 12, 24)

#: Steps (down, right) to the eight neighbours at distance 1.
_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


class Kernel(NamedTuple):
    """How much each pixel takes from each of its K neighbours; the pixels of all images in one row after the other, N = B H W."""

    weight_NK: Tensor  # float32; each row sums to 1 + position_weight
    index_NK: Tensor  # int32, which pixel that neighbour is; beyond the border it is the nearest pixel of the image
    size: tuple[int, int]  # H, W


def half_size(image_B3HW: Tensor) -> Tensor:
    """The image at half its size, where AFA refines: float32 [B, 3, H // 2, W // 2] in [0, 1], bilinear.

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
    """Weights of a pixel's neighbours by likeness in colour, and a little by nearness (AFA); float32.

        w_k = softmax_k(mean over rgb of -(|I_k - I_0| / (std_k(I_k) + 1e-8) / spread)^2)
            + position_weight * softmax_k(-(r_k / (std(r) + 1e-8) / spread)^2)

    Both standard deviations are the unbiased ones over the K = 8 x len(dilations) neighbours.

    Args:
        image_B3HW: float in [0, 1], at the size at which maps are refined (see `half_size`).
        dilations: distances of the neighbours; diagonal ones are sqrt(2) times as far.
        spread: of both bells, in standard deviations.
        position_weight: the sum of the second term; a refined map grows by it in each iteration, as in the released code.
    """
    image, offsets = image_B3HW.float(), _offsets(dilations)
    height, width = image.shape[-2:]
    reach = max(dilations)
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    neighbours = [
        padded[..., reach + down :, reach + right :][..., :height, :width]
        for down, right in offsets
    ]
    # in two passes: the difference of two large sums would leave nothing of the variance of a flat patch
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
    for k, neighbour in enumerate(neighbours):
        torch.mean(((neighbour - image) * scale).square_(), dim=1, out=likeness[:, k])
    weight = likeness.neg_().permute(0, 2, 3, 1).flatten(0, 2).softmax(dim=1)
    weight += position_weights(dilations, spread, position_weight).to(
        weight.device, non_blocking=True
    )
    return Kernel(
        weight, _neighbours(image.shape[0], height, width, offsets, image.device), (height, width)
    )


def position_weights(
    dilations: tuple[int, ...] = DILATIONS, spread: float = 0.3, position_weight: float = 0.01
) -> Tensor:
    """The second term of the weights, float32 [K]: the same for every pixel."""
    radius = torch.tensor([math.hypot(*offset) for offset in _offsets(dilations)])
    return position_weight * (-(radius / (radius.std() + 1e-8) / spread).square()).softmax(dim=0)


@torch.no_grad()
def refine(map_BCHW: Tensor, kernel: Kernel, iterations: int = 10) -> Tensor:
    """Replace each pixel by the weighted sum of its neighbours, `iterations` times; no class sees another (AFA).

        for each iteration, pixel p and class c:
            new[c][p] = sum over k of w[p][k] * old[c][neighbour(p, k)]

    Args:
        map_BCHW: maps of any number of classes, in any floating dtype; those of another size than the kernel's are brought to it first
            (bilinear with aligned corners, as in the released code, which does so here alone).
        kernel: of the batch's images.
        iterations: 10 in AFA.

    Returns: float32 [B, C, H, W] of the kernel's size.
    """
    maps = map_BCHW.float()
    if maps.shape[-2:] != kernel.size:
        maps = F.interpolate(maps, kernel.size, mode="bilinear", align_corners=True)
    rows_NC = maps.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
    for _ in range(iterations):
        # a weighted sum of K rows of a table: one pass over memory where adding up K shifted maps takes K
        rows_NC = F.embedding_bag(
            kernel.index_NK, rows_NC, per_sample_weights=kernel.weight_NK, mode="sum"
        )
    return rows_NC.view(maps.shape[0], *kernel.size, -1).permute(0, 3, 1, 2)


def _offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(down * far, right * far) for far in dilations for down, right in _AROUND]


def _neighbours(
    batch: int, height: int, width: int, offsets: list[tuple[int, int]], device: torch.device
) -> Tensor:
    """Row numbers of every pixel's neighbours, int32 [N, K]; clamping is what replicate padding does."""
    # made on a GPU, a tensor of a list's numbers would be waited for
    down, right = torch.tensor(offsets, dtype=torch.int32).to(device, non_blocking=True).unbind(1)
    rows, columns, images = (
        torch.arange(size, dtype=torch.int32, device=device).unsqueeze(1)
        for size in (height, width, batch)
    )
    y, x = (rows + down).clamp(0, height - 1), (columns + right).clamp(0, width - 1)
    inside = (y.unsqueeze(1) * width + x).view(1, -1)
    return (images * (height * width) + inside).view(-1, len(offsets))
