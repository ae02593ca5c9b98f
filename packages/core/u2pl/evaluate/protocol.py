"""The evaluation protocol: sizes, windows and flips of the images; printed with every score."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: How overlapping windows are averaged.
Blend = Literal["mean", "linear", "gaussian"]


class EvaluationProtocol(BaseModel):
    """How images are passed to a network for evaluation and prediction.

    Raises pydantic's ValidationError for an unknown key, a scale that is not positive, or a mode
    without the crop it needs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["whole", "center-crop", "slide"] = Field(
        "whole",
        description="whole image; its centre crop (image and label, evaluation only); or "
        "overlapping windows",
    )
    crop: int | None = Field(
        None,
        ge=1,
        le=2**20,
        description="side in pixels of the centre crop or sliding window; ignored for whole images",
    )
    blend: Blend = Field(
        "mean",
        description="weights of a window's pixels where windows overlap: all alike, falling "
        "linearly to the window's edges, or as a Gaussian",
    )
    scales: tuple[Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)], ...] = Field(
        (1.0,),
        min_length=1,
        description="scales of multi-scale inference, relative to the image's size; their softmax "
        "is averaged",
    )
    long_side: int = Field(
        0,
        ge=0,
        description="shrink larger images to this long side for the network, and score or predict "
        "at their own size; 0 = never",
    )
    flip: bool = Field(False, description="average with the flipped image too")
    crf: bool = Field(
        False,
        description="refine the averaged softmax with a dense CRF; needs uv sync --extra crf",
    )

    @model_validator(mode="after")
    def _crop_is_there(self) -> EvaluationProtocol:
        if self.mode != "whole" and self.crop is None:
            raise ValueError(f"mode {self.mode} needs a crop, the side of its window in pixels")
        return self

    def side(self) -> int:
        """The crop, in pixels, of a mode that needs one."""
        assert self.crop is not None
        return self.crop

    def stride(self) -> int:
        """Stride of the sliding window in pixels: 2/3 of the crop, rounded up (as in U2PL)."""
        return -(-2 * self.side() // 3)

    def describe(self) -> str:
        """The protocol in words: `sliding window 769, stride 513, scales 0.5 1 1.5, with flip`."""
        words = {
            "whole": lambda: "whole image",
            "center-crop": lambda: f"center crop {self.side()}",
            "slide": lambda: f"sliding window {self.side()}, stride {self.stride()}",
        }[self.mode]()
        if self.mode == "slide" and self.blend != "mean":
            words += f", {self.blend} weights"
        if len(self.scales) > 1:
            words += ", scales " + " ".join(f"{scale:g}" for scale in self.scales)
        else:
            words += ", single scale" if self.scales == (1.0,) else f", scale {self.scales[0]:g}"
        words += f", long side at most {self.long_side}" if self.long_side else ""
        return words + (", with flip" if self.flip else "") + (", dense CRF" if self.crf else "")
