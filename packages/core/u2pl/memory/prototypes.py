"""The centre of each class in the representation space."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.maps import top_class, upsample
from u2pl.notation import IGNORE
from u2pl.pseudo.denoise import denoise, prototype_weight


class PrototypeConfig(BaseModel):
    """Class prototypes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    momentum: float = Field(0.999, ge=0, lt=1, description="momentum of the prototypes (000 Eq 18)")


class DenoisingConfig(PrototypeConfig):
    """Class prototypes and what they correct."""

    denoise: bool = Field(
        True, description="correct pseudo-labels by the distance to the prototypes (000 Eqs 19-20)"
    )
    raw_distance: bool = Field(
        False,
        description="distances of the vectors as they are, not of unit vectors (000 Eq 19 to the letter)",
    )


def class_means(embed_BDhw: Tensor, label_Bhw: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean embedding of the pixels of each class over all processes, and their number (000 Eq 15, 004 Eq 12).

    Args:
        embed_BDhw: float embeddings.
        label_Bhw: integer class of each pixel, 255 = of none.
        num_classes: C.

    Returns:
        float32 [C, D] (zeros for a class without pixels) and float32 [C].
    """
    safe = torch.where(label_Bhw == IGNORE, num_classes, label_Bhw).long().flatten(1)
    batch, pixels = safe.shape
    member = torch.zeros(
        batch, num_classes + 1, pixels, dtype=embed_BDhw.dtype, device=embed_BDhw.device
    )
    member = member.scatter_(1, safe.unsqueeze(1), 1.0)[:, :num_classes]
    with torch.autocast(
        embed_BDhw.device.type, enabled=False
    ):  # it would multiply and return sums in 16 bits
        sums = torch.bmm(member.float(), embed_BDhw.float().flatten(2).transpose(1, 2)).sum(dim=0)
    sums, count = distributed.total(sums), distributed.total(member.float().sum(dim=(0, 2)))
    return sums / count.clamp(min=1).unsqueeze(1), count


class Prototypes(nn.Module):
    """Momentum prototypes: z_proto <- m z_proto + (1 - m) z'_proto (000 Eq 18).

    The momentum is min(1 - 1/n_c, m) with n_c the steps that saw class c (ours), so a prototype starts as a plain mean and not near zero.

    Args:
        config: momentum m.
        num_classes: C.
        width: D.
    """

    def __init__(self, config: PrototypeConfig, num_classes: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("center", torch.zeros(num_classes, width))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.int64))

    center: Tensor
    seen: Tensor

    @property
    def known(self) -> Tensor:
        """Bool [C]: which classes have a prototype."""
        return self.seen > 0

    @torch.no_grad()
    def update(self, embed_BDhw: Tensor, label_Bhw: Tensor) -> None:
        """Move the prototype of each class that occurs towards its mean in this step; the others stay untouched."""
        mean, count = class_means(embed_BDhw, label_Bhw, len(self.seen))
        present = count > 0
        self.seen += present
        weight = (1 - (1 - 1 / self.seen.clamp(min=1)).clamp(max=self.config.momentum)) * present
        self.center.lerp_(mean, weight.unsqueeze(1))


class DenoisingPrototypes(Prototypes):
    """Prototypes that correct pseudo-labels.

    Args:
        config: momentum m, and how pseudo-labels are corrected.
        num_classes: C.
        width: D.
    """

    config: DenoisingConfig

    def __init__(self, config: DenoisingConfig, num_classes: int, width: int) -> None:
        super().__init__(config, num_classes, width)

    def denoised_label(self, prob_BCHW: Tensor, embed_BDhw: Tensor) -> Tensor:
        """argmax_c of w(c) p(c) (000 Eqs 19-20), int64 [B, H, W]; argmax_c of p(c) where nothing is to be corrected."""
        if not self.config.denoise:
            return top_class(prob_BCHW)
        weight = prototype_weight(embed_BDhw, self.center, self.known, self.config.raw_distance)
        return top_class(denoise(prob_BCHW, upsample(weight, prob_BCHW.shape[-2:])))
