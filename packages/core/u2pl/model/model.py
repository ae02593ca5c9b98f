"""A trained network with its card: load, predict, evaluate, save."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from u2pl.counting import Counting, OnProgress, silently
from u2pl.data.channels import as_photo
from u2pl.data.classes import is_background
from u2pl.data.geo.regions import is_raster, open_raster
from u2pl.data.opening import open_source
from u2pl.data.reading import read_rgb, to_rgb
from u2pl.data.regions import Decoded, Regions, open_regions
from u2pl.data.source import Source
from u2pl.errors import UserError, did_you_mean, explain
from u2pl.evaluate.bands import Room, Segmented, empty, segment, tallied
from u2pl.evaluate.confusion import Score
from u2pl.evaluate.crf import load_crf
from u2pl.evaluate.inference import evaluating, predict_probabilities
from u2pl.evaluate.protocol import Blend, EvaluationProtocol
from u2pl.evaluate.scoring import evaluate
from u2pl.files import expanded, replace_file
from u2pl.maps import shrink_factor
from u2pl.model.card import Card
from u2pl.model.folder import load_folder, save_folder
from u2pl.model.onnx_file import OnnxCheck, to_onnx
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import COLOURS
from u2pl.report.overlays import colour_mask, overlay

#: Pixels of an image above which it is shown to the network in parts.
LARGE = 25_000_000
#: What a photo's channels hold, and rasters' that a network of photos takes.
PHOTOS = "uint8"
#: Side in pixels of these parts, for a network whose card says nothing of crops.
WINDOW = 768

#: What `Model.predict` takes as an image.
ImageLike = str | Path | Image.Image | np.ndarray | Tensor


class View(TypedDict, total=False):
    """What may differ from a network's own evaluation protocol; None leaves it as it is."""

    mode: Literal["whole", "center-crop", "slide"] | None
    crop: int | None
    blend: Blend | None
    scales: tuple[float, ...] | list[float] | None
    flip: bool | None
    crf: bool | None


@dataclass(frozen=True)
class Prediction:
    """A segmented image."""

    image: np.ndarray  # uint8 [H, W, 3]; of more channels the first three, of fewer grey
    ids: np.ndarray  # uint8 [H, W], class ids
    classes: tuple[str, ...]
    palette: np.ndarray  # uint8 [C, 3]
    confidence: np.ndarray  # uint8 [H, W], probability of the predicted class, 255 = 1
    mean_confidence: float  # over the pixels, in [0, 1]
    mean_doubt: float  # mean entropy relative to that of even odds, in [0, 1]
    probabilities: np.ndarray | None = None  # float32 [C, H, W], if asked for

    def __repr__(self) -> str:
        height, width = self.ids.shape
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.shares().items())
        return (
            f"Prediction({width}x{height} pixels: {shares}; mean confidence "
            f"{self.mean_confidence:.2f})"
        )

    def colours(self) -> Image.Image:
        """The mask in the classes' colours."""
        return Image.fromarray(colour_mask(self.ids, self.palette))

    def overlay(self, alpha: float = 0.5) -> Image.Image:
        """The image under its classes' colours, with a thin line around each region."""
        background = is_background(0, self.classes[0])
        return Image.fromarray(overlay(self.image, self.ids, self.palette, alpha, background))

    def shares(self) -> dict[str, float]:
        """Share of the image of each class that occurs."""
        known = len(self.classes)
        count = np.bincount(self.ids.ravel(), minlength=known)[:known] / self.ids.size
        return {self.classes[c]: float(count[c]) for c in np.flatnonzero(count)}


