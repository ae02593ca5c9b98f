"""Colour jitter and blur: the strong view of an image (DAFormer, Hoyer et al. 2022, as in DACS, Tranheden et al. 2021)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator
from torch import Tensor

from u2pl import distributed
from u2pl.schedules import step_seed


class StrongViewConfig(BaseModel):
    """Colours and sharpness of the mixed images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jitter_probability: float = Field(
        0.8,
        ge=0,
        le=1,
        description="chance that an image's colours change (released: one draw per step)",
    )
    strength: float = Field(
        0.2,
        ge=0,
        le=0.5,
        description="largest change of brightness, contrast, saturation, and of hue in turns",
    )
    blur_probability: float = Field(
        0.5, ge=0, le=1, description="chance that an image is blurred (released: one draw per step)"
    )
    sigma: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.15, 1.15), description="the blur's standard deviation in pixels lies in this range"
    )
    taps: int = Field(
        11,
        ge=1,
        le=51,
        description="pixels in a row that the blur weighs, an odd number; released: 51, which looks the same",
    )

    @field_validator("taps")
    @classmethod
    def _odd(cls, taps: int) -> int:
        if taps % 2 == 0:
            raise ValueError("choose an odd number")
        return taps


class ViewDraws(NamedTuple):
    """What is done to each image."""

    jitter_B: Tensor  # bool: its colours change
    amount_B4: Tensor  # by how much, in the order of CHANGES
    blur_B: Tensor  # bool: it is blurred
    sigma_B: Tensor  # with this standard deviation, in pixels


