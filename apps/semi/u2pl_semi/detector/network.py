"""Faster R-CNN on any of the segmenters' encoders, and its folder on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveInt, ValidationError
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from u2pl.errors import UserError, explain
from u2pl.files import parse_json, replace_folder, whole_folder
from u2pl.model.folder import check_kinds, fill_network
from u2pl.networks.config import RANDOM
from u2pl.networks.encoder import Encoder, family_of
from u2pl.networks.pretrained import load_pretrained
from u2pl.tensor_file import Kind, tensor_file

WEIGHTS, CONFIG = "model.safetensors", "detector.json"
#: Version of the schema of `DetectorCard`.
FORMAT = 1


class DetectorConfig(BaseModel):
    """Encoder and heads of a detector."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = Field("resnet50", description="any timm encoder with maps at strides 4 to 32")
    encoder_weights: str = Field(
        RANDOM,
        description="none: random initialisation (Weighting-PL sec. 1); imagenet: the hub's "
        "weights for this name; or a .safetensors or .pth file of the encoder",
    )
    width: PositiveInt = Field(256, description="channels of the feature pyramid")
    hidden: PositiveInt = Field(1024, description="channels of the two layers that judge a box")
    proposals: PositiveInt = Field(
        1000, description="boxes of an image that are judged, in training and in predicting"
    )
    anchor: PositiveInt = Field(
        32,
        description="side of the smallest anchors in pixels; those of each level are twice "
        "those of the level before",
    )


class DetectorCard(BaseModel):
    """What is known about a detector: the content of its detector.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    network: DetectorConfig
    classes: tuple[str, ...]  # of the source, by class id
    things: tuple[int, ...] = Field(min_length=1)  # the ids that it detects, by its own number - 1
    source: str  # what names the data on a command line
    labeled: str | None = None  # which of them were labelled, as typed
    data: str = ""  # trained on, in words
    least: int = 1  # pixels of the smallest part of a mask that is an object
    long_side: int = 0  # images are shrunk to it first; 0 = never
    scores: dict[str, JsonValue] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


class Pyramid(nn.Module):
    """An encoder and a feature pyramid on its four maps; a fifth level is pooled.

    Args:
        encoder: with maps at strides 4, 8, 16 and 32.
        width: channels of each level.
    """

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.fpn = FeaturePyramidNetwork(list(encoder.channels), width, LastLevelMaxPool())
        self.out_channels = width  # torchvision asks for it

    def forward(self, image_B3HW: Tensor) -> dict[str, Tensor]:
        maps = self.encoder(image_B3HW)
        levels: dict[str, Tensor] = self.fpn({str(i): each for i, each in enumerate(maps)})
        return levels


class AsTheyAre(GeneralizedRCNNTransform):
    """Normalises and pads images; torchvision's would bring them to 800 pixels first."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Leave the image as it is."""
        return image, target


def build_detector(config: DetectorConfig, things: int) -> FasterRCNN:
    """Faster R-CNN for so many classes, with the encoder's weights loaded.

    It takes images of any size as they are: it pads them, and does not resize.

    Raises:
        UserError: The encoder is unknown or has maps at one stride, or its weights do not fit.
    """
    encoder = family_of(config.encoder).build(config.encoder, 32)
    if len({*encoder.strides}) == 1:
        raise UserError(
            f"network.encoder={config.encoder} has no maps at strides 4 to 32, which boxes of all "
            "sizes need: choose another one for the detector, such as resnet50"
        )
    if config.encoder_weights != RANDOM:
        load_pretrained(encoder, config.encoder, config.encoder_weights)
    sizes = tuple((config.anchor * 2**level,) for level in range(5))
    pool = MultiScaleRoIAlign([str(level) for level in range(4)], 7, 2)
    # torchvision would guess them from the first image that it sees, which padding may falsify
    pool.scales = [1 / stride for stride in encoder.strides]
    pool.map_levels = initLevelMapper(2, 5)
    network = FasterRCNN(
        Pyramid(encoder, config.width),
        box_roi_pool=pool,
        box_head=TwoMLPHead(config.width * 7**2, config.hidden),
        box_predictor=FastRCNNPredictor(config.hidden, things + 1),
        rpn_pre_nms_top_n_train=2 * config.proposals,
        rpn_pre_nms_top_n_test=config.proposals,
        rpn_post_nms_top_n_train=config.proposals,
        rpn_post_nms_top_n_test=config.proposals,
        box_batch_size_per_image=min(512, config.proposals),
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
    )
    network.transform = AsTheyAre(0, 0, list(encoder.mean), list(encoder.std))
    return network