class Model:
    """A network and what is known about it.

    Args:
        network: in evaluation mode, on any device.
        card: its classes, protocol and origin.
    """

    def __init__(self, network: Segmentor, card: Card) -> None:
        self.network = network
        self.card = card

    def __repr__(self) -> str:
        network = self.card.network
        return (
            f"Model({network.encoder} {network.decoder}, {len(self.classes)} classes, on "
            f"{self.device})"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by class id."""
        return self.card.classes

    @cached_property
    def palette(self) -> np.ndarray:
        """Display colours by class id, uint8 [C, 3]."""
        return np.array(self.card.colours(), dtype=np.uint8)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Model:
        """Move the network."""
        self.network.to(device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write model.safetensors, config.json and README.md; a folder there is replaced whole."""
        save_folder(Path(folder), self.network, self.card)

    def save_onnx(self, path: str | Path) -> OnnxCheck:
        """Write the network as an ONNX file, and compare the two; needs uv sync --extra onnx.

        Returns: the largest difference of a probability, and the share of equal pixels.
        Raises UserError, and writes nothing, if the file would compute something else.
        """
        content, check = to_onnx(self.network, self.card)
        replace_file(Path(path), content)
        return check

    def protocol(self, **view: Unpack[View]) -> EvaluationProtocol:
        """The protocol it was trained with, with some changes; UserError if they make no sense."""
        for name in view:
            if name not in View.__annotations__:
                near, known = (
                    did_you_mean(name, View.__annotations__),
                    ", ".join(View.__annotations__),
                )
                raise UserError(f"there is no option {name!r}{near}; there are {known}")
        changes = {key: value for key, value in view.items() if value is not None}
        values = self.card.protocol.model_dump() | changes
        if values["crop"] is None:
            values["crop"] = self.card.crop
        try:
            return EvaluationProtocol.model_validate(values)
        except ValidationError as error:
            raise UserError(explain(error)) from error

    def predict(
        self,
        image: ImageLike,
        *,
        probabilities: bool = False,
        stored_pixels: bool = False,
        window: int | None = None,
        **view: Unpack[View],
    ) -> Prediction:
        """Segment an image of any size, as `predict` on the command line does.

        A file is turned upright as its EXIF header says, as viewers do; all others are taken as
        they are.

        Args:
            image: a file, a PIL image, an array [H, W, 3] or [H, W], or a tensor [3, H, W]; arrays
                and tensors as uint8, or floating point in [0, 1]. For a network of other than
                three channels a file, or an array or a tensor of these channels, scaled.
            probabilities: whether to keep those of all classes, float32 [C, H, W].
            stored_pixels: whether a file's pixels stay as they are stored, whatever EXIF says.
            window: see `segment`.
            view: changes of the protocol: mode, crop, blend, scales, flip, crf.

        Raises UserError if the image cannot be read or a change makes no sense.
        """
        if isinstance(image, (str, Path)) and not Path(image).is_file():
            kind = "is a folder, not an image: predict takes one" if Path(image).is_dir() else ""
            raise UserError(f"{str(image)!r}: {kind or 'there is no such file'}")
        shown = (
            self.open_image(Path(image), stored_pixels)
            if isinstance(image, (str, Path))
            else Decoded(as_pixels(image, channels=self.card.channels))
        )
        kept = None
        if probabilities:
            prob = self._probabilities(shown, self.protocol(**_windowed(window, view)))
            found, kept = tallied(prob, shown.valid_rows), prob.cpu().numpy()
        else:
            found = self.segment(shown, window, **view)
        return Prediction(
            as_photo(shown.whole()),
            found.ids,
            self.classes,
            self.palette,
            found.confidence,
            found.mean_confidence,
            found.mean_doubt,
            kept,
        )

    def is_raster(self, path: Path) -> bool:
        """Whether a file is read as a GeoTIFF; UserError if rasterio is needed and missing."""
        return is_raster(path, self.card.scaling)

    def open_image(self, path: Path, stored_pixels: bool = False) -> Regions:
        """An image file as the network is shown it; arguments and errors as of `predict`."""
        if self.is_raster(path):
            return open_raster(path, self.card.scaling)
        scaling = self.card.scaling
        if scaling is not None and (scaling.kind != PHOTOS or self.card.channels != COLOURS):
            raise UserError(
                f"{path} is a photo, and the network was trained on rasters, of which it takes "
                f"{self.card.channels} bands of {scaling.kind}: give it such GeoTIFFs"
            )
        return open_regions(path, stored_pixels)

    def segment(
        self,
        image: Regions,
        window: int | None = None,
        progress: OnProgress | None = None,
        room: Room = empty,
        **view: Unpack[View],
    ) -> Segmented:
        """The classes of an image's pixels and how sure they are; the image may be very large.

        Args:
            image: of any size.
            window: side in pixels of the parts in which the network sees the image. If left out,
                images of more than `LARGE` pixels have parts as large as a training crop, but for a
                network with sliding windows or a long side of its own.
            progress: called with (parts done, parts to do).
            room: makes the arrays of what is returned.
            view: changes of the protocol: mode, crop, blend, scales, flip, crf.

        Raises UserError if the image is broken or a change makes no sense.
        """
        protocol = self.protocol(**_windowed(window, view))
        if window is None:
            if image.pixels <= LARGE:
                return tallied(self._probabilities(image, protocol), image.valid_rows, room)
            shrink = shrink_factor((image.height, image.width), protocol.long_side)
            largest = max(protocol.scales) ** 2 * shrink**2 * image.pixels
            if protocol.mode != "slide" and largest > LARGE:
                protocol = self.protocol(**_windowed(protocol.crop or WINDOW, view))
        with evaluating([self.network]):
            return segment(self.network, image, protocol, self.device, progress, room)

    def evaluate(
        self,
        data: str | Path | None = None,
        split: str | None = None,
        *,
        progress: OnProgress | None = None,
        **view: Unpack[View],
    ) -> Score:
        """Score the network: IoU of each class, their mean, and the pixel accuracy, in percent.

        Args:
            data: a data source; the one it was trained on if left out.
            split: which images; val, or what the run was scored on, if left out.
            progress: called with (images done, images to do).
            view: changes of the protocol: mode, crop, blend, scales, flip, crf.

        Raises UserError if the data cannot be read or has other classes.
        """
        source, ids = self.open_scored(None if data is None else str(data), split)
        return self.score(source, ids, self.protocol(**view), progress)

    def open_scored(
        self, data: str | None, split: str | None, counting: Counting = silently
    ) -> tuple[Source, list[str]]:
        """The data to score on, and the ids of a split of it; UserError if they do not fit."""
        text = data or self.card.source
        if not text:
            raise UserError("the model does not name its training data: say which data to score on")
        source = open_source(text, counting)
        if tuple(source.classes) != self.classes:
            theirs, ours = (
                f"{len(names)} classes ({', '.join(names[:4])}{', ...' if names[4:] else ''})"
                for names in (source.classes, self.classes)
            )
            raise UserError(f"{source.name} has {theirs}; the network has {ours}")
        if self.card.scaling is not None:
            source.show_as(self.card.scaling)
        if source.channels != self.card.channels:
            raise UserError(
                f"{text} has images of {source.channels} channels, and the network takes "
                f"{self.card.channels}: give it data as it was trained on"
            )
        theirs, ours = (
            PHOTOS if scaling is None else scaling.kind
            for scaling in (source.scaling, self.card.scaling)
        )
        if theirs != ours:  # how the ones become the others is not in the network's folder
            raise UserError(
                f"{text} holds {theirs}, and the network was trained on {ours}: give it data as it "
                "was trained on"
            )
        return source, source.split(split or self.usual_split(data))

    def usual_split(self, data: str | None) -> str:
        """The split that is scored if none is named."""
        return self.card.split if data is None else "val"

    def score(
        self,
        source: Source,
        ids: list[str],
        protocol: EvaluationProtocol,
        progress: OnProgress | None = None,
    ) -> Score:
        """Score the network on images of an open source."""
        if protocol.crf:
            load_crf()
        networks, classes = {"network": self.network}, len(self.classes)
        counts = evaluate(networks, source, ids, protocol, self.device, classes, progress)
        return counts["network"].score()

    def _probabilities(self, image: Regions, protocol: EvaluationProtocol) -> Tensor:
        if protocol.crf:
            load_crf()
        pixels = torch.from_numpy(np.ascontiguousarray(image.whole())).permute(2, 0, 1)
        with evaluating([self.network]):
            return predict_probabilities(self.network, pixels.to(self.device), protocol)


def _windowed(window: int | None, view: View) -> View:
    """A view whose images are shown in parts of this side, blended if nothing else is asked for."""
    if window is None:
        return view
    return {**view, "mode": "slide", "crop": window, "blend": view.get("blend") or "linear"}


def load(path: str | Path, device: torch.device | str | None = None) -> Model:
    """A model from a folder that training or `Model.save` has written, or from the hub.

    Args:
        path: the folder, its model.safetensors, a run folder (its `last/`), or, if there is no such
            folder, a name on the hub: `user/name` or `user/name@revision`.
        device: a GPU if there is one and nothing else is asked for.

    Raises UserError if there is nothing, or anything in it is damaged, too new or does not fit.
    """
    network, card = load_folder(expanded(path))
    try:
        return Model(network, card).to(device or choose_device(cpu=False))
    except RuntimeError as error:  # no such device
        raise UserError(f"cannot use device {device}: {str(error).splitlines()[0]}") from None


def choose_device(cpu: bool) -> torch.device:
    """A GPU if there is one and it is wanted."""
    return torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")


def as_pixels(image: ImageLike, channels: int = COLOURS) -> np.ndarray:
    """An image as uint8 [H, W, channels], a file upright; UserError if it is none.

    One channel stands for three.
    """
    if isinstance(image, (str, Path, Image.Image)) and channels != COLOURS:
        raise UserError(f"the network takes {channels} channels: give it an array of them")
    if isinstance(image, (str, Path)):
        return np.array(read_rgb(Path(image)))
    if isinstance(image, Image.Image):
        return np.array(to_rgb(image, str(getattr(image, "filename", "") or "the image")))
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
        image = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        if image.ndim == 3 and image.shape[0] in (1, channels):
            image = image.transpose(1, 2, 0)
    if not isinstance(image, np.ndarray):
        raise UserError(f"an image is a file, a PIL image, an array or a tensor, not {type(image)}")
    image = image[..., None] if image.ndim == 2 else image
    known = (1, channels) if channels == COLOURS else (channels,)
    if image.ndim != 3 or image.shape[2] not in known or not image.size:
        grey = " or [H, W]" if 1 in known else ""
        raise UserError(
            f"an image has the shape [H, W, {channels}]{grey} (a tensor [{channels}, H, W]), not "
            f"{image.shape}"
        )
    if np.issubdtype(image.dtype, np.floating):
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise UserError("an image of floating-point numbers must lie in [0, 1]")
        image = (image * 255).round().astype(np.uint8)
    if image.dtype != np.uint8:
        raise UserError(f"an image is uint8, or floating point in [0, 1], not {image.dtype}")
    # a copy: the prediction keeps it, whatever becomes of the caller's array
    return np.array(np.broadcast_to(image, (*image.shape[:2], channels)), order="C")