def change_brightness(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """Each colour plus the amount, cut to [0, 1]."""
    return (image_B3HW + _each(amount_B)).clamp_(0, 1)


def change_contrast(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """Each colour times 1 + amount, cut to [0, 1]: no mean is kept."""
    return (image_B3HW * _each(1 + amount_B)).clamp_(0, 1)


def change_saturation(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """The S of HSV times 1 + amount, cut to [0, 1].

    With V and H as they are, each colour's distance to V grows like S = (V - min) / V, and at most until S is 1; so nothing is converted:

        h, s, v = rgb_to_hsv(pixel); out = hsv_to_rgb(h, min(s * (1 + amount), 1), v)
    """
    value = image_B3HW.amax(dim=1, keepdim=True)
    chroma = value - image_B3HW.amin(dim=1, keepdim=True)
    factor = torch.minimum(value / chroma.clamp_(min=1e-12), _each(1 + amount_B))
    return torch.addcmul(value, image_B3HW - value, factor).clamp_(0, 1)


def change_hue(image_B3HW: Tensor, amount_B: Tensor) -> Tensor:
    """The H of HSV, in [0, 1), plus the amount: a share of the full turn.

    h, s, v = rgb_to_hsv(pixel); out = hsv_to_rgb((h + amount) % 1, s, v)
    """
    red, green, blue = image_B3HW.unbind(dim=1)
    value = image_B3HW.amax(dim=1)
    chroma = value - image_B3HW.amin(dim=1)
    # in sixths of a turn; the highest colour says which third it is in
    slope = chroma.clamp(min=1e-12).reciprocal_()
    others = torch.where(
        value == green, (blue - red).mul_(slope).add_(2), (red - green).mul_(slope).add_(4)
    )
    hue = torch.where(value == red, (green - blue).mul_(slope), others).add_(
        6 * amount_B.view(-1, 1, 1)
    )

    def colour(lead: int) -> Tensor:
        """V, less all of the chroma where the hue is in the two sixths opposite, and less a part of it in those beside them."""
        turn = (hue + lead).div_(6)
        place = turn.sub_(turn.floor()).mul_(6)
        return torch.addcmul(
            value, place.sub_(2).abs_().neg_().add_(2).clamp_(0, 1), chroma, value=-1
        )

    return torch.stack([colour(5), colour(3), colour(1)], dim=1)


#: The changes of colour; an amount is drawn from [-strength, strength] for each.
CHANGES = (change_brightness, change_contrast, change_saturation, change_hue)


def gaussian_blur(image_BCHW: Tensor, sigma_B: Tensor, taps: int) -> Tensor:
    """Each image convolved with a Gaussian of its own, mirrored at the border, along the columns and then along the rows.

    Args:
        image_BCHW: float images, larger than taps // 2 in both directions.
        sigma_B: standard deviations in pixels, above 0.
        taps: odd length of the Gaussian, whose weights are scaled to sum to 1.
    """
    radius = taps // 2
    offset = torch.arange(-radius, radius + 1, device=sigma_B.device)
    weight_BK = torch.exp(-0.5 * (offset / sigma_B.unsqueeze(1)).square())
    weight_BK = weight_BK / weight_BK.sum(dim=1, keepdim=True)
    padded = F.pad(image_BCHW, (radius, radius, radius, radius), mode="reflect")
    return _weigh(_weigh(padded, weight_BK, 2), weight_BK, 3)


def _weigh(padded_BCHW: Tensor, weight_BK: Tensor, dim: int) -> Tensor:
    """sum_k weight[b, k] padded[b, ..., i + k, ...] along `dim`; on a CPU a sixth of the time of a convolution per channel."""
    radius = weight_BK.shape[1] // 2
    size = padded_BCHW.shape[dim] - 2 * radius
    out = padded_BCHW.narrow(dim, radius, size) * _each(weight_BK[:, radius])
    for k in range(radius):  # the weights are the same on both sides
        both = padded_BCHW.narrow(dim, k, size) + padded_BCHW.narrow(dim, 2 * radius - k, size)
        out.addcmul_(both, _each(weight_BK[:, k]))
    return out


def _each(value_B: Tensor) -> Tensor:
    return value_B.view(-1, 1, 1, 1)


def view_draws(config: StrongViewConfig, uniform_B7: Tensor) -> ViewDraws:
    """What is done to each image, from seven random numbers in [0, 1) for each."""
    low, high = config.sigma
    return ViewDraws(
        jitter_B=uniform_B7[:, 0] < config.jitter_probability,
        amount_B4=config.strength * (2 * uniform_B7[:, 1:5] - 1),
        blur_B=uniform_B7[:, 5] < config.blur_probability,
        sigma_B=low + (high - low) * uniform_B7[:, 6],
    )


def strong_view(image_B3HW: Tensor, draws: ViewDraws, order: list[int], taps: int) -> Tensor:
    """Change colours, then blur; an image that is spared stays as it is, bit for bit.

    Args:
        image_B3HW: RGB in [0, 1].
        draws: what is done to each image.
        order: in which the CHANGES are made, the same for all images.
        taps: of the blur.
    """
    jittered = image_B3HW
    for change in order:
        jittered = CHANGES[change](jittered, draws.amount_B4[:, change])
    image = torch.where(_each(draws.jitter_B), jittered, image_B3HW)
    blurred = gaussian_blur(image, draws.sigma_B, taps).clamp_(0, 1)
    return torch.where(_each(draws.blur_B), blurred, image)


class StrongView:
    """Draws and makes the strong view of a batch.

    Args:
        config: what may be done, and how often.
    """

    def __init__(self, config: StrongViewConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(self, generator: torch.Generator, image_B3HW: Tensor) -> Tensor:
        """The images with other colours and blurred, float32 in [0, 1].

        Args:
            generator: the step's randomness, equal on all processes.
            image_B3HW: RGB, uint8 or floating point in [0, 1].
        """
        image = image_B3HW.float() if image_B3HW.is_floating_point() else image_B3HW.float() / 255
        uniform = torch.rand(
            len(image) * distributed.world_size(), 7, generator=generator, device=generator.device
        )
        draws = view_draws(self.config, distributed.local_rows(uniform).to(image.device))
        # which kernel runs next must be known here: drawn on the CPU, and from another seed, so that the step's own numbers do not return
        own = torch.Generator().manual_seed(step_seed(generator.initial_seed(), 0))
        return strong_view(
            image, draws, torch.randperm(len(CHANGES), generator=own).tolist(), self.config.taps
        )
