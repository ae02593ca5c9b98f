"""Perturbation of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from u2pl import distributed


def drop_channels(map_BDhw: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set channels of each image to 0, and scale the others by 1 / (1 - share) (UniMatch).

    As `dropout2d`, but what is dropped follows from the image's place in the global batch, so it
    does not depend on the number of processes.

    Args:
        map_BDhw: any floating dtype.
        share: probability of a channel to be dropped, in [0, 1).
        generator: the step's, equal on all processes.
    """
    count = len(map_BDhw) * distributed.world_size(), map_BDhw.shape[1]
    draw = torch.rand(*count, generator=generator, device=generator.device)
    kept_BD = distributed.local_rows(draw).to(map_BDhw.device) >= share
    scale = (kept_BD / (1 - share)).to(map_BDhw.dtype)
    return map_BDhw * scale[:, :, None, None]


def drop_complementary(
    maps: Sequence[Tensor], whole: float, generator: torch.Generator
) -> list[Tensor]:
    """Drop channels in one of an image's two views, and double them in the other (UniMatch V2).

        for b in range(B):
            for map in maps:
                for d in range(map.D):
                    factor = 1 if b in spared else 2 * coin[b, d]
                    map[b, d] *= factor
                    map[B + b, d] *= 2 - factor

    The same channels are dropped from all maps; one of fewer channels takes the first coins. What
    is drawn follows from the image's place in the global batch, as for `drop_channels`.

    Args:
        maps: an encoder's, [2B, D, h, w] with a D, h and w of their own: the first views of B
            images, then their second views; any floating dtype.
        whole: share of the images, rounded down, whose views keep all channels.
        generator: the step's, equal on all processes.
    """
    images, width = len(maps[0]) // 2, max(each.shape[1] for each in maps)
    count = images * distributed.world_size()
    draw = torch.rand(count, 1 + width, generator=generator, device=generator.device)
    spared = draw[:, 0].argsort().argsort() < int(whole * count)
    factor = torch.where(spared.unsqueeze(1), 1.0, 2.0 * (draw[:, 1:] < 0.5))
    first_BD = distributed.local_rows(factor).to(maps[0].device)
    both = torch.cat([first_BD, 2 - first_BD]).to(maps[0].dtype)
    return [each * both[:, : each.shape[1], None, None] for each in maps]
