"""Perturbation of feature maps."""

from __future__ import annotations

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
