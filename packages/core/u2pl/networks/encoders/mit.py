"""SegFormer's Mix Transformer encoders (MiT): U2PL+ sec. 4.2 uses mit_b5, sec. 4.3 mit_b1.

timm's PVTv2 with an MLP ratio of 4 in all stages is MiT; only the names of the tensors differ. The
eps of LayerNorm is 1e-6 in blocks and after stages, and torch's 1e-5 in patch embeddings and on
reduced keys.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import huggingface_hub
import safetensors.torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.networks.encoder import Encoder
from u2pl.networks.licenses import NVIDIA
from u2pl.notation import COLOURS, spread


class Variant(NamedTuple):
    """One size of MiT, and the commit of its ImageNet weights in hub `smp-hub/NAME.imagenet`."""

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    revision: str


LARGE = (64, 128, 320, 512)
VARIANTS = {
    "mit_b0": Variant((2, 2, 2, 2), (32, 64, 160, 256), "9ce53d104d92d75aabb00aae70677aaab67e7c84"),
    "mit_b1": Variant((2, 2, 2, 2), LARGE, "a04bf4f13a549bce677cf79b04852e7510782817"),
    "mit_b2": Variant((3, 4, 6, 3), LARGE, "868ab6f13871dcf8c3d9f90ee4519403475b65ef"),
    "mit_b3": Variant((3, 4, 18, 3), LARGE, "32558d12a65f1daa0ebcf4f4053c4285e2c1cbda"),
    "mit_b4": Variant((3, 8, 27, 3), LARGE, "3a3454e900a4b4f11dd60eeb59101a9a1a36b017"),
    "mit_b5": Variant((3, 6, 40, 3), LARGE, "ced04d96c586b6297fd59a7a1e244fc78fdb6531"),
}
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
DROP_PATH = 0.1  # stochastic depth: linear from 0 to this in the last block; SegFormer's value

#: Supported strides of the last feature map.
OUTPUT_STRIDES = (16, 32)

#: Image sides are multiples of it: in every stage a key covers 32 x 32 image pixels, and
#: pixels outside a complete window get no key.
DIVISOR = 32

#: Prefix of a key in the released files -> prefix in timm.
RELEASED = {
    f"{theirs}{stage + 1}": f"stages.{stage}.{ours}"
    for stage in range(4)
    for theirs, ours in (("patch_embed", "downsample"), ("block", "blocks"), ("norm", "norm"))
} | {"patch_embed1": "patch_embed"}


class MixTransformer(Encoder):
    """Maps at strides 4, 8, 16 and `output_stride`, with random weights.

    Args:
        depths: blocks of each stage.
        dims: channels of each stage.
        heads: attention heads of each stage.
        reductions: spatial reduction of the keys in each stage, per side.
        output_stride: stride of the last map, 32, or 16 by a last patch embedding of stride 1.
        channels: of the images.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        heads: Sequence[int] = HEADS,
        reductions: Sequence[int] = REDUCTIONS,
        output_stride: int = 32,
        channels: int = COLOURS,
    ) -> None:
        super().__init__()
        assert output_stride in OUTPUT_STRIDES, output_stride
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.model = PyramidVisionTransformerV2(
            in_chans=channels,
            num_classes=0,
            depths=tuple(depths),
            embed_dims=tuple(dims),
            num_heads=tuple(heads),
            sr_ratios=tuple(reductions),
            mlp_ratios=(4, 4, 4, 4),
            drop_path_rate=DROP_PATH,
            norm_layer=norm,
        )
        if output_stride == 16:
            last: Any = self.model.stages[-1]
            last.downsample.proj.stride = (1, 1)
        self.channels = tuple(dims)
        self.strides = (4, 8, 16, output_stride)
        self.divisor = DIVISOR
        self.mean = spread(IMAGENET_DEFAULT_MEAN, channels)
        self.std = spread(IMAGENET_DEFAULT_STD, channels)

    @classmethod
    def names(cls) -> Collection[str]:
        return VARIANTS.keys()

    @classmethod
    def build(cls, name: str, output_stride: int, channels: int = COLOURS) -> MixTransformer:
        if output_stride not in OUTPUT_STRIDES:
            raise UserError(
                f"network.encoder={name} has no feature maps at network.output_stride="
                f"{output_stride}; set network.output_stride=16, or network.decoder=daformer, "
                "which runs at 32"
            )
        variant = VARIANTS[name]
        return cls(variant.depths, variant.dims, output_stride=output_stride, channels=channels)

    @classmethod
    def hub_weights(cls, name: str) -> dict[str, Tensor]:
        """Weights released by SegFormer's authors: NVIDIA's, not for commercial use."""
        file = huggingface_hub.hf_hub_download(
            cls.hub_repository(name), "model.safetensors", revision=VARIANTS[name].revision
        )
        return safetensors.torch.load_file(file)

    @classmethod
    def hub_name(cls, name: str) -> str:
        return f"{name}.imagenet at {VARIANTS[name].revision[:12]}"

    @classmethod
    def hub_repository(cls, name: str) -> str:
        return f"smp-hub/{name}.imagenet"

    @classmethod
    def hub_license(cls, name: str) -> str:
        return NVIDIA

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        maps: Any = self.model
        return list(maps.forward_intermediates(image_B3HW, intermediates_only=True))

    def own_key(self, key: str) -> str:
        return timm_key(key)


def timm_key(key: str) -> str:
    """timm's key of a released file's tensor; any other key is returned unchanged."""
    first, dot, rest = key.partition(".")
    return RELEASED.get(first, first) + dot + rest.replace("dwconv.dwconv", "dwconv")
