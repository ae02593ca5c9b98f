"""Pseudo-labels from activation maps, by refinement and random walk (AFA; U2PL+ sec. 4.3).

B H W h w as in u2pl.notation; K: foreground classes, class id = index + 1; C = 1 + K; S: tagged
classes of an image, padded to the largest number of tags; n: tokens of a feature map, row by row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.maps import top_class
from u2pl.notation import IGNORE
from u2pl_ws.pixel_refinement import Kernel, refine

#: Background score at which every pixel gets a class (AFA).
BACKGROUND = 0.45


class Levels(NamedTuple):
    """Two background scores, to tell certain pixels from uncertain ones.

    Foreground even at the high score is certain; background even at the low score is certain;
    between them is uncertain.
    """

    high: float = 0.55
    low: float = 0.35


class TaggedMaps(NamedTuple):
    """Maps of each image's tagged classes, padded to S, the largest number of tags."""

    cam_BSHW: Tensor  # float32
    tagged_BS: Tensor  # bool; False on padding, whose maps are never used
    class_BS: Tensor  # int64 class ids


def tagged_maps(cam_BKHW: Tensor, tags_BK: Tensor, most: int | None = None) -> TaggedMaps:
    """Gather the maps of the tagged classes, in the order of their ids.

    Args:
        cam_BKHW: float maps.
        tags_BK: bool, which classes an image shows.
        most: S; known before training, it saves time and memory. An image with more tags loses
            those with the highest ids. None keeps all K.
    """
    first = tags_BK.bool().int().argsort(dim=1, descending=True, stable=True)[:, :most]
    cam = cam_BKHW.take_along_dim(first[:, :, None, None], dim=1)
    return TaggedMaps(cam.float(), tags_BK.bool().take_along_dim(first, dim=1), first + 1)


def class_probability(cam_BKhw: Tensor, tags_BK: Tensor, background: float) -> Tensor:
    """softmax over a constant background score and the tagged classes, float32 [B, 1 + K, h, w].

    Classes without tag get 0.
    """
    scores = torch.where(tags_BK.bool()[:, :, None, None], cam_BKhw.float(), -torch.inf)
    return F.pad(scores, (0, 0, 0, 0, 1, 0), value=background).softmax(dim=1)


@torch.no_grad()
def random_walk(
    map_BChw: Tensor, affinity_Bnn: Tensor, near_nn: Tensor | None = None, smoothing: float = 0.1
) -> Tensor:
    """One step of a random walk over the tokens, float32 [B, C, h, w] (AFA).

        A[i][j] = (A[i][j] * near[i][j])^2
        new[j] = sum over i of old[i] * A[i][j] / (sum over i of A[i][j] + smoothing)

    Args:
        map_BChw: maps at the tokens, n = h w.
        affinity_Bnn: of each pair of tokens, in [0, 1].
        near_nn: bool or 0/1, which pairs are within the radius; None: all.
        smoothing: avoids division by 0 at tokens without affinity to any other.
    """
    affinity = affinity_Bnn.float().square()
    affinity = affinity if near_nn is None else affinity * near_nn
    with torch.autocast(affinity.device.type, enabled=False):
        total = affinity.sum(dim=1, keepdim=True) + smoothing
        spread = map_BChw.float().flatten(2) @ affinity / total
    return spread.unflatten(2, map_BChw.shape[2:])


@torch.no_grad()
def refined_label(
    maps: TaggedMaps, kernel: Kernel, valid_BHW: Tensor, levels: Levels | None = None
) -> Tensor:
    """Pseudo-labels from the maps after pixel-adaptive refinement, int64 [B, H, W].

    255 = uncertain or padding.

    Args:
        maps: of the tagged classes, at the image's size.
        kernel: of the half-size image.
        valid_BHW: bool, False on padding, whose colour affects the refinement like any other.
        levels: background scores.
    """
    small = F.interpolate(maps.cam_BSHW, kernel.size, mode="bilinear", align_corners=False)
    return agreed_label(_at_both(small, maps.tagged_BS, levels), maps.class_BS, kernel, valid_BHW)


@torch.no_grad()
def refined_maps_label(
    maps: TaggedMaps, kernel: Kernel, valid_BHW: Tensor, background: float
) -> Tensor:
    """As `refined_label`, with one background score, so that every pixel gets a class.

    For scoring the maps themselves.
    """
    return refined_label(maps, kernel, valid_BHW, Levels(background, background))


@torch.no_grad()
def walked_label(
    maps: TaggedMaps,
    affinity_Bnn: Tensor,
    near_nn: Tensor,
    grid: tuple[int, int],
    kernel: Kernel,
    valid_BHW: Tensor,
    levels: Levels | None = None,
) -> Tensor:
    """Pseudo-labels from the maps after random walk and refinement, int64 [B, H, W].

    255 = uncertain or padding. (Released: padding is cut off before the refinement.)

    Args:
        maps: of the tagged classes, at the image's size.
        affinity_Bnn: of each pair of tokens, in [0, 1].
        near_nn: bool, which pairs are within the radius.
        grid: h, w of the tokens.
        kernel: of the half-size image.
        valid_BHW: bool, False on padding.
        levels: background scores.
    """
    small = F.interpolate(maps.cam_BSHW, grid, mode="bilinear", align_corners=False)
    spread = random_walk(_at_both(small, maps.tagged_BS, levels), affinity_Bnn, near_nn)
    spread = F.interpolate(spread, valid_BHW.shape[1:], mode="bilinear", align_corners=False)
    return agreed_label(spread, maps.class_BS, kernel, valid_BHW)


def agreed_label(both_BChw: Tensor, class_BS: Tensor, kernel: Kernel, valid_BHW: Tensor) -> Tensor:
    """Refine the probabilities at both background scores, and merge their argmax, int64 [B, H, W].

    | argmax at the high score | at the low score | label |
    |---|---|---|
    | class c | any | c |
    | background | background | 0 |
    | background | a class | 255 |

    Args:
        both_BChw: probabilities of background and S classes at the high score, then at the low one;
            C = 2 (1 + S) here.
        class_BS: ids of the S classes.
        kernel: of the half-size image.
        valid_BHW: bool, False on padding, where the label is 255.
    """
    refined = F.interpolate(
        refine(both_BChw, kernel), valid_BHW.shape[1:], mode="bilinear", align_corners=False
    )
    high, low = (top_class(maps) for maps in refined.chunk(2, dim=1))
    ids = F.pad(class_BS, (1, 0)).gather(1, high.flatten(1)).view_as(high)
    label = torch.where((high == 0) & (low > 0), IGNORE, ids)
    return torch.where(valid_BHW, label, IGNORE)


def _at_both(cam_BShw: Tensor, tagged_BS: Tensor, levels: Levels | None) -> Tensor:
    return torch.cat(
        [class_probability(cam_BShw, tagged_BS, level) for level in levels or Levels()], dim=1
    )
