"""Options of training that do not depend on the method."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Length, batch, optimizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(0, ge=0, le=10**8, description="optimizer steps; 0 = derived from `epochs`")
    epochs: float = Field(
        80,
        gt=0,
        description="used if steps is 0: passes over the unlabelled images, or over the labelled "
        "ones if the method uses no others",
    )
    batch: int = Field(
        16,
        gt=0,
        le=2**16,
        description="labelled (or tagged) images per step, over all processes; plus as many "
        "unlabelled images, if the method uses them",
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum 0.9, or AdamW")
    lr: float = Field(
        1e-3,
        gt=0,
        description="base learning rate of the encoder at a batch of `reference_batch` (U2PL+ sec. "
        "4.1)",
    )
    reference_batch: int = Field(
        16, gt=0, description="batch that lr is meant for; lr scales linearly with the batch"
    )
    head_lr_factor: float = Field(
        10.0,
        gt=0,
        description="learning-rate multiplier of everything but the encoder (U2PL+ sec. 4.1)",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="the encoder's learning rate falls by this factor from block to block towards "
        "the input (ViT), or from stage to stage (others); 1 = everywhere the same",
    )
    weight_decay: float = Field(1e-4, ge=0, description="weight decay (U2PL+ sec. 4.1)")
    poly_power: float = Field(
        0.9, ge=0, description="learning rate = lr (1 - step/total)^poly_power (U2PL+ sec. 4.1)"
    )
    warmup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the steps with linear learning-rate warm-up, from 1e-6 of its value; "
        "DAFormer: 0.0375",
    )
    norm_decay: bool = Field(
        True,
        description="apply weight decay to weights and biases of normalisation layers too; "
        "DAFormer: off",
    )
    clip_norm: float = Field(0.0, ge=0, description="maximum gradient norm; 0 = no clipping")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="precision of the networks, also when they are scored during training; auto: "
        "what `accelerate launch --mixed_precision` says, else bfloat16 on a GPU that has it and "
        "float32 elsewhere",
    )
    channels_last: Literal["auto", "on", "off"] = Field(
        "auto",
        description="memory layout with the channels of a pixel side by side; auto: on GPUs; the "
        "draws of dropout depend on it",
    )
    compile: bool = Field(
        False,
        description="compile the encoders with torch.compile: the first steps take minutes, the "
        "others less time; needs a C++ compiler, and does not work with afa",
    )
    evaluations: int = Field(
        4,
        ge=1,
        le=10_000,
        description="number of evaluations on the validation split, evenly spaced, the last at the "
        "end; methods with a teacher add one at the end of their warm start",
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between states to resume from")
    log_every: int = Field(10, ge=1, description="steps between lines of the journal")

    @property
    def scaled_lr(self) -> float:
        """Base learning rate of the encoder at this batch."""
        return self.lr * self.batch / self.reference_batch

    def rates(self, frozen: bool) -> str:
        """The base learning rates in words.

        Args:
            frozen: whether the encoder is not trained.
        """
        head = f"{self.scaled_lr * self.head_lr_factor:g} for the rest"
        if frozen:
            return f"0 for the encoder, which is frozen, {head}"
        decay = f", times {self.layer_decay:g} a layer" if self.layer_decay < 1 else ""
        return f"{self.scaled_lr:g} for the encoder{decay}, {head}"


class DataConfig(BaseModel):
    """Crops and augmentation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: int = Field(
        513, ge=32, le=2**14, description="side of the training crop in pixels (U2PL+ sec. 4.1)"
    )
    long_side: int = Field(
        0, ge=0, description="shrink larger images to this long side in pixels first; 0 = never"
    )
    scale: tuple[float, float] = Field(
        (0.5, 2.0), description="range of the random scale factor (U2PL supp. B)"
    )
    flip: bool = Field(True, description="random left-right flip (U2PL supp. B)")
    workers: int = Field(
        2,
        ge=0,
        le=256,
        description="data-loading workers per training process; they do not affect results; 0 = "
        "none",
    )
