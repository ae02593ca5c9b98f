"""A network as an ONNX file, for runtimes without torch: image in, probabilities and ids out.

Needs onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.export import Dim

from u2pl.errors import UserError
from u2pl.evaluate.inference import evaluating
from u2pl.maps import top_class, upsample
from u2pl.model.card import Card
from u2pl.networks.segmentor import Segmentor
from u2pl.notation import COLOURS

#: The oldest version of ONNX's operators that has antialiased resizing, which some encoders need.
OPSET = 20
#: Batch, height and width of what the network is traced with: a batch above 1 and sides that are no
#: multiple of any stride, since what is equal in the sample is taken for equal in all images.
SAMPLE = (2, 69, 107)
#: What may differ from the sample: batch, height and width. Unlike `Dim.AUTO`, an axis that the
#: network's code has made a constant is an error.
SIZES = {axis: Dim.DYNAMIC for axis in (0, 2, 3)}
#: What the file is compared on: another batch each, one with odd sides.
CHECKED = ((1, 97, 131), (3, 64, 128))
#: Largest difference of a probability between the file and torch.
TOLERANCE = 1e-3


class OnnxCheck(NamedTuple):
    """An ONNX file beside the network that it was made from, on images of noise."""

    difference: float  # the largest of any probability
    equal: float  # share of the pixels with the same class
    shapes: tuple[tuple[int, ...], ...]  # of the images


class WholeImage(nn.Module):
    """What an ONNX file computes: uint8 images [B, channels, H, W] to probabilities and class ids.

    As `predict` does with a whole image: normalised, padded, enlarged to the image's own size.
    """

    def __init__(self, network: Segmentor) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities, float32 [B, C, H, W], and ids of the likeliest class, uint8 [B, H, W]."""
        logits = self.network(image, embed=False).logits.float()
        prob = upsample(logits, image.shape[-2:]).softmax(dim=1)
        return prob, top_class(prob).to(torch.uint8)


def load_onnx() -> tuple[Any, Any]:
    """The modules onnx_ir and onnxruntime; UserError if a package is missing or broken."""
    try:
        import_module("onnx")
        import_module("onnxscript")
        return import_module("onnx_ir"), import_module("onnxruntime")
    except ModuleNotFoundError as error:
        reason = f"and {error.name} is not installed"
    except (ImportError, ValueError) as error:  # ValueError: compiled for another numpy
        reason = f"which cannot be loaded ({(str(error).splitlines() or ['no reason given'])[0]})"
    raise UserError(
        f"ONNX needs the optional packages onnx, onnxscript and onnxruntime, {reason}: "
        "uv sync --extra onnx"
    )


def to_onnx(network: Segmentor, card: Card) -> tuple[bytes, OnnxCheck]:
    """The content of an ONNX file, and how it compares with the network.

    Input `image`: uint8 RGB [batch, 3, height, width] of any size, or the network's own channels.
    Outputs `probabilities`: float32 [batch, class, height, width], and `ids`: uint8 [batch, height,
    width], both at the image's own size. Classes, palette and protocol are in the file's metadata.

    Raises:
        UserError: A package is missing, the network cannot be exported, or the file's probabilities
            differ from the network's by more than `TOLERANCE`.
    """
    ir, _ = load_onnx()
    device = network.mean.device
    whole = WholeImage(network.cpu())
    try:
        with evaluating([whole]), tempfile.TemporaryDirectory() as folder:
            program = _traced(whole)
            _describe(program.model, card, ir)
            path = Path(folder) / "model.onnx"
            program.save(path, external_data=False)
            return path.read_bytes(), _compared(whole, path)
    finally:
        network.to(device)


def _traced(whole: WholeImage) -> Any:
    try:
        with _quietly(), padded_by_constants(whole):
            return torch.onnx.export(
                whole,
                (noise(SAMPLE, whole.network.channels),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["probabilities", "ids"],
                dynamic_shapes={"image": SIZES},
                verbose=False,
            )
    except Exception as error:  # whatever an encoder's code can raise when it is traced
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"the network cannot be written as ONNX: {reason[0]}") from error


