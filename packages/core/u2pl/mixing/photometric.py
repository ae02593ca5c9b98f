"""Photometric strong augmentation: colour jitter, greyscale and Gaussian blur.

`photometric` is that of DAFormer (Hoyer et al. 2022), which takes it from DACS (Tranheden et al.
2021); `unimatch` that of UniMatch (Yang et al. 2023), whose operators are torchvision's.

Images of other than three channels have no colours: brightness, contrast and blur change all of
their channels alike, and saturation, hue and greyscale none.

Shapes: T = taps, the length of the blur's kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator
from torch import Tensor

from u2pl import distributed
from u2pl.notation import COLOURS
from u2pl.schedules import step_seed


class StrongViewConfig(BaseModel):
    """Colour jitter and Gaussian blur of the mixed images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["photometric", "unimatch", "none"] = Field(
        "photometric",
        description="photometric: DAFormer's colour jitter and blur; unimatch: UniMatch's, which "
        "is stronger and makes some images grey; none: the images as they are",
    )
    jitter_probability: float = Field(
        0.8,
        ge=0,
        le=1,
        description="probability of colour jitter, drawn per image (released code: per step)",
    )
    strength: float = Field(
        default_factory=lambda fields: KINDS[fields["kind"]].strength,
        ge=0,
        le=0.5,
        description="maximum jitter of brightness, contrast and saturation; 0.2, unimatch: 0.5",
    )
    hue: float = Field(
        default_factory=lambda fields: KINDS[fields["kind"]].hue,
        ge=0,
        le=0.5,
        description="maximum jitter of the hue, in turns; 0.2, unimatch: 0.25",
    )
    grey_probability: float = Field(
        default_factory=lambda fields: KINDS[fields["kind"]].grey,
        ge=0,
        le=1,
        description="probability of greyscale, drawn per image; 0, unimatch: 0.2",
    )
    blur_probability: float = Field(
        0.5,
        ge=0,
        le=1,
        description="probability of Gaussian blur, drawn per image (released code: per step)",
    )
    sigma: tuple[PositiveFloat, PositiveFloat] = Field(
        default_factory=lambda fields: KINDS[fields["kind"]].sigma,
        description="range of the blur's standard deviation in pixels; 0.15 to 1.15, unimatch: "
        "0.1 to 2",
    )
    taps: int = Field(
        11,
        ge=1,
        le=51,
        description="kernel size of the blur in pixels, odd; 51 in the released code, which makes "
        "no visible difference",
    )

    @field_validator("sigma")
    @classmethod
    def _a_range(cls, sigma: tuple[float, float]) -> tuple[float, float]:
        if not sigma[0] <= sigma[1] < math.inf:
            raise ValueError("must be two finite numbers, the smaller one first")
        return sigma

    @field_validator("taps")
    @classmethod
    def _odd(cls, taps: int) -> int:
        if taps % 2 == 0:
            raise ValueError("must be odd")
        return taps


class ViewDraws(NamedTuple):
    """Augmentation parameters of each image."""

    jitter_B: Tensor  # bool: whether its colours are jittered
    amount_B4: Tensor  # float: amount of each jitter, in the order of CHANGES
    blur_B: Tensor  # bool: whether it is blurred
    sigma_B: Tensor  # float: standard deviation of the blur in pixels
    grey_B: Tensor | None = None  # bool: whether it becomes grey; None: no image does


