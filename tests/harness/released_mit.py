"""The MiT of the released numbers (../shared/fixtures/mit.npz)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import Tensor

from u2pl.networks.encoders import mit
from u2pl.networks.encoders.mit import MixTransformer
from u2pl.networks.pretrained import load_encoder


def released_mit(numbers: Mapping[str, Tensor], output_stride: int) -> MixTransformer:
    """It has all of their parameters, in evaluation mode."""
    sizes = (
        numbers[f"cfg_{name}"].tolist()
        for name in ("depths", "embed_dims", "num_heads", "sr_ratios")
    )
    ratios = [int(numbers["cfg_mlp_ratio"])] * len(numbers["cfg_depths"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            mit,
            "PyramidVisionTransformerV2",
            lambda **options: PyramidVisionTransformerV2(**options | {"mlp_ratios": ratios}),
        )
        encoder = MixTransformer(*sizes, output_stride=output_stride).eval()
    state = {
        key.removeprefix("sd_"): tensor for key, tensor in numbers.items() if key.startswith("sd_")
    }
    report = load_encoder(encoder, state, "fixture")
    assert len(report.matched) == len(state) and not report.missing
    return encoder
