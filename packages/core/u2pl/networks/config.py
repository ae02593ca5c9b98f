"""Network options, as set by a recipe or by `--set network.…`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationInfo,
    field_validator,
)

from u2pl.networks.registry import decoder_file, decoder_names

if TYPE_CHECKING:
    from u2pl.networks.parts import DecoderFacts

#: Value of `encoder_weights` for random initialisation.
RANDOM = "none"

#: A dilation, or a factor on one; a convolution pads by as many pixels.
Rate = Annotated[int, Field(gt=0, le=1000)]


class NetworkConfig(BaseModel):
    """Encoder, decoder and heads; the defaults are U2PL's network for VOC (U2PL sec. 4.1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decoder: str = Field(
        "deeplabv3plus",
        description="deeplabv3plus: U2PL's decoder and heads (U2PL sec. 4.1); deeplabv3plus_light: "
        "separable convolutions and narrow heads; daformer: four feature maps fused by dilated "
        "convolutions (U2PL+ sec. 4.2); segformer: fused by an MLP (U2PL+ sec. 4.3); dpt: maps of "
        "any stride fused from deep to fine (UniMatch V2); linear: one convolution on the last map",
    )
    encoder: str = Field(
        "resnet101",
        description="any timm encoder that can run at output_stride; mit_b0 to mit_b5 at 16 or "
        "32 (mit_b5 in U2PL+ sec. 4.2, mit_b1 in sec. 4.3); any plain Vision Transformer of timm, "
        "such as vit_small_patch14_dinov2, under dpt or linear; resnet101 in U2PL, resnet101s "
        "(deep stem) in its released code",
    )
    encoder_weights: str = Field(
        "imagenet",
        description="imagenet: the hub's weights for this name (timm's; for mit_b* NVIDIA's, not "
        "for commercial use); none: random initialisation; or a .safetensors or .pth file of the "
        "encoder",
    )
    freeze_encoder: bool = Field(
        False,
        description="keep the encoder's weights as they are: it takes no part in training, keeps "
        "nothing for a backward pass, and is shared by student and teacher",
    )
    checkpointing: bool = Field(
        False,
        description="compute the encoder's inner maps once more in the backward pass instead of "
        "keeping them: less memory for about a third more time; for ViT, ConvNeXt, MiT and others "
        "without BatchNorm",
    )
    output_stride: Literal[8, 16, 32] = Field(
        default_factory=lambda fields: _facts(fields).strides[0],
        description="stride of the encoder's last feature map; 8 (U2PL) or 16 for deeplabv3plus, "
        "32 (U2PL+ sec. 4.2) or 16 for daformer, 16 (U2PL+ sec. 4.3) or 32 for segformer, any for "
        "dpt and linear; a plain Vision Transformer has one of its own",
    )
    atrous_rates: tuple[Rate, Rate, Rate] = Field(
        default_factory=lambda fields: _facts(fields).atrous_rates,
        description="dilation rates of the three 3x3 branches of ASPP (DeepLabv3+: 12, 24, 36 at "
        "stride 8 and 6, 12, 18 at stride 16; daformer: 6, 12, 18); the others have no ASPP",
    )
    multi_grid: tuple[Rate, Rate, Rate] = Field(
        (1, 1, 1),
        description="factors on the dilation of the last stage's three blocks, for ResNets of 50 "
        "layers or more: 1, 2, 4 in DeepLabv3 and in U2PL's released network; 1, 1, 1 = off",
    )
    auxiliary: bool = Field(
        False,
        description="a second classifier, on the encoder's third map and for training alone, in "
        "U2PL's released network for Cityscapes; its loss weighs method.supervised.auxiliary",
    )
    width: NonNegativeInt = Field(
        le=2**13,
        default_factory=lambda fields: _facts(fields).width,
        description="channels of the decoder's branches and of their fusion; 256 in U2PL and "
        "U2PL+; 0, dpt's default: 64, 128, 256 or 384, by the encoder's channels (UniMatch V2)",
    )
    embed_dim: NonNegativeInt = Field(
        le=2**13,
        default_factory=lambda fields: _facts(fields).embed_dim,
        description="channels of the representation; 256 in U2PL, 64 with the light decoder; "
        "0 = none, for methods without contrast",
    )
    embed_kernel: Literal[1, 3] = Field(
        3,
        description="side of the convolutions of the representation head: 3 (U2PL), or 1 at a "
        "ninth of their cost",
    )
    dropout: float = Field(
        default_factory=lambda fields: _facts(fields).dropout,
        ge=0,
        lt=1,
        description="dropout rate; deeplabv3plus: in the decoder and both heads; _light: in the "
        "decoder; the others: before the classifier; 0.1 in the released code, 0 for dpt and "
        "linear",
    )
    tag_classes: NonNegativeInt = Field(
        0,
        description="classes of the image-level classifier on the encoder's last map; 0 = none; "
        "set by the weakly supervised app",
    )

    @field_validator("encoder_weights", mode="before")
    @classmethod
    def _none_is_random(cls, value: object) -> object:
        none = value is None or (isinstance(value, str) and value.lower() in ("", RANDOM))
        return RANDOM if none else value

    @field_validator("embed_kernel", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object) -> object:
        return str(value) if isinstance(value, bool) else value  # a literal 1 takes True for itself

    @field_validator("decoder")
    @classmethod
    def _decoder_exists(cls, value: str) -> str:
        if value not in decoder_names():
            raise ValueError(f"there is no such decoder; there are {', '.join(decoder_names())}")
        return value

    @field_validator("output_stride")
    @classmethod
    def _decoder_runs_at(cls, value: int, info: ValidationInfo) -> int:
        decoder = info.data.get("decoder")  # absent if it failed validation
        strides = decoder_file(decoder).FACTS.strides if decoder else (value,)
        if value not in strides:
            raise ValueError(f"decoder {decoder} runs at {' or '.join(map(str, sorted(strides)))}")
        return value


def _facts(fields: dict[str, object]) -> DecoderFacts:
    """The decoder's defaults; pydantic asks for them only if the decoder is valid."""
    return decoder_file(str(fields["decoder"])).FACTS
