"""Class prototypes: a momentum-averaged embedding of each class."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from u2pl import distributed
from u2pl.maps import top_class, upsample
from u2pl.notation import IGNORE
from u2pl.pseudo.denoise import denoise, prototype_weight


class PrototypeConfig(BaseModel):
    """How prototypes are updated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    momentum: float = Field(
        0.999, ge=0, lt=1, description="momentum of the prototypes (U2PL+ Eq 18)"
    )


class DenoisingConfig(PrototypeConfig):
    """How prototypes are updated, and how they denoise pseudo-labels."""

    denoise: bool = Field(
        True, description="denoise pseudo-labels by their distance to prototypes (U2PL+ Eqs 19-20)"
    )
    raw_distance: bool = Field(
        False,
        description="distance of raw vectors, literally U2PL+ Eq 19; off: of unit vectors",
    )


def class_means(embed_BDhw: Tensor, label_Bhw: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean embedding of each class over the global batch (U2PL Eq 12, U2PL+ Eq 15).

    Args:
        embed_BDhw: float embeddings.
        label_Bhw: integer class ids, 255 = ignore.
        num_classes: C.

    Returns:
        Means float32 [C, D], 0 for a class without pixels, and numbers of pixels float32 [C].
    """
    slot_Bhw = torch.where(label_Bhw == IGNORE, num_classes, label_Bhw)
    sums_BCD, count_BC = sums_by_slot(embed_BDhw, slot_Bhw, num_classes)
    sums, count = distributed.total(sums_BCD.sum(dim=0)), distributed.total(count_BC.sum(dim=0))
    return sums / count.clamp(min=1).unsqueeze(1), count


def sums_by_slot(embed_BDhw: Tensor, slot_Bhw: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Sum of the embeddings of each slot in each image, and numbers of pixels.

    Args:
        embed_BDhw: float embeddings.
        slot_Bhw: integer slot of each pixel; `slots` means none.
        slots: S.

    Returns:
        float32 [B, S, D] and [B, S].
    """
    slot_BN = slot_Bhw.long().flatten(1)
    member = embed_BDhw.new_zeros(slot_BN.shape[0], slots + 1, slot_BN.shape[1])
    member = member.scatter_(1, slot_BN.unsqueeze(1), 1.0)[:, :slots].float()
    # no autocast: it would compute and return the sums in 16 bits
    with torch.autocast(embed_BDhw.device.type, enabled=False):
        sums = torch.bmm(member, embed_BDhw.float().flatten(2).transpose(1, 2))
    return sums, member.sum(dim=2)


class Prototypes(nn.Module):
    """Momentum prototypes: z_proto <- m z_proto + (1 - m) z'_proto (U2PL+ Eq 18).

    Ours: the momentum is min(1 - 1/n_c, m), with n_c the number of steps in which class c occurred,
    so a prototype starts as a plain mean instead of near zero.

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
        """Which classes have a prototype, bool [C]."""
        return self.seen > 0

    @torch.no_grad()
    def update(self, embed_BDhw: Tensor, label_Bhw: Tensor) -> None:
        """Update the prototypes of the classes that occur in this step; the others are unchanged.

        Args:
            embed_BDhw: the teacher's embeddings.
            label_Bhw: integer class ids, 255 = ignore.
        """
        mean, count = class_means(embed_BDhw, label_Bhw, len(self.seen))
        present = count > 0
        self.seen += present
        weight = (1 - (1 - 1 / self.seen.clamp(min=1)).clamp(max=self.config.momentum)) * present
        self.center.lerp_(mean, weight.unsqueeze(1))


class DenoisingPrototypes(Prototypes):
    """Momentum prototypes that denoise pseudo-labels.

    Args:
        config: momentum m, and how pseudo-labels are denoised.
        num_classes: C.
        width: D.
    """

    config: DenoisingConfig

    def __init__(self, config: DenoisingConfig, num_classes: int, width: int) -> None:
        super().__init__(config, num_classes, width)

    def denoised_label(self, prob_BCHW: Tensor, embed_BDhw: Tensor | None) -> Tensor:
        """argmax_c w(c) p(c), int64 [B, H, W] (U2PL+ Eqs 19-20); argmax_c p(c) if switched off.

        Args:
            prob_BCHW: the teacher's probabilities.
            embed_BDhw: the teacher's embeddings of the same images.
        """
        if not self.config.denoise:
            return top_class(prob_BCHW)
        assert embed_BDhw is not None
        weight = prototype_weight(embed_BDhw, self.center, self.known, self.config.raw_distance)
        return top_class(denoise(prob_BCHW, upsample(weight, prob_BCHW.shape[-2:])))
