"""Dense CRF: predictions follow the image's edges (Krähenbühl and Koltun 2011); needs the optional package pydensecrf2."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from u2pl.errors import UserError

# Those of the released AFA: mean-field steps; smoothness: distance in pixels, weight; appearance: distance in pixels, in colours, weight.
_STEPS = 10
_NEAR = {"sxy": 3, "compat": 3}
_ALIKE = {"sxy": 64, "srgb": 5, "compat": 4}


def load_crf() -> Any:
    """The module pydensecrf.densecrf; UserError when it is missing or broken, so that a command can ask before its work begins."""
    try:
        return import_module("pydensecrf.densecrf")
    except ModuleNotFoundError:
        reason = "which is not installed"
    except (ImportError, ValueError) as error:  # ValueError: compiled for another numpy
        reason = f"which cannot be loaded ({(str(error).splitlines() or ['no reason given'])[0]})"
    raise UserError(
        f"dense CRF needs the optional package pydensecrf2, {reason}: pip install 'u2pl[crf]', or score without it"
    ) from None


def apply_crf(prob_CHW: Tensor, image_3HW: Tensor) -> Tensor:
    """Class probabilities after the mean-field inference of a dense CRF, float32 [C, H, W] on the device of `prob_CHW`; works on the CPU.

    10 steps. A pixel is drawn to the class of near ones (Gaussian of 3 pixels, weight 3), and of near ones of its colour (Gaussian of
    64 pixels and of 5 levels of 255, weight 4), as in the released AFA.

    Args:
        prob_CHW: probabilities at the image's size.
        image_3HW: uint8, or float in [0, 1].

    Raises UserError when pydensecrf2 is missing.
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
        **_ALIKE, rgbim=np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
    )
    prob = np.array(crf.inference(_STEPS), dtype=np.float32).reshape(classes, height, width)
    return torch.from_numpy(prob).to(prob_CHW.device)
