"""timm's plain Vision Transformers: ViT, DeiT, DINOv2, DINOv3, CLIP, SigLIP, EVA and the like.

All four maps have one resolution: the tokens after four blocks, each through the model's final
normalisation, without class and register tokens. Which blocks, and the normalisation, are those of
DINOv2's dense heads, of DPT and of UniMatch V2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import timm
import torch.nn.functional as F
from timm.models import eva, vision_transformer
from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.networks.timm_encoder import TimmEncoder
from u2pl.notation import COLOURS

#: timm's modules of these models.
MODULES = ("vision_transformer", "deit", "eva", "vision_transformer_hybrid")

#: Number of maps.
MAPS = 4

#: Tensor of the patch embedding.
PATCHES = "patch_embed.proj.weight"

#: Blocks whose tokens are the maps, counted from 0, by the number of blocks: DINOv2's choice where
#: it is not `last_of_quarters`.
TAPS = {24: (4, 11, 17, 23)}


class PlainViT(TimmEncoder):
    """Four maps of tokens, at the stride of a patch.

    A token stands for 8, 16 or 32 image pixels per side. If the patch has another side, such as
    DINOv2's 14, the image is resized so that the patch covers that many: maps and image then fit
    together like those of any other encoder, and a patch of 14 sees what one of 16 would.

    Args:
        model: timm's, made for images of any size.
        name: as timm calls it, with the tag of its weights or without.
        channels: of the images that it is made for.

    Raises:
        UserError: It has fewer than four blocks.
    """

    def __init__(self, model: nn.Module, name: str, channels: int = COLOURS) -> None:
        super().__init__()
        vit: Any = model
        if len(vit.blocks) < MAPS:
            raise UserError(
                f"network.encoder={name} has {len(vit.blocks)} blocks, and {MAPS} maps are needed: "
                "choose a deeper one"
            )
        #: Whether the final normalisation is called `fc_norm`, in models that average tokens first.
        self.averages = isinstance(vit.norm, nn.Identity) and not isinstance(
            vit.fc_norm, nn.Identity
        )
        if self.averages:
            vit.norm, vit.fc_norm = vit.fc_norm, nn.Identity()
        if getattr(vit, "attn_pool", None) is not None:
            vit.attn_pool = None
        # all that is not repeated in each block: two of hundreds of tensors are easily missed
        self.needed = tuple(key for key in vit.state_dict() if not key.startswith("blocks."))
        self.model = model
        self.patch = int(vit.patch_embed.feat_ratio())
        self.taps = TAPS.get(len(vit.blocks), last_of_quarters(len(vit.blocks)))
        stride = 2 ** round(math.log2(self.patch))
        self.channels = (vit.embed_dim,) * MAPS
        self.strides = (stride,) * MAPS
        self.divisor = stride
        self._set_colours(name, channels)

    @classmethod
    def names(cls) -> Collection[str]:
        return timm.list_models(module=MODULES)

    @classmethod
    def knows(cls, name: str) -> bool:
        return timm.models.is_model_in_modules(name, MODULES)

    @classmethod
    def build(cls, name: str, output_stride: int, channels: int = COLOURS) -> PlainViT:
        """An encoder with random weights; it has one stride, whatever the output stride is."""
        try:
            model = timm.create_model(name, num_classes=0, dynamic_img_size=True, in_chans=channels)
        except RuntimeError as error:  # no such tag
            raise UserError(f"network.encoder={name} cannot be built ({error})") from error
        return cls(model, name, channels)

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        vit: Any = self.model
        maps: list[Tensor] = vit.forward_intermediates(
            self.fitted(image_B3HW), indices=self.taps, norm=True, intermediates_only=True
        )
        return maps

    def fitted(self, image_B3HW: Tensor) -> Tensor:
        """The image with a patch for each token, resized if a patch covers fewer pixels."""
        stride = self.strides[0]
        if self.patch == stride:
            return image_B3HW
        size = [side // stride * self.patch for side in image_B3HW.shape[-2:]]
        return F.interpolate(image_B3HW, size, mode="bilinear", align_corners=False, antialias=True)

    def own_tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of timm's own files, or of a release in its authors' spelling, by timm's names.

        A table of positions of another size is resampled, as timm does it.

        Raises:
            UserError: They are of another encoder.
        """
        model: Any = self.model
        try:
            if isinstance(model, eva.Eva):
                found = eva.checkpoint_filter_fn(dict(state), model)
            else:
                found = vision_transformer.checkpoint_filter_fn(
                    dict(state), model, adapt_layer_scale=True
                )
        except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the weights are those of another encoder ({reason}); check network.encoder"
            ) from error
        patches = state.get(PATCHES)
        if patches is not None and patches.dim() == 4:  # timm would fit those of any size
            found[PATCHES] = patches
        if not self.averages:
            return found
        return {re.sub(r"^fc_norm\.", "norm.", key): tensor for key, tensor in found.items()}


def last_of_quarters(blocks: int) -> tuple[int, ...]:
    """The last block of each quarter of the blocks, counted from 0."""
    return tuple(-(-blocks * quarter // MAPS) - 1 for quarter in range(1, MAPS + 1))