def change_brightness(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """RGB plus the amount, clamped to [0, 1]."""
    return (image_B3HW + _each(amount_B)).clamp_(0, 1)


def change_contrast(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """RGB times 1 + amount, clamped to [0, 1]; the image's mean is not preserved."""
    return (image_B3HW * _each(1 + amount_B)).clamp_(0, 1)


def change_saturation(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """Saturation S of HSV times 1 + amount, clamped to [0, 1].

        h, s, v = rgb_to_hsv(pixel)
        out = hsv_to_rgb(h, min(s * (1 + amount), 1), v)

    Computed in RGB: at constant H and V, each channel's distance to V is proportional to
    S = (V - min) / V.
    """
    if image_B3HW.shape[1] != COLOURS:
        return image_B3HW
    value = image_B3HW.amax(dim=1, keepdim=True)
    chroma = value - image_B3HW.amin(dim=1, keepdim=True)
    factor = torch.minimum(value / chroma.clamp_(min=1e-12), _each(1 + amount_B))
    return torch.addcmul(value, image_B3HW - value, factor).clamp_(0, 1)


def change_hue(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """Hue H of HSV, in [0, 1), plus the amount, in turns.

    h, s, v = rgb_to_hsv(pixel)
    out = hsv_to_rgb((h + amount) % 1, s, v)
    """
    if image_B3HW.shape[1] != COLOURS:
        return image_B3HW
    red, green, blue = image_B3HW.unbind(dim=1)
    value = image_B3HW.amax(dim=1)
    chroma = value - image_B3HW.amin(dim=1)
    # hue in sixths of a turn; the largest channel determines the third
    slope = chroma.clamp(min=1e-12).reciprocal_()
    others = torch.where(
        value == green, (blue - red).mul_(slope).add_(2), (red - green).mul_(slope).add_(4)
    )
    hue = torch.where(value == red, (green - blue).mul_(slope), others).add_(
        6 * amount_B.view(-1, 1, 1)
    )

    def colour(lead: int) -> Tensor:
        """V minus chroma times a trapezoid of the hue, 1 in the two sixths opposite the channel."""
        turn = (hue + lead).div_(6)
        place = turn.sub_(turn.floor()).mul_(6)
        return torch.addcmul(
            value, place.sub_(2).abs_().neg_().add_(2).clamp_(0, 1), chroma, value=-1
        )

    return torch.stack([colour(5), colour(3), colour(1)], dim=1)


def scale_brightness(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """RGB times 1 + amount, clamped to [0, 1]."""
    return change_contrast(image_B3HW, amount_B)


def blend_contrast(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """Distance of RGB to the image's mean grey times 1 + amount, clamped to [0, 1]."""
    mean = luminance(image_B3HW).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean.expand_as(image_B3HW), image_B3HW, _each(1 + amount_B)).clamp_(0, 1)


def blend_saturation(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """Distance of RGB to the pixel's grey times 1 + amount, clamped to [0, 1]."""
    if image_B3HW.shape[1] != COLOURS:
        return image_B3HW
    grey = luminance(image_B3HW).expand_as(image_B3HW)
    return torch.lerp(grey, image_B3HW, _each(1 + amount_B)).clamp_(0, 1)


def luminance(image_B3HW: Tensor) -> Tensor:
    """Grey of each pixel by ITU-R 601, [B, 1, H, W]; the mean of other than three channels."""
    if image_B3HW.shape[1] != COLOURS:
        return image_B3HW.mean(dim=1, keepdim=True)
    red, green, blue = image_B3HW.unbind(dim=1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


Change = Callable[[Tensor, Tensor], Tensor]

#: DAFormer's colour jitters; the amount of each is drawn from [-strength, strength], that of the
#: hue from [-hue, hue].
CHANGES: tuple[Change, ...] = (change_brightness, change_contrast, change_saturation, change_hue)
#: torchvision's.
BLENDS: tuple[Change, ...] = (scale_brightness, blend_contrast, blend_saturation, change_hue)


class Kind(NamedTuple):
    """Operators and usual strengths of a kind of view."""

    changes: tuple[Change, ...]
    strength: float
    hue: float
    grey: float
    sigma: tuple[float, float]


KINDS: dict[str, Kind] = {
    "photometric": Kind(CHANGES, 0.2, 0.2, 0.0, (0.15, 1.15)),
    "unimatch": Kind(BLENDS, 0.5, 0.25, 0.2, (0.1, 2.0)),
}
KINDS["none"] = KINDS["photometric"]


def gaussian_blur(image_BCHW: Tensor, sigma_B: Tensor, taps: int) -> Tensor:
    """Separable Gaussian blur with a sigma per image and reflection padding.

    Args:
        image_BCHW: float images, larger than taps // 2 in both directions.
        sigma_B: float, standard deviations in pixels, above 0.
        taps: T, odd kernel size; the kernel is normalised to sum 1.
    """
    radius = taps // 2
    offset = torch.arange(-radius, radius + 1, device=sigma_B.device)
    weight_BT = torch.exp(-0.5 * (offset / sigma_B.unsqueeze(1)).square())
    weight_BT = weight_BT / weight_BT.sum(dim=1, keepdim=True)
    padded = F.pad(image_BCHW, (radius, radius, radius, radius), mode="reflect")
    return _weigh(_weigh(padded, weight_BT, 2), weight_BT, 3)


def _weigh(padded_BCHW: Tensor, weight_BT: Tensor, dim: int) -> Tensor:
    """1-D symmetric convolution along `dim`: sum_t weight[b, t] padded[b, ..., i + t, ...].

    On a CPU it takes a sixth of the time of a depthwise convolution.
    """
    radius = weight_BT.shape[1] // 2
    size = padded_BCHW.shape[dim] - 2 * radius
    out = padded_BCHW.narrow(dim, radius, size) * _each(weight_BT[:, radius])
    for t in range(radius):
        both = padded_BCHW.narrow(dim, t, size) + padded_BCHW.narrow(dim, 2 * radius - t, size)
        out.addcmul_(both, _each(weight_BT[:, t]))
    return out


def _each(value_B: Tensor) -> Tensor:
    return value_B.view(-1, 1, 1, 1)


def view_draws(config: StrongViewConfig, uniform_BX: Tensor) -> ViewDraws:
    """Augmentation parameters from seven uniform random numbers in [0, 1) per image.

    An eighth decides whether it becomes grey.
    """
    low, high = config.sigma
    most = uniform_BX.new_tensor([config.strength] * 3 + [config.hue])
    grey = config.grey_probability
    return ViewDraws(
        jitter_B=uniform_BX[:, 0] < config.jitter_probability,
        amount_B4=most * (2 * uniform_BX[:, 1:5] - 1),
        blur_B=uniform_BX[:, 5] < config.blur_probability,
        sigma_B=low + (high - low) * uniform_BX[:, 6],
        grey_B=uniform_BX[:, 7] < grey if grey else None,
    )


def strong_view(
    image_B3HW: Tensor,
    draws: ViewDraws,
    order: list[int],
    taps: int,
    changes: Sequence[Change] = CHANGES,
) -> Tensor:
    """Colour jitter, greyscale, then blur; an image with none of them stays bit-identical.

    Args:
        image_B3HW: float RGB, or any other channels, in [0, 1].
        draws: augmentation parameters of each image.
        order: permutation of the changes, the same for all images.
        taps: odd kernel size of the blur.
        changes: colour jitters.
    """
    jittered = image_B3HW
    for change in order:
        jittered = changes[change](jittered, draws.amount_B4[:, change])
    image = torch.where(_each(draws.jitter_B), jittered, image_B3HW)
    if draws.grey_B is not None and image.shape[1] == COLOURS:
        image = torch.where(_each(draws.grey_B), luminance(image), image)
    blurred = gaussian_blur(image, draws.sigma_B, taps).clamp_(0, 1)
    return torch.where(_each(draws.blur_B), blurred, image)


class StrongView:
    """Random strong view of a batch.

    Args:
        config: probabilities and strengths.
    """

    def __init__(self, config: StrongViewConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(self, generator: torch.Generator, image_B3HW: Tensor) -> Tensor:
        """The augmented images, float32 in [0, 1].

        Args:
            generator: the step's generator, equal on all processes.
            image_B3HW: RGB, or any other channels, uint8 or floating point in [0, 1].
        """
        image = image_B3HW.float() if image_B3HW.is_floating_point() else image_B3HW.float() / 255
        if self.config.kind == "none":
            return image
        count = len(image) * distributed.world_size(), 8 if self.config.grey_probability else 7
        uniform = torch.rand(*count, generator=generator, device=generator.device)
        draws = view_draws(self.config, distributed.local_rows(uniform).to(image.device))
        # The order decides which kernels are launched: drawn on the CPU, it needs no host sync.
        # The seed is derived, so that it does not repeat the step's own draws.
        own = torch.Generator().manual_seed(step_seed(generator.initial_seed(), 0))
        order = torch.randperm(len(CHANGES), generator=own).tolist()
        changes = KINDS[self.config.kind].changes
        return strong_view(image, draws, order, self.config.taps, changes)
