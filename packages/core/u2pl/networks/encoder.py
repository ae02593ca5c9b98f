"""Encoders are timm models that return their feature maps, built through smp's wrapper.

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


def smp_name(name: str) -> str:
    """What smp calls timm's encoder `name`."""
    return f"tu-{name}"


def build_encoder(name: str, output_stride: int) -> TimmUniversalEncoder:
    """timm's `name` with random weights: image -> [image, maps at strides 2, 4, 8, …, `output_stride`]."""
    return get_encoder(smp_name(name), weights=None, output_stride=output_stride)


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the colours in [0, 1] that timm's `name` was pretrained with."""
    pretrained = timm.get_pretrained_cfg(name)
    return (pretrained.mean, pretrained.std) if pretrained else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def check_encoder(name: str, output_stride: int) -> None:
    """Raise UserError unless timm has an encoder `name` whose last feature map can have `output_stride` (8 or 16)."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(f"network.encoder={name} is no timm encoder; {'near: ' + ', '.join(near) if near else 'try resnet101'}")
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, features_only=True, output_stride=output_stride)
    except (TypeError, ValueError, AssertionError, RuntimeError, NotImplementedError) as error:
        reason = f" ({error})" if str(error) else ""
        raise UserError(
            f"network.encoder={name} gives no feature maps at network.output_stride={output_stride}{reason}; try resnet101"
        ) from error
    reductions = model.feature_info.reduction()
    if reductions[-1] != output_stride or 4 not in reductions:
        raise UserError(f"network.encoder={name} has feature maps at strides {reductions}, not 4 and {output_stride}; try resnet101")