def save_detector(folder: Path, network: nn.Module, card: DetectorCard) -> None:
    """Write a detector, replacing the folder as a whole; UserError if the disk refuses."""
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    files = {WEIGHTS: tensor_file(network.state_dict()), CONFIG: f"{text}\n".encode()}
    replace_folder(folder, files)


def load_detector(path: Path) -> tuple[FasterRCNN, DetectorCard]:
    """A detector in evaluation mode on the CPU, and its card.

    Args:
        path: its folder, or that of the run (its `last/`).

    Raises:
        UserError: Nothing there, or anything in it is missing, damaged, too new or does not fit.
    """
    folder = _folder_of(path)
    card = _read_card(folder / CONFIG)
    config = card.network.model_copy(update={"encoder_weights": RANDOM})
    network = build_detector(config, len(card.things))
    own = {key: Kind.of(value) for key, value in network.state_dict().items()}
    check_kinds(own, folder / WEIGHTS, CONFIG)
    fill_network(network, folder / WEIGHTS)
    return network.eval(), card


def is_replaced(path: Path, card: DetectorCard) -> bool:
    """Whether a folder does not hold a detector any more that was loaded from it."""
    try:
        return _read_card(_folder_of(path) / CONFIG) != card
    except UserError:
        return True


def _folder_of(path: Path) -> Path:
    """The folder of a detector, or `last/` of its run; UserError if it holds none."""
    path = Path(path)
    last = whole_folder(path / "last")
    folder = last if last.is_dir() else whole_folder(path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(
                f"no detector at {path}: it has no {name}; give the folder of a run of u2pl-semi "
                "detector train"
            )
    return folder


def _read_card(path: Path) -> DetectorCard:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        version = content["format"]
        if version > FORMAT:
            raise UserError(f"{path} has format {version}, newer than {FORMAT}; upgrade u2pl")
        card = DetectorCard.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}; copy the folder again") from None
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not readable ({error}); copy the folder again") from None
    if not 0 <= min(card.things) <= max(card.things) < len(card.classes):
        raise UserError(f"{path}: things names a class that is none; copy the folder again")
    return card


@torch.no_grad()
def detect(network: FasterRCNN, card: DetectorCard, image_3HW: Tensor) -> Tensor:
    """Boxes of an image: float32 [N, 6], class, top, left, bottom, right, score, best first.

    Args:
        network: in evaluation mode.
        card: the detector's.
        image_3HW: uint8 RGB, of any size; shrunk to the card's `long_side`.
    """
    from u2pl.maps import resize_image, shrink_factor

    size = (image_3HW.shape[-2], image_3HW.shape[-1])
    factor = shrink_factor(size, card.long_side)
    small = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    device = next(network.parameters()).device
    image = resize_image(image_3HW[None].to(device).float() / 255, small)[0].clamp(0, 1)
    found = network([image])[0]
    things = torch.tensor(card.things, device=device)
    across, down = size[1] / small[1], size[0] / small[0]
    left, top, right, bottom = found["boxes"].unbind(dim=1)
    columns = [
        things[found["labels"] - 1].float(),
        top * down,
        left * across,
        bottom * down,
        right * across,
        found["scores"],
    ]
    return torch.stack(columns, dim=1).float().cpu()
