"""Released checkpoints as models: a Mix Transformer under SegFormer's or DAFormer's head.

Whatever prefixes a repository puts in front of its names, the names of the parts themselves are
those of the papers' released heads, whose outputs the networks here reproduce (see their tests).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from u2pl.data.city_classes import CityClasses
from u2pl.data.classes import bit_palette, read_classes
from u2pl.data.sources.voc import NAMES as VOC_CLASSES
from u2pl.errors import UserError, explain
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import RANDOM, NetworkConfig
from u2pl.networks.encoders.mit import VARIANTS, timm_key
from u2pl.networks.pretrained import check_finite, read_weights
from u2pl.networks.segmentor import Segmentor

#: A tensor that every encoder of this kind has; what precedes it is the encoder's prefix.
_ENCODER = "patch_embed1.proj.weight"


class Head(NamedTuple):
    """A released head, and where its tensors are in ours."""

    decoder: str
    mark: str  # a tensor that only this head has
    linear: str  # pattern of the embedding of a feature map, with its number
    first: int  # number of the first feature map
    names: Mapping[str, str]  # module there -> module here; patterns
    output: str  # module that gives the logits


HEADS = (
    Head(
        "segformer",
        "linear_fuse.conv.weight",
        r"linear_c(\d)\.proj",
        1,
        {
            r"linear_fuse\.conv": "classifier.0",
            r"linear_fuse\.bn": "classifier.1",
            r"linear_pred": "classifier.4",
        },
        "linear_pred",
    ),
    Head(
        "daformer",
        "fuse_layer.bottleneck.conv.weight",
        r"embed_layers\.(\d)\.proj",
        0,
        {
            r"fuse_layer\.aspp_modules\.0\.conv": "classifier.0.pointwise.0",
            r"fuse_layer\.aspp_modules\.0\.bn": "classifier.0.pointwise.1",
            **{
                rf"fuse_layer\.aspp_modules\.{branch + 1}\.{theirs}_conv\.{layer}": (
                    f"classifier.0.dilated.{branch}.{ours}.{index}"
                )
                for branch in range(3)
                for ours, theirs in enumerate(("depthwise", "pointwise"))
                for index, layer in enumerate(("conv", "bn"))
            },
            r"fuse_layer\.bottleneck\.conv": "classifier.1.0",
            r"fuse_layer\.bottleneck\.bn": "classifier.1.1",
            r"conv_seg": "classifier.3",
        },
        "conv_seg",
    ),
)


class Imported(NamedTuple):
    """A network that was made from a file."""

    network: Segmentor
    config: NetworkConfig
    classes: int
    taken: dict[str, int]  # tensors by part
    left: list[str]  # keys of the file that no part has use for


def import_released(path: Path, prefix: str | None = None, stride: int | None = None) -> Imported:
    """The network of a released checkpoint, in evaluation mode on the CPU.

    Args:
        path: .pth (read without running code) or .safetensors.
        prefix: which of several networks in the file, by what its keys begin with.
        stride: of the encoder's last map, which no tensor tells; 32 if None.

    Raises:
        UserError: The file cannot be read, is of another architecture, does not fit, or holds NaN.
    """
    state = read_weights(path)
    head, root, encoder_prefix, head_prefix = _parts(state, path, prefix)
    encoder = _below(state, encoder_prefix)
    own_head = _below(state, head_prefix)
    name = _variant(encoder, path)
    linear = [v for k, v in own_head.items() if re.fullmatch(rf"{head.linear}\.weight", k)]
    output = own_head.get(f"{head.output}.weight")
    if not linear or output is None or not (linear[0].numel() and output.numel()):
        raise UserError(f"{path}: the {head.decoder} head is not whole; download the file again")
    width, classes = linear[0].shape[:1].numel(), output.shape[:1].numel()
    try:
        config = NetworkConfig(
            decoder=head.decoder,
            encoder=name,
            encoder_weights=RANDOM,
            width=width,
            embed_dim=0,
            output_stride=stride or 32,
        )
    except ValidationError as error:
        where = f"--output-stride {stride}" if stride else str(path)
        raise UserError(f"{where}: {explain(error)}") from None
    with torch.device("meta"):  # whatever the file says of its sizes takes no memory
        known = build_segmentor(config, classes).state_dict()
    ours = {f"encoder.model.{timm_key(key)}": value for key, value in encoder.items()}
    found = dict(_head_tensors(head, own_head))
    renamed = {key: value for key, value in {**ours, **found}.items() if key in known}
    # BatchNorm's count of batches is in few files, and plays no part in evaluation
    lacking = [k for k in known if k not in renamed and not k.endswith("num_batches_tracked")]
    wrong = [
        key
        for key, value in renamed.items()
        if known[key].shape != value.shape
        or (known[key].is_floating_point() and not value.is_floating_point())
    ]
    if lacking or wrong:
        first = (lacking + wrong)[0]
        raise UserError(
            f"{path} does not fit {name} under the {head.decoder} head: {len(lacking)} tensors are "
            f"missing, {len(wrong)} have another shape or type; first: {first}"
        )
    check_finite(renamed, str(path))
    network = build_segmentor(config, classes)
    network.load_state_dict({**network.state_dict(), **renamed})
    used = {f"{encoder_prefix}{k}" for k in encoder if f"encoder.model.{timm_key(k)}" in known}
    used |= {f"{head_prefix}{k}" for k in own_head if _ours(head, k) is not None}
    taken = {
        "encoder": sum(key.startswith("encoder.") for key in renamed),
        "decoder and classifier": sum(not key.startswith("encoder.") for key in renamed),
    }
    left = sorted(key for key in state if key.startswith(root) and key not in used)
    return Imported(network.eval(), config, classes, taken, left)


def _parts(
    state: Mapping[str, Tensor], path: Path, prefix: str | None
) -> tuple[Head, str, str, str]:
    """The head, and the prefixes of the whole network, of its encoder and of its head."""
    encoders = [key.removesuffix(_ENCODER) for key in state if key.endswith(_ENCODER)]
    heads = [
        (head, key.removesuffix(head.mark))
        for head in HEADS
        for key in state
        if key.endswith(head.mark)
    ]
    pairs = [
        (head, _shared(encoder, below), encoder, below)
        for encoder in encoders
        for head, below in heads
        if _parent(encoder) == _parent(below)
    ]
    # of `backbone.` and `ema_backbone.` beside `ema_decode_head.` the second belongs to it
    found = [
        each
        for each in pairs
        if not any(
            len(other[1]) > len(each[1]) and (other[2] == each[2] or other[3] == each[3])
            for other in pairs
        )
    ]
    if not found:
        some = ", ".join(list(state)[:3])
        raise UserError(
            f"{path} is no Mix Transformer under SegFormer's or DAFormer's head, which are the "
            f"released networks that can be imported; its first tensors: {some}"
        )
    chosen = [each for each in found if prefix is None or each[1] == prefix]
    if len(chosen) != 1:
        roots = ", ".join(repr(each[1]) for each in found)
        raise UserError(
            f"{path} holds {len(found)} networks, whose keys begin with {roots}: choose one with "
            "--prefix"
        )
    return chosen[0]


def _parent(prefix: str) -> str:
    """The prefix without the name of its last module: `model.backbone.` -> `model.`."""
    return re.sub(r"[^.]+\.$", "", prefix)


def _shared(encoder: str, head: str) -> str:
    """What both prefixes begin with, in whole words: `ema_` of `ema_backbone.`, `ema_head.`."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(encoder, head, strict=False))
    return re.sub(r"[^._]+$", "", "".join(letter for letter, _ in same))


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _variant(encoder: Mapping[str, Tensor], path: Path) -> str:
    """The name of the encoder, by its widths and depths."""
    dims, depths = [], []
    for stage in range(1, 5):
        embedding = encoder.get(f"patch_embed{stage}.proj.weight")
        blocks = {m[1] for key in encoder if (m := re.match(rf"block{stage}\.(\d+)\.", key))}
        dims.append(0 if embedding is None else embedding.shape[0])
        depths.append(len(blocks))
    for name, variant in VARIANTS.items():
        if (variant.dims, variant.depths) == (tuple(dims), tuple(depths)):
            return name
    raise UserError(
        f"{path}: no Mix Transformer has {depths} blocks of {dims} channels; is the file whole?"
    )


