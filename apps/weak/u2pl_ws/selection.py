"""Selecting anchors, positives and negatives from activation maps and tags (U2PL+ Eqs 29-31).

B H W as in u2pl.notation; K: foreground classes, from 0.
"""

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
        5_000, gt=0, description="keys remembered per class (ours; the paper gives none)"
    )
    keys: int = Field(512, gt=0, description="maximum number of new keys per class and step (ours)")

    def new_keys(self, num_classes: int) -> int:
        return min(self.keys, self.queue)


class TagNegativesConfig(BaseModel):
    """Which pixels are negatives of a class; each row of U2PL+ Tab. 14 is one combination."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    untagged: bool = Field(
        True, description="pixels of images without the class's tag, 1[y_c = 0] in U2PL+ Eq 31"
    )
    unreliable: bool = Field(
        True,
        description="pixels whose map of the class is below beta, 1[M_c < beta] in U2PL+ Eq 31",
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
    """Candidates at feature size.

    A pixel is an anchor of c if M_c is the highest map and M_c > beta (U2PL+ Eq 29); the prototype
    of c is the mean of its anchors (U2PL+ Eq 30). A pixel is a negative of c if the image has no
    tag c, or M_c < beta (U2PL+ Eq 31). Padding is neither.

    Args:
        cam_BKHW: normalised maps M, 0 for classes without tag.
        tags_BK: bool.
        valid_BHW: bool, False on padding.
        size: (h, w) of the embeddings.
        beta: threshold on the map above which a pixel is reliable.
        negatives: which of the two conditions are used.
    """
    cam = F.interpolate(cam_BKHW, size, mode="bilinear", align_corners=False)
    valid = downsample(valid_BHW)
    anchor = torch.where((cam.amax(dim=1) > beta) & valid, top_class(cam), IGNORE)
    untagged = (~tags_BK)[:, :, None, None].expand_as(cam)
    negative = torch.zeros_like(untagged)
    if negatives.untagged:
        negative = negative | untagged
    if negatives.unreliable:
        # maps of classes without tag are 0 everywhere: only the other condition applies to them
        negative = negative | ((cam < beta) & ~untagged)
    return Candidates(anchor, anchor, negative & valid.unsqueeze(1))
