from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from segmentation_models_pytorch.encoders import get_encoder
from timm.layers import DropPath
from torch import nn

from harness.fixtures import assert_close, cases
from harness.released_mit import released_mit
from u2pl.errors import UserError
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoders import mit
from u2pl.networks.encoders.mit import MixTransformer
from u2pl.networks.pretrained import load_encoder
from u2pl.networks.segmentor import Segmentor

in_smp = pytest.mark.skipif(
    "mit_b0" not in smp_encoders, reason="this smp has no MiT to compare with"
)


def shaken(module: nn.Module) -> nn.Module:
    """Random numbers where an initialisation puts zeros and ones."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return module


@torch.no_grad()
def test_features_equal_the_released_encoders(shared: Callable[[str], Path]) -> None:
    fixture = {
        key: torch.from_numpy(value) for key, value in np.load(shared("fixtures/mit.npz")).items()
    }
    eps = [fixture[f"cfg_eps_{where}_norm"].item() for where in ("block_and_stage", "patch_and_sr")]
    for name in cases(fixture, r"cfg_strides_(s\d+)"):
        strides = fixture[f"cfg_strides_{name}"].cumprod(0).tolist()
        encoder = released_mit(fixture, strides[-1])
        assert list(encoder.strides) == strides
        norms = {norm.eps for norm in encoder.modules() if isinstance(norm, nn.LayerNorm)}
        assert sorted(norms) == pytest.approx(sorted(eps))
        for index, feature in enumerate(encoder(fixture["in_image"]), 1):
            assert_close(feature, fixture[f"out_{name}_feature{index}"], name=f"{name} {index}")


@in_smp
@torch.no_grad()
def test_features_equal_smps() -> None:
    theirs = shaken(get_encoder("mit_b0", weights=None)).eval()
    ours = MixTransformer.build("mit_b0", 32).eval()
    assert len(load_encoder(ours, theirs.state_dict(), "smp").matched) == 176
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    features, expected = ours(image), theirs(image)
    assert ours.channels == tuple(theirs.out_channels[2:])
    for feature, other in zip(features, expected[2:], strict=True):
        assert_close(feature, other)


@in_smp
@pytest.mark.parametrize("name", mit.VARIANTS)
def test_every_size_is_that_of_the_paper(name: str) -> None:
    variant, theirs = mit.VARIANTS[name], smp_encoders[name]["params"]
    assert (list(variant.depths), list(variant.dims)) == (theirs["depths"], theirs["embed_dims"])
    assert (
        list(mit.HEADS) == theirs["num_heads"]
        and list(mit.REDUCTIONS) == theirs["sr_ratios"]
        and theirs["mlp_ratios"] == [4] * 4
    )
    with torch.device("meta"):
        encoder = MixTransformer.build(name, 32)
    assert [len(stage.blocks) for stage in encoder.model.stages] == list(variant.depths)
    assert [stage.blocks[0].mlp.fc1.out_features for stage in encoder.model.stages] == [
        4 * dim for dim in variant.dims
    ]
    assert encoder.channels == variant.dims and encoder.strides == (4, 8, 16, 32)


@pytest.mark.parametrize("stride", [16, 32])
def test_facts(stride: int) -> None:
    encoder = MixTransformer.build("mit_b0", stride)
    assert (encoder.strides, encoder.divisor) == ((4, 8, 16, stride), 32)
    assert encoder.mean == (0.485, 0.456, 0.406) and encoder.std == (0.229, 0.224, 0.225)


def test_a_stride_that_it_cannot_have_is_refused_in_one_line() -> None:
    says = "output_stride=8; set network.output_stride=16, or network.decoder=daformer"
    with pytest.raises(UserError, match=says) as caught:
        MixTransformer.build("mit_b0", 8)
    assert "\n" not in str(caught.value)


def test_norms_and_dropout_are_the_papers() -> None:
    encoder = MixTransformer.build("mit_b2", 32)
    for name, module in encoder.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == (
                1e-5 if "patch_embed" in name or "downsample" in name or "attn" in name else 1e-6
            ), name
        assert not isinstance(module, nn.Dropout) or module.p == 0
    blocks = [block for stage in encoder.model.stages for block in stage.blocks]
    for part in ("drop_path1", "drop_path2"):
        rates = [
            getattr(block, part).drop_prob if isinstance(getattr(block, part), DropPath) else 0
            for block in blocks
        ]
        np.testing.assert_allclose(rates, np.linspace(0, 0.1, 16), atol=1e-7)


@torch.no_grad()
def test_attention_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    attend = F.scaled_dot_product_attention

    def counted(*args: torch.Tensor, **options: float) -> torch.Tensor:
        calls.append(args[0].shape[1])
        return attend(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    MixTransformer.build("mit_b0", 32)(torch.zeros(1, 3, 64, 64))
    assert calls == [1, 1, 2, 2, 5, 5, 8, 8]


@torch.no_grad()
def test_only_training_is_random() -> None:
    torch.manual_seed(0)
    encoder = shaken(MixTransformer.build("mit_b0", 32))
    image = torch.rand(4, 3, 64, 64)
    assert not torch.equal(encoder(image)[-1], encoder(image)[-1])
    encoder.eval()
    assert torch.equal(encoder(image)[-1], encoder(image)[-1])


@pytest.fixture(scope="module")
def network() -> Segmentor:
    torch.manual_seed(0)
    config = NetworkConfig(
        decoder="daformer", encoder="mit_b0", encoder_weights="none", width=16, embed_dim=8
    )
    return build_segmentor(config, 5).eval()


@pytest.mark.parametrize("size", [(75, 101), (64, 64), (1, 3)])
@torch.no_grad()
def test_any_size_gives_a_quarter_rounded_up(network: Segmentor, size: tuple[int, int]) -> None:
    output = network(torch.rand(1, 3, *size))
    quarter, deep = (tuple(-(-side // stride) for side in size) for stride in (4, 32))
    assert (
        output.logits.shape == (1, 5, *quarter)
        and output.embed.shape == (1, 8, *quarter)
        and output.deep.shape == (1, 256, *deep)
    )


@torch.no_grad()
def test_at_stride_16_too_every_key_has_its_whole_window() -> None:
    config = NetworkConfig(
        decoder="daformer",
        encoder="mit_b0",
        encoder_weights="none",
        output_stride=16,
        width=16,
        embed_dim=0,
    )
    network = build_segmentor(config, 5).eval()
    output = network(torch.rand(1, 3, 33, 16))
    assert output.logits.shape == (1, 5, 9, 4) and output.deep.shape == (1, 256, 4, 2)


def test_gradient_reaches_every_parameter(network: Segmentor) -> None:
    output = network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    (output.logits.square().mean() + output.embed.square().mean()).backward()
    assert [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ] == []
    network.zero_grad(set_to_none=True)
