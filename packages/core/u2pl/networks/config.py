"""Which network: the choices a recipe or `--set network.…` can make."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator

DecoderName = Literal["deeplabv3plus", "deeplabv3plus_light"]

#: `encoder_weights` of an encoder that starts from random numbers.
RANDOM = "none"


class NetworkConfig(BaseModel):
    """Encoder, decoder and heads; the defaults are U2PL's network for VOC (004, sec. 4.1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decoder: DecoderName = Field(
        "deeplabv3plus",
        description="deeplabv3plus: U2PL's decoder and heads (004, sec. 4.1); deeplabv3plus_light: separable convolutions, narrow heads",
    )
    encoder: str = Field(
        "resnet101",
        description="any timm encoder that can run at output_stride; resnet101 in 004, resnet101s has the deep stem of its released code",
    )
    encoder_weights: str = Field(
        "imagenet", description="imagenet: timm's weights for this name; none: random; or a .safetensors or .pth file of the encoder"
    )
    output_stride: Literal[8, 16] = Field(8, description="image pixels per pixel of the encoder's last feature map; 8 in 004")
    atrous_rates: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (12, 24, 36), description="dilations of the three 3x3 branches of ASPP (DeepLabv3+ at stride 8; 6, 12, 18 at stride 16)"
    )
    embed_dim: NonNegativeInt = Field(
        default_factory=lambda fields: 64 if fields["decoder"] == "deeplabv3plus_light" else 256,
        description="channels D of the representation; 256 in 004, 64 with the light decoder; 0: none, for methods without contrast",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout in the decoder and, in U2PL's, in both heads; 0.1 in the released code")

    @field_validator("encoder_weights", mode="before")
    @classmethod
    def _none_is_random(cls, value: object) -> object:
        return RANDOM if value is None or (isinstance(value, str) and value.lower() in ("", RANDOM)) else value