def _describe(model: Any, card: Card, ir: Any) -> None:
    """Name the sizes, and say what the numbers mean."""
    (image,), (prob, ids) = model.graph.inputs, model.graph.outputs
    image.shape = ir.Shape(["batch", card.channels, "height", "width"])
    prob.shape = ir.Shape(["batch", len(card.classes), "height", "width"])
    ids.shape = ir.Shape(["batch", "height", "width"])
    model.metadata_props.update(
        {
            "classes": json.dumps(card.classes, ensure_ascii=False),
            "palette": json.dumps(card.colours()),
            "input": f"uint8 {_input(card)}, any size; normalisation and padding are inside",
            "resizing": _resizing(card),
            "protocol": json.dumps(card.protocol.model_dump(mode="json")),
            "scored": card.evaluation,
        }
    )


def _input(card: Card) -> str:
    """What the channels hold."""
    scaling = card.scaling
    if scaling is None:
        return "RGB"
    return f"bands, scaled from {scaling.model_dump_json(exclude={'nodata'})}"


def _resizing(card: Card) -> str:
    """How the protocol changes an image's size in front of the network."""
    side, scales = card.protocol.long_side, card.protocol.scales
    words = "none: the image's own size"
    if side:
        words = f"shrink the image to a long side of at most {side} pixels, antialiased bilinear"
    if scales != (1.0,):
        words += "; scored as the mean over the scales " + " ".join(f"{each:g}" for each in scales)
    return words


def _compared(whole: WholeImage, path: Path) -> OnnxCheck:
    """Run the file and the network on images of other shapes than the sample's."""
    _, runtime = load_onnx()
    differences, equal, shapes = [], [], []
    try:
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for shape in CHECKED:
            image = noise(shape, whole.network.channels)
            prob, ids = (output.numpy() for output in whole(image))
            theirs, their_ids = session.run(["probabilities", "ids"], {"image": image.numpy()})
            differences.append(float(np.abs(prob - theirs).max()))
            equal.append(ids == their_ids)
            shapes.append(tuple(image.shape))
    except Exception as error:  # the runtime has classes of its own for what a file can do wrong
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"onnxruntime cannot run the network's ONNX file: {reason}") from error
    pixels = np.concatenate([each.ravel() for each in equal])
    check = OnnxCheck(max(differences), float(pixels.mean()), tuple(shapes))
    if not check.difference <= TOLERANCE:
        raise UserError(
            f"the network's ONNX file computes something else: probabilities differ by up to "
            f"{check.difference:.2g}, more than {TOLERANCE:g}; it is not written"
        )
    return check


def noise(shape: tuple[int, ...], channels: int = COLOURS) -> Tensor:
    """A batch of images, the same each time: uint8 [batch, channels, height, width]."""
    generator, (batch, *size) = torch.Generator().manual_seed(0), shape
    return torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8, generator=generator)


@contextmanager
def padded_by_constants(whole: WholeImage) -> Iterator[None]:
    """While it lasts, timm's convolutions with "same" padding pad by what strides alone say.

    They compute it from the size of each map, which makes tracing symbolic sizes ten times slower.
    Images are padded to the encoder's stride, so every stride divides the map it meets, and of the
    size nothing is left; `_compared` would tell if something were.
    """
    found = [each for each in whole.modules() if isinstance(each, Conv2dSame)]
    for module in found:
        module.forward = partial(_convolved, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in found:
            del module.forward


def _convolved(module: nn.Conv2d, map_BCHW: Tensor) -> Tensor:
    """What `Conv2dSame` computes of a map whose sides its strides divide."""
    height, width = (
        max(dilation * (kernel - 1) + 1 - stride, 0)
        for kernel, dilation, stride in zip(
            module.kernel_size, module.dilation, module.stride, strict=True
        )
    )
    sides = (width // 2, width - width // 2, height // 2, height - height // 2)
    padded = F.pad(map_BCHW, sides)
    return F.conv2d(
        padded, module.weight, module.bias, module.stride, 0, module.dilation, module.groups
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks, which are for its own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
