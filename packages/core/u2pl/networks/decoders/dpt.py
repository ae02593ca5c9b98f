"""DPT: maps brought to strides 4, 8, 16 and 32, then fused from deep to fine (Ranftl et al. 2021).

"Vision Transformers for Dense Prediction" (ICCV 2021), as in UniMatch V2: no normalisation, and the
widths of its networks on DINOv2. Ours: the last enlargement, to half of the image, is left out; a
1x1 convolution precedes its enlargement, which is the same and cheaper; and the deepest block has
no residual unit for a second map, which it does not get.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import Encoder
from u2pl.networks.parts import DecoderFacts, Parts, representation_head

FACTS = DecoderFacts(strides=(32, 16, 8), width=0, dropout=0.0, any_stride=True)

#: Image pixels per pixel of the maps that are fused.
STRIDES = (4, 8, 16, 32)


def build(config: NetworkConfig, encoder: Encoder, num_classes: int) -> Parts:
    """The fusion and two heads; trainable with one image per process."""
    width = config.width
    classifier = nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Dropout2d(config.dropout),
        nn.Conv2d(width, num_classes, 1),
    )
    decoder = Decoder(encoder.channels, encoder.strides, width)
    embedder = representation_head(width, config, hidden=max(width, config.embed_dim))
    return Parts(decoder, classifier, embedder, min_images=1)


def inner_channels(channels: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Channels of each map at its new resolution.

    Those of a pyramid stay; of tokens a fine map takes fewer (UniMatch V2's on DINOv2 S, B, L, g).
    """
    tokens = channels[0]
    if len({*strides}) > 1 or tokens >= 1536:
        return tuple(channels)
    if tokens >= 1024:
        return tokens // 4, tokens // 2, tokens, tokens
    return tokens // 8, tokens // 4, tokens // 2, tokens


class Decoder(nn.Module):
    """Four maps -> [B, width, h, w] at stride 4.

    Args:
        channels: of each map.
        strides: of each map.
        width: channels of the fused map.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int) -> None:
        super().__init__()
        each = zip(channels, inner_channels(channels, strides), strides, STRIDES, strict=True)
        self.reassemble = nn.ModuleList(reassembly(*sizes, width) for sizes in each)
        deepest = len(STRIDES) - 1
        self.fuse = nn.ModuleList(Fusion(width, i != deepest) for i in range(len(STRIDES)))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        pairs = zip(self.reassemble, features, strict=True)
        *finer, deepest = (reassemble(feature) for reassemble, feature in pairs)
        *blocks, last = self.fuse
        fused: Tensor = last(deepest)
        for block, skip in zip(reversed(blocks), reversed(finer), strict=True):
            size = skip.shape[-2:]
            fused = F.interpolate(fused, size, mode="bilinear", align_corners=True)
            fused = block(fused, skip)
        return fused


def reassembly(
    in_channels: int, inner: int, stride: int, new_stride: int, width: int
) -> nn.Sequential:
    """1x1 to `inner` channels, then to the new stride, then 3x3 to `width` channels."""
    resize: nn.Module = nn.Identity()
    if stride > new_stride:
        factor = stride // new_stride
        resize = nn.ConvTranspose2d(inner, inner, factor, stride=factor)
    elif stride < new_stride:
        resize = nn.Conv2d(inner, inner, 3, stride=new_stride // stride, padding=1)
    return nn.Sequential(
        nn.Conv2d(in_channels, inner, 1),
        resize,
        nn.Conv2d(inner, width, 3, padding=1, bias=False),
    )


class Fusion(nn.Module):
    """The map from below, and a residual unit of another one added to it; a unit on the sum; 1x1.

    Args:
        width: channels.
        skips: whether there is another map.
    """

    def __init__(self, width: int, skips: bool) -> None:
        super().__init__()
        self.skip = Residual(width) if skips else None
        self.sum = Residual(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, below: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip is not None:
            below = below + self.skip(skip)
        projected: Tensor = self.project(self.sum(below))
        return projected


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), both convolutions 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, feature: Tensor) -> Tensor:
        return feature + self.inner(feature)
