"""How a run is trained, apart from the method."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Length, batch, optimizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(0, ge=0, description="optimizer steps; 0 = as many as `epochs` take")
    epochs: float = Field(
        80,
        gt=0,
        description="when steps is 0: passes over the images without labels (over the labelled ones where no others are used)",
    )
    batch: int = Field(
        16,
        gt=0,
        description="images with labels (or tags) per step over all processes; as many without come on top where a method uses them",
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum 0.9, or AdamW")
    lr: float = Field(
        1e-3,
        gt=0,
        description="base learning rate of the encoder at a batch of `reference_batch` (000 sec. 4.1)",
    )
    reference_batch: int = Field(
        16, gt=0, description="batch that lr is meant for; another one scales it in proportion"
    )
    head_lr_factor: float = Field(
        10.0, gt=0, description="the rest of the network learns so much faster (000 sec. 4.1)"
    )
    weight_decay: float = Field(1e-4, ge=0, description="weight decay (000 sec. 4.1)")
    poly_power: float = Field(
        0.9, ge=0, description="learning rate = lr (1 - step/total)^poly_power (000 sec. 4.1)"
    )
    warmup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the run over which the learning rate also grows, from 1e-6 of itself; DAFormer: 0.0375",
    )
    norm_decay: bool = Field(
        True,
        description="weight decay on the weights and biases of normalisation layers too; DAFormer: off",
    )
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 = as it is")
    evaluations: int = Field(
        4,
        ge=1,
        description="how often the validation split is scored, evenly spaced; the last time at the end",
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between two states to resume from")
    log_every: int = Field(10, ge=1, description="steps between two lines of the journal")

    @property
    def scaled_lr(self) -> float:
        """The encoder's learning rate at the batch that is used."""
        return self.lr * self.batch / self.reference_batch


class DataConfig(BaseModel):
    """What is cut from the images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: int = Field(513, ge=32, description="side of the training crop in pixels (000 sec. 4.1)")
    long_side: int = Field(
        0, ge=0, description="larger images are first shrunk to this long side in pixels; 0 = never"
    )
    scale: tuple[float, float] = Field(
        (0.5, 2.0), description="images are resized by a random factor in this range (003 B)"
    )
    flip: bool = Field(True, description="mirror half of the images (003 B)")
    workers: int = Field(
        2,
        ge=0,
        description="processes that prepare images, per training process; 0 = none, the same numbers either way",
    )
