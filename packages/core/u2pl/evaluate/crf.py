"""Dense CRF (Krähenbühl and Koltun 2011): predictions follow image edges; needs pydensecrf2."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from u2pl.data.channels import as_photo
from u2pl.errors import UserError

# As in AFA's released code: standard deviations in pixels (sxy) and in levels of 255 (srgb), and
# weights of the kernels (compat).
_STEPS = 10
_NEAR = {"sxy": 3, "compat": 3}
_ALIKE = {"sxy": 64, "srgb": 5, "compat": 4}


def load_crf() -> Any:
    """The module pydensecrf.densecrf; UserError if it is missing or broken."""
    try:
        return import_module("pydensecrf.densecrf")
    except ModuleNotFoundError:
        reason = "which is not installed"
    except (ImportError, ValueError) as error:  # ValueError: compiled for another numpy
        reason = f"which cannot be loaded ({(str(error).splitlines() or ['no reason given'])[0]})"
    raise UserError(
        f"dense CRF needs the optional package pydensecrf2, {reason}: uv sync --extra crf, or "
        "score without it"
    ) from None


def apply_crf(prob_CHW: Tensor, image_3HW: Tensor) -> Tensor:
    """Class probabilities after 10 mean-field steps of a dense CRF, float32 [C, H, W].

    The smoothness kernel has a standard deviation of 3 pixels and weight 3; the appearance kernel
    64 pixels, 5 levels of 255 and weight 4, as in AFA's released code. Computed on the CPU, and
    returned on the device of `prob_CHW`.

    Args:
        prob_CHW: probabilities at the image's size.
        image_3HW: uint8, or float in [0, 1]; of other numbers of channels what `as_photo` shows.

    Raises UserError if pydensecrf2 is missing.
    """
    classes, height, width = prob_CHW.shape
    pixels = (
        image_3HW
        if image_3HW.dtype == torch.uint8
        else (image_3HW.float() * 255).round().to(torch.uint8)
    )
    energy = -prob_CHW.float().clamp(min=1e-8).log().flatten(1)
    crf = load_crf().DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(energy.cpu().numpy()))
    crf.addPairwiseGaussian(**_NEAR)
    crf.addPairwiseBilateral(
        **_ALIKE, rgbim=np.ascontiguousarray(as_photo(pixels.permute(1, 2, 0).cpu().numpy()))
    )
    prob = np.array(crf.inference(_STEPS), dtype=np.float32).reshape(classes, height, width)
    return torch.from_numpy(prob).to(prob_CHW.device)
