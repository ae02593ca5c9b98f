"""Encoders are timm models that return their feature maps, built through smp's wrapper, or MiT.

smp's own `resnet*` (without `tu-`) is never used: at strides 8 and 16 it dilates the first block of a stage wrongly.
"""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from segmentation_models_pytorch.encoders import TimmUniversalEncoder, get_encoder
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from u2pl.errors import UserError
from u2pl.networks import mit
from u2pl.networks.mit import MixTransformer


def smp_name(name: str) -> str:
    """What smp calls timm's encoder `name`."""
    return f"tu-{name}"


def build_encoder(name: str, output_stride: int) -> TimmUniversalEncoder | MixTransformer:
    """timm's or MiT's `name` with random weights: image -> [image, maps at strides 2, 4, 8, …, `output_stride`]."""
    if name in mit.VARIANTS:
        return mit.build(name, output_stride)
    return get_encoder(smp_name(name), weights=None, output_stride=output_stride)


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the colours in [0, 1] that `name` was pretrained with."""
    pretrained = timm.get_pretrained_cfg(name)
    return (pretrained.mean, pretrained.std) if pretrained else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def side_divisor(name: str, output_stride: int) -> int:
    """What both sides of an image are multiples of, so that every map of the encoder covers all of it."""
    return mit.DIVISOR if name in mit.VARIANTS else output_stride


def check_encoder(name: str, output_stride: int) -> None:
    """Raise UserError unless `name` is an encoder with feature maps at strides 4, 8, 16 and 32, or at most `output_stride` (8, 16, 32)."""
    if name in mit.VARIANTS:
        if output_stride not in mit.OUTPUT_STRIDES:
            raise UserError(
                f"network.encoder={name} gives no feature maps at network.output_stride={output_stride}; "
                "set network.output_stride=16, or network.decoder=daformer, which runs at 32"
            )
        return
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*mit.VARIANTS, *timm.list_models()], n=3)
        raise UserError(f"network.encoder={name} is no timm encoder and no MiT; {'near: ' + ', '.join(near) if near else 'try resnet101'}")
    # not every encoder takes the argument; what it says at 32 is what they do without it
    dilated: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, features_only=True, **dilated)
    except (TypeError, ValueError, AssertionError, RuntimeError, NotImplementedError) as error:
        reason = f" ({error})" if str(error) else ""
        raise UserError(
            f"network.encoder={name} gives no feature maps at network.output_stride={output_stride}{reason}; try resnet101"
        ) from error
    reductions = model.feature_info.reduction()
    wanted = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    if reductions[-4:] != wanted:
        raise UserError(f"network.encoder={name} has feature maps at strides {reductions}, not {wanted}; try resnet101")
