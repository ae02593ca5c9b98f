"""Which pixels serve the contrast when only tags are known (000 Eqs 29-31)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from u2pl.maps import downsample, top_class
from u2pl.methods.pixel_contrast import ContrastConfig
from u2pl.notation import IGNORE
from u2pl.pseudo.select import Candidates


class WeakContrastConfig(ContrastConfig):
    """Pixel contrast of the foreground classes."""

    queue: int = Field(
        5_000, gt=0, description="keys remembered for each class (ours; the paper gives none)"
    )
    keys: int = Field(512, gt=0, description="new keys of a class and step at most (ours)")

    def new_keys(self, num_classes: int) -> int:
        return min(self.keys, self.queue)


class TagNegativesConfig(BaseModel):
    """What makes a pixel a negative of a class; every row of 000 Tab. 14 is a combination of these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    untagged: bool = Field(
        True, description="pixels of images without the class's tag, 1[y_c = 0] in 000 Eq 31"
    )
    unreliable: bool = Field(
        True, description="pixels whose map of the class is below beta, 1[M_c < beta] in 000 Eq 31"
    )


@torch.no_grad()
def select_by_tags(
    cam_BKHW: Tensor,
    tags_BK: Tensor,
    valid_BHW: Tensor,
    size: tuple[int, int],
    beta: float,
    negatives: TagNegativesConfig,
) -> Candidates:
    """Candidates at feature size, for the K foreground classes from 0.

    A pixel is an anchor of c where M_c > beta is the highest map (Eq 29), and belongs to c's prototype then (Eq 30); it is a negative of c
    where the image has no tag c, or M_c < beta (Eq 31). Padding is neither.

    Args:
        cam_BKHW: normalised maps M of the tagged classes, 0 for the others.
        tags_BK: bool.
        valid_BHW: bool, False on padding.
        size: (h, w) of the embeddings.
        beta: what the map of a reliable pixel exceeds.
        negatives: which of the two conditions count.
    """
    cam = F.interpolate(cam_BKHW, size, mode="bilinear", align_corners=False)
    valid = downsample(valid_BHW)
    anchor = torch.where((cam.amax(dim=1) > beta) & valid, top_class(cam), IGNORE)
    untagged = (~tags_BK)[:, :, None, None].expand_as(cam)
    negative = torch.zeros_like(untagged)
    if negatives.untagged:
        negative = negative | untagged
    if negatives.unreliable:
        # the map of a class without tag is 0 throughout and says nothing; its pixels are negatives by the other condition alone
        negative = negative | ((cam < beta) & ~untagged)
    return Candidates(anchor, anchor, negative & valid.unsqueeze(1))
