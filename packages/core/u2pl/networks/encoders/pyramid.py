"""timm's encoders with a pyramid of feature maps: ResNet, EfficientNet, ConvNeXt, Swin and more.

smp's own `resnet*` are not used: at strides 8 and 16 their dilation of a stage's first block is
wrong.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from u2pl.errors import UserError
from u2pl.networks.timm_encoder import TimmEncoder
from u2pl.notation import COLOURS

#: Number of feature maps that decoders use: the last ones.
MAPS = 4

#: timm's modules of models that take images of any size only when they are told to.
WINDOWED = ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")


def wanted_strides(output_stride: int) -> tuple[int, ...]:
    """Strides of the four maps that decoders use."""
    return tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))


def _create(name: str, output_stride: int, channels: int) -> Any:
    # not every model accepts the arguments; 32 and three are the defaults
    options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    if channels != COLOURS:
        options["in_chans"] = channels
    if timm.models.is_model_in_modules(name, WINDOWED):
        options["strict_img_size"] = False
    return timm.create_model(name, features_only=True, **options)


@cache  # a run builds its network several times, and the trial costs more than a small one
def _try_maps(name: str, output_stride: int, channels: int) -> None:
    """UserError if the model does not have the four maps, by a trial without memory."""
    problem = f"network.encoder={name} has no feature maps at network.output_stride={output_stride}"
    wanted = wanted_strides(output_stride)
    try:
        with torch.device("meta"):
            trial = _create(name, output_stride, channels).eval()
            strides = trial.feature_info.reduction()
            if tuple(strides[-MAPS:]) != wanted:
                raise ValueError(f"its feature maps are at strides {strides}, not {[*wanted]}")
            trial(torch.empty(1, channels, 2 * output_stride, 3 * output_stride))
    except (TypeError, ValueError, AssertionError, RuntimeError, NotImplementedError) as error:
        reason = f" ({error})" if str(error) else ""
        raise UserError(f"{problem}{reason}; try resnet101") from error


class Pyramid(TimmEncoder):
    """timm model with random weights; maps at strides 4, 8, 16 and 32, capped at `output_stride`.

    Args:
        name: any timm model with such maps.
        output_stride: stride of the last map, 8, 16 or 32; below 32 the last stages are dilated.
        channels: of the images.

    Raises:
        UserError: The model has no feature maps, or has them at other strides.
    """

    fallback = True  # every name of timm's

    def __init__(self, name: str, output_stride: int, channels: int = COLOURS) -> None:
        super().__init__()
        wanted = wanted_strides(output_stride)
        _try_maps(name, output_stride, channels)
        model: Any = _create(name, output_stride, channels)
        self.model = model
        self.channels = tuple(model.feature_info.channels()[-MAPS:])
        self.strides = wanted
        self.divisor = output_stride
        self._set_colours(name, channels)
        self.channels_last = getattr(model, "output_fmt", None) == "NHWC"

    @classmethod
    def names(cls) -> Collection[str]:
        return timm.list_models()

    @classmethod
    def knows(cls, name: str) -> bool:
        return timm.is_model(name)  # with a tag, too: resnet101.tv_in1k

    @classmethod
    def build(cls, name: str, output_stride: int, channels: int = COLOURS) -> Pyramid:
        return cls(name, output_stride, channels)

    def set_multi_grid(self, rates: tuple[int, int, int]) -> None:
        blocks = list(getattr(self.model, "layer4", ()))
        dilation = 32 // self.strides[-1]
        plain = all(isinstance(getattr(each, "conv2", None), nn.Conv2d) for each in blocks)
        bottlenecks = plain and all(hasattr(each, "conv3") for each in blocks)
        if dilation == 1 or len(blocks) != len(rates) or not bottlenecks:
            super().set_multi_grid(rates)
        for block, rate in zip(blocks, rates, strict=True):
            block.conv2.dilation = block.conv2.padding = (rate * dilation,) * 2

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.model(image_B3HW)[-MAPS:]
        if self.channels_last:
            maps = [each.permute(0, 3, 1, 2).contiguous() for each in maps]
        return maps
