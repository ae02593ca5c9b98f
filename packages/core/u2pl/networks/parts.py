"""What a file in `decoders/` provides, and the blocks that decoders share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import nn

if TYPE_CHECKING:
    from u2pl.networks.config import NetworkConfig


#: Layers that normalise; timm's and SyncBatchNorm are subclasses of these.
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


class Parts(NamedTuple):
    """The modules of a `Segmentor`, which documents their inputs and outputs."""

    decoder: nn.Module
    classifier: nn.Module
    embedder: nn.Module | None
    min_images: int = 2


class DecoderFacts(NamedTuple):
    """Encoders that a decoder supports, and its defaults."""

    strides: tuple[Literal[8, 16, 32], ...]  # of the encoder's last map, the default first
    atrous_rates: tuple[int, int, int] = (12, 24, 36)
    embed_dim: int = 256
    width: int = 256  # 0: as `width_for` has it
    dropout: float = 0.1
    any_stride: bool = False  # of the first map; False: it must be at a quarter of the image


def representation_head(
    in_channels: int, config: NetworkConfig, hidden: int = 0
) -> nn.Sequential | None:
    """Two Conv-BN-ReLU blocks, the first of which halves the channels (U2PL+ sec. 4.1).

    None if the config asks for no representation.

    Args:
        in_channels: of the decoder's map.
        config: channels of the representation, and kernel.
        hidden: channels between the blocks, if they should not be half of those before.
    """
    if not config.embed_dim:
        return None
    hidden = hidden or in_channels // 2
    return nn.Sequential(
        conv_norm_relu(in_channels, hidden, config.embed_kernel),
        conv_norm_relu(hidden, config.embed_dim, config.embed_kernel),
    )


def width_for(channels: int) -> int:
    """Channels of a decoder that suits an encoder whose last map has so many.

    UniMatch V2's for DINOv2 S, B, L and g, which have 384, 768, 1024 and 1536.
    """
    limits = {384: 64, 768: 128, 1024: 256}
    return next((width for limit, width in limits.items() if channels <= limit), 384)


def classifier_on(in_channels: int, width: int, num_classes: int, dropout: float) -> nn.Sequential:
    """A classifier on a feature map: 3x3 to `width` channels, then 1x1 to `num_classes`."""
    return nn.Sequential(
        *conv_norm_relu(in_channels, width, kernel=3),
        nn.Dropout2d(dropout),
        nn.Conv2d(width, num_classes, 1),
    )


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Conv-BN-ReLU with same padding."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