def _head_tensors(head: Head, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items():
        ours = _ours(head, key)
        if ours is not None:
            # a linear layer there is a 1x1 convolution here
            linear = ours.startswith("decoder.linear.") and ours.endswith(".weight")
            yield ours, value[..., None, None] if linear and value.dim() == 2 else value


def _ours(head: Head, key: str) -> str | None:
    """Our name of a tensor of a head; None if ours has none."""
    module, _, leaf = key.rpartition(".")
    embedding = re.fullmatch(head.linear, module)
    if embedding:
        return f"decoder.linear.{int(embedding[1]) - head.first}.{leaf}"
    for pattern, name in head.names.items():
        if re.fullmatch(pattern, module):
            return f"{name}.{leaf}"
    return None


def known_classes(given: str | None, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and colours of the classes of an imported network.

    Args:
        given: `cityscapes`, `voc`, or a classes.txt; by the number of classes if None.
        count: classes of the network.

    Raises:
        UserError: There are not so many names, or the number alone does not tell.
    """
    known = {
        "cityscapes": (CityClasses.classes, CityClasses.palette),
        "voc": (VOC_CLASSES, bit_palette(len(VOC_CLASSES))),
    }
    fitting = [name for name, (names, _) in known.items() if len(names) == count]
    if given is None and not fitting:
        raise UserError(
            f"the network has {count} classes, which are not those of Cityscapes or VOC: name them "
            "with --classes FILE, one per line"
        )
    name = given or fitting[0]
    names, palette = known[name] if name in known else read_classes(Path(name))
    if len(names) != count:
        raise UserError(f"--classes {name} has {len(names)} names, but the network {count} classes")
    return tuple(names), palette
