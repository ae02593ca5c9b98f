"""Masks from activation maps: refined by the image, or spread by the learned affinity first (AFA, Ru et al. 2022; 000, sec. 4.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.maps import top_class
from u2pl.notation import IGNORE
from u2pl_ws.pixel_refinement import Kernel, refine


class Levels(NamedTuple):
    """Two scores of the background: what is foreground even against the high one is certain, what is not against the low one neither."""

    high: float = 0.55
    low: float = 0.35


class TaggedMaps(NamedTuple):
    """Activation maps of the classes that an image is tagged with, first; S maps of each image, as many as the most tags of one."""

    cam_BSHW: Tensor  # float32
    tagged_BS: Tensor  # bool; False fills up images of fewer tags, and nothing reads their maps
    class_BS: Tensor  # int64 class ids


def tagged_maps(cam_BKHW: Tensor, tags_BK: Tensor, most: int | None = None) -> TaggedMaps:
    """Gather the maps of the tagged classes, in the order of their ids.

    Args:
        cam_BKHW: maps of the K foreground classes; class id = index + 1.
        tags_BK: bool, which classes an image shows.
        most: the highest number of tags of an image; known before training, it saves the time and memory of all other classes. An
            image with more of them loses those of the highest ids. None keeps all K.
    """
    first = tags_BK.bool().int().argsort(dim=1, descending=True, stable=True)[:, :most]
    cam = cam_BKHW.take_along_dim(first[:, :, None, None], dim=1)
    return TaggedMaps(cam.float(), tags_BK.bool().take_along_dim(first, dim=1), first + 1)


def class_probability(cam_BKhw: Tensor, tags_BK: Tensor, background: float) -> Tensor:
    """softmax over the background, whose score is a constant, and the tagged classes: float32 [B, 1 + K, h, w]; 0 for the others."""
    scores = torch.where(tags_BK.bool()[:, :, None, None], cam_BKhw.float(), -torch.inf)
    return F.pad(scores, (0, 0, 0, 0, 1, 0), value=background).softmax(dim=1)


@torch.no_grad()
def random_walk(
    map_BChw: Tensor, affinity_BNN: Tensor, near_NN: Tensor | None = None, smoothing: float = 0.1
) -> Tensor:
    """Spread maps along the affinity of tokens, one step: float32 [B, C, h, w] (AFA).

        A[i][j] = (A[i][j] * near[i][j])^2;  new[j] = sum over i of old[i] * A[i][j] / (sum over i of A[i][j] + smoothing)

    Args:
        map_BChw: maps on the grid of tokens, N = h w.
        affinity_BNN: of each pair of tokens, in [0, 1].
        near_NN: bool or 0/1, which pairs are within the radius; all when None.
        smoothing: keeps a token that is like no other from dividing by 0.
    """
    affinity = affinity_BNN.float().square()
    affinity = affinity if near_NN is None else affinity * near_NN
    with torch.autocast(affinity.device.type, enabled=False):
        spread = (
            map_BChw.float().flatten(2) @ affinity / (affinity.sum(dim=1, keepdim=True) + smoothing)
        )
    return spread.unflatten(2, map_BChw.shape[2:])


@torch.no_grad()
def refined_label(
    maps: TaggedMaps, kernel: Kernel, valid_BHW: Tensor, levels: Levels | None = None
) -> Tensor:
    """Labels from the maps refined by the image: int64 [B, H, W], 255 = uncertain or padding.

    Args:
        maps: of the tagged classes, at the image's size.
        kernel: of the half-size image.
        valid_BHW: bool, False on padding. Its colour takes part in the refinement like any other.
        levels: the background's scores.
    """
    small = F.interpolate(maps.cam_BSHW, kernel.size, mode="bilinear", align_corners=False)
    return agreed_label(_at_both(small, maps.tagged_BS, levels), maps.class_BS, kernel, valid_BHW)


@torch.no_grad()
def refined_maps_label(
    maps: TaggedMaps, kernel: Kernel, valid_BHW: Tensor, background: float
) -> Tensor:
    """A class for every pixel from the refined maps, against one score of the background: int64 [B, H, W]; to score the maps themselves.

    Args as for `refined_label`.
    """
    return refined_label(maps, kernel, valid_BHW, Levels(background, background))


@torch.no_grad()
def walked_label(
    maps: TaggedMaps,
    affinity_BNN: Tensor,
    near_NN: Tensor,
    grid: tuple[int, int],
    kernel: Kernel,
    valid_BHW: Tensor,
    levels: Levels | None = None,
) -> Tensor:
    """Labels from the maps spread by the random walk, then refined by the image: int64 [B, H, W], 255 = uncertain or padding.

    (Released: images are cut out of their padding before the refinement.)

    Args:
        maps: of the tagged classes, at the image's size.
        affinity_BNN: of the tokens, in [0, 1].
        near_NN: which pairs of them are within the radius.
        grid: h, w of the tokens.
        kernel: of the half-size image.
        valid_BHW: bool, False on padding.
        levels: the background's scores.
    """
    small = F.interpolate(maps.cam_BSHW, grid, mode="bilinear", align_corners=False)
    spread = random_walk(_at_both(small, maps.tagged_BS, levels), affinity_BNN, near_NN)
    spread = F.interpolate(spread, valid_BHW.shape[1:], mode="bilinear", align_corners=False)
    return agreed_label(spread, maps.class_BS, kernel, valid_BHW)


def agreed_label(both_BChw: Tensor, class_BS: Tensor, kernel: Kernel, valid_BHW: Tensor) -> Tensor:
    """Refine two sets of maps and merge what they say.

    | against the high background | against the low one | label |
    |---|---|---|
    | class c | any | c |
    | background | background | 0 |
    | background | a class | 255 |

    Args:
        both_BChw: maps of background and S classes against the high background, then those against the low one; C = 2 (1 + S).
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
