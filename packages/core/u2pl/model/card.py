"""What is known about a model: the content of its config.json."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    model_validator,
)

from u2pl.data.channels import channels_of
from u2pl.data.classes import clear_palette
from u2pl.data.geo.scaling import Scaling
from u2pl.errors import one_line
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.networks.config import NetworkConfig
from u2pl.networks.licenses import NVIDIA

#: Version of the schema; raised when an older version of this code could not read it.
FORMAT = 2


def _printable(name: str) -> str:
    if one_line(name) != name:
        raise ValueError("a class name holds a control character")
    return name


Level = Annotated[int, Field(ge=0, le=255)]
#: One that can be printed anywhere.
ClassName = Annotated[str, AfterValidator(_printable)]
Colour = tuple[Level, Level, Level]
Deviation = Annotated[FiniteFloat, Field(gt=0)]


class Normalisation(BaseModel):
    """Mean and standard deviation of each channel in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[FiniteFloat, ...]
    std: tuple[Deviation, ...]


class EncoderWeights(BaseModel):
    """Which pretrained weights training began with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # the hub's full name with its tag, or a file's name
    sha256: str  # over the tensors
    license: str | None = None  # as the hub names it; None: not known


class Origin(BaseModel):
    """The network that training began with, instead of pretrained weights of the encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # a folder, or the hub's name with its commit
    sha256: str  # over the tensors
    encoder_weights: EncoderWeights | None = None  # that its own training began with


class Card(BaseModel):
    """Network, classes, and where both come from; what a file does not say has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT  # of the file that it was read from
    app: str = "u2pl-semi"
    method: str = ""
    options: dict[str, JsonValue] = Field(default_factory=dict)  # the method's
    network: NetworkConfig
    classes: tuple[ClassName, ...] = Field(min_length=1)  # by class id
    palette: list[Colour] = Field(default_factory=list)  # display colours, by class id
    source: str | None = None  # what names the scored data on a command line
    split: str = "val"  # that it was scored on
    data: str = ""  # trained on, in words
    seed: int | None = None
    evaluation: str = ""  # scored data and protocol, in words
    protocol: EvaluationProtocol = EvaluationProtocol()
    crop: int | None = None  # of training, in pixels
    scores: dict[str, JsonValue] = Field(default_factory=dict)
    encoder_weights: EncoderWeights | None = None  # None: random, as in `origin`, or not known
    origin: Origin | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    normalisation: Normalisation | None = None  # of the images' channels
    scaling: Scaling | None = None  # of rasters' bands to channels; None: trained on photos

    @model_validator(mode="after")
    def _a_colour_for_each_class(self) -> Card:
        if self.palette and len(self.palette) != len(self.classes):
            raise ValueError(
                f"palette has {len(self.palette)} colours for {len(self.classes)} classes"
            )
        return self

    @model_validator(mode="after")
    def _a_mean_for_each_channel(self) -> Card:
        found = self.normalisation
        if found and not len(found.mean) == len(found.std) == self.channels:
            raise ValueError(
                f"normalisation.mean and normalisation.std have {len(found.mean)} and "
                f"{len(found.std)} numbers for {self.channels} channels"
            )
        return self

    @property
    def channels(self) -> int:
        """Of the network's input."""
        return channels_of(self.scaling)

    @property
    def pretrained(self) -> EncoderWeights | None:
        """The pretrained weights that all began with, this training or one before it."""
        return self.encoder_weights or (self.origin.encoder_weights if self.origin else None)

    @property
    def weights_license(self) -> str | None:
        """Of those weights, as the hub names it; older cards do not say that of NVIDIA's."""
        if self.pretrained is None:
            return None
        mit = self.network.encoder.startswith("mit_b")
        return self.pretrained.license or (NVIDIA if mit else None)

    def colours(self) -> list[Colour]:
        """The palette, or colours of its own without one."""
        return self.palette or [tuple(row) for row in clear_palette(self.classes).tolist()]
