"""Inference on one image: whole or by sliding window, multi-scale, with flip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2pl.evaluate.crf import apply_crf
from u2pl.evaluate.protocol import Blend, EvaluationProtocol
from u2pl.evaluate.windows import margins, starts, window_weight
from u2pl.maps import resize_image, shrink_factor, upsample
from u2pl.notation import IGNORE, padding


@contextmanager
def evaluating(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Eval mode and no gradients inside; afterwards every module is back in its previous mode."""
    modules = [module for network in networks for module in network.modules()]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def predict_probabilities(
    network: nn.Module, image_3HW: Tensor, protocol: EvaluationProtocol
) -> Tensor:
    """Class probabilities of one image, float32 [C, H, W]: mean softmax over scales and flips.

    Args:
        network: in eval mode (see `evaluating`); maps float images [1, 3, H, W] in [0, 1] to a
            SegOutput.
        image_3HW: uint8, or float in [0, 1], on the network's device.
        protocol: its mode `center-crop` is treated as `whole`; cut with `center_crop` before.
    """
    image = (image_3HW.float() / 255 if image_3HW.dtype == torch.uint8 else image_3HW)[None]
    size = (image.shape[-2], image.shape[-1])
    prob, views = None, 0
    shrink = shrink_factor(size, protocol.long_side)
    for scale in (shrink * scale for scale in protocol.scales):
        scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        view = resize_image(image, scaled)
        for mirrored in (False, True) if protocol.flip else (False,):
            logits = _logits(network, view.flip(-1) if mirrored else view, protocol)
            logits = logits.flip(-1) if mirrored else logits
            if scaled != size:
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            view_prob = logits[0].softmax(0)
            prob, views = view_prob if prob is None else prob.add_(view_prob), views + 1
    assert prob is not None
    prob = prob if views == 1 else prob / views
    return apply_crf(prob, image[0]) if protocol.crf else prob


def center_crop(image_3HW: Tensor, label_HW: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Centre crop of a uint8 image and its label, padded with the mean colour and 255."""
    height, width = label_HW.shape
    top, left = max(height - crop, 0) // 2, max(width - crop, 0) // 2
    image = image_3HW[:, top : top + crop, left : left + crop]
    label = label_HW[top : top + crop, left : left + crop]
    around = margins(label.shape[0], label.shape[1], crop)
    return padded_to(image, crop), F.pad(label, around, value=IGNORE)


def slide_logits(
    network: nn.Module, image_13HW: Tensor, crop: int, stride: int, blend: Blend = "mean"
) -> Tensor:
    """Logits of sliding windows, float32 [1, C, H, W], averaged where windows overlap.

    The last window of a row or column is shifted back inside the image; an image smaller than the
    window is padded on both sides.
    """
    height, width = image_13HW.shape[-2:]
    left, _, top, _ = margins(height, width, crop)
    padded = padded_to(image_13HW, crop)
    total: Tensor | None = None
    weight = window_weight(crop, blend, padded.device)
    count = padded.new_zeros(padded.shape[-2:])
    for y in starts(padded.shape[-2], crop, stride):
        for x in starts(padded.shape[-1], crop, stride):
            logits = full_size(network, padded[..., y : y + crop, x : x + crop])
            if total is None:
                total = logits.new_zeros((*logits.shape[:2], *padded.shape[-2:]))
            total[..., y : y + crop, x : x + crop] += logits * weight
            count[y : y + crop, x : x + crop] += weight
    assert total is not None
    return (total / count)[..., top : top + height, left : left + width]


def _logits(network: nn.Module, image_13HW: Tensor, protocol: EvaluationProtocol) -> Tensor:
    if protocol.mode == "slide":
        return slide_logits(network, image_13HW, protocol.side(), protocol.stride(), protocol.blend)
    return full_size(network, image_13HW)


def full_size(network: nn.Module, image_13HW: Tensor) -> Tensor:
    """Logits of a network at the image's size, float32 [1, C, H, W]."""
    size = (image_13HW.shape[-2], image_13HW.shape[-1])
    return upsample(network(image_13HW, embed=False).logits.float(), size)


def padded_to(image_3HW: Tensor, crop: int) -> Tensor:
    """The image, uint8 or float in [0, 1], padded evenly to at least crop x crop pixels."""
    height, width = image_3HW.shape[-2:]
    left, _, top, _ = margins(height, width, crop)
    colour = image_3HW.new_tensor(padding(image_3HW.shape[-3])) / (
        255 if image_3HW.is_floating_point() else 1
    )
    padded = colour.to(image_3HW.dtype)[:, None, None].repeat(
        *image_3HW.shape[:-3], 1, max(height, crop), max(width, crop)
    )
    padded[..., top : top + height, left : left + width] = image_3HW
    return padded
