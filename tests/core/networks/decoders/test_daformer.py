from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.fixtures import assert_close, cases
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.decoders.daformer import Decoder, SeparableAspp, fusion


def names(branches: int) -> dict[str, str]:
    """Ours for the names of the released code's modules, with so many dilated branches."""
    return {
        "fuse_layer.aspp_modules.0.conv": "0.pointwise.0",
        "fuse_layer.aspp_modules.0.bn": "0.pointwise.1",
        "fuse_layer.bottleneck.conv": "1.0",
        "fuse_layer.bottleneck.bn": "1.1",
        "conv_seg": "3",
    } | {
        f"fuse_layer.aspp_modules.{branch + 1}.{theirs}_conv.{layer}": (
            f"0.dilated.{branch}.{ours}.{index}"
        )
        for branch in range(branches)
        for ours, theirs in enumerate(("depthwise", "pointwise"))
        for index, layer in enumerate(("conv", "bn"))
    }


@pytest.fixture
def fixture(shared: Callable[[str], Path]) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(value)
        for key, value in np.load(shared("fixtures/daformer_head.npz")).items()
    }


def build_head(fixture: dict[str, Tensor]) -> tuple[Decoder, nn.Sequential]:
    """The fixture's head, dropout replaced by the identity."""
    width, (one, *rates) = int(fixture["cfg_channels"]), fixture["cfg_dilations"].tolist()
    assert one == 1
    decoder = Decoder(fixture["cfg_in_channels"].tolist(), width)
    classifier = fusion(int(fixture["cfg_num_classes"]), width, rates, dropout=0.0)
    linear, rest, ours = {}, {}, names(len(rates))
    for key, tensor in fixture.items():
        name, _, leaf = key.removeprefix("sd_").rpartition(".")
        if name.startswith("embed_layers."):
            linear[f"linear.{name.split('.')[1]}.{leaf}"] = (
                tensor[..., None, None] if leaf == "weight" else tensor
            )
        elif key.startswith("sd_"):
            rest[f"{ours[name]}.{leaf}"] = tensor
    decoder.load_state_dict(linear)
    counters = {
        key: tensor
        for key, tensor in classifier.state_dict().items()
        if key.endswith("num_batches_tracked")
    }
    classifier.load_state_dict(rest | counters)
    return decoder, classifier


def features_of(fixture: dict[str, Tensor]) -> list[Tensor]:
    return [fixture[f"in_feature{index + 1}"] for index in range(len(fixture["cfg_in_channels"]))]


def test_evaluation_and_gradient_equal_the_released_head(fixture: dict[str, Tensor]) -> None:
    decoder, classifier = build_head(fixture)
    features = [feature.requires_grad_() for feature in features_of(fixture)]
    maps = decoder.eval()(features)
    assert_close(classifier.eval()[:2](maps), fixture["out_fused_eval"])
    logits = classifier(maps)
    assert_close(logits, fixture["out_logits_eval"])
    (logits * fixture["in_cotangent"]).sum().backward()
    for index in cases(fixture, r"out_grad_feature(\d+)_eval"):
        assert_close(features[int(index) - 1].grad, fixture[f"out_grad_feature{index}_eval"])


@torch.no_grad()
def test_training_equals_the_released_head(fixture: dict[str, Tensor]) -> None:
    decoder, classifier = build_head(fixture)
    logits = classifier.train()(decoder(features_of(fixture)))
    assert_close(logits, fixture["out_logits_train_nodropout"])


@torch.no_grad()
def test_maps_lie_side_by_side_from_fine_to_coarse() -> None:
    decoder = Decoder((4, 5, 6, 7), width=3)
    sizes = ((4, 8), (5, 4), (6, 2), (7, 1))
    features = [torch.randn(2, channels, side, 2 * side) for channels, side in sizes]
    maps = decoder(features)
    assert maps.shape == (2, 12, 8, 16)
    for index, (linear, feature) in enumerate(zip(decoder.linear, features, strict=True)):
        small = F.linear(feature.movedim(1, -1), linear.weight[..., 0, 0], linear.bias).movedim(
            -1, 1
        )
        torch.testing.assert_close(
            maps[:, 3 * index : 3 * index + 3],
            F.interpolate(small, (8, 16), mode="bilinear", align_corners=False),
        )


@torch.no_grad()
def test_branches_see_as_far_as_their_rates() -> None:
    aspp = SeparableAspp(4, 8, (6, 12, 18)).eval()
    dot = torch.zeros(1, 4, 41, 41)
    dot[..., 20, 20] = 1
    for rate, branch in zip((6, 12, 18), aspp.dilated, strict=True):
        seen = branch[0][0](dot)[0].abs().sum(0).nonzero() - 20
        assert sorted(set(seen.flatten().tolist())) == [-rate, 0, rate]
    assert aspp(dot).shape == (1, 32, 41, 41)


def test_heads_have_the_papers_widths() -> None:
    with torch.device("meta"):
        classifier = fusion(19, 256, (6, 12, 18), 0.1)
    shapes = [
        tuple(module.weight.shape)
        for module in classifier.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert shapes == [
        (256, 1024, 1, 1),
        *[(1024, 1, 3, 3), (256, 1024, 1, 1)] * 3,
        (256, 1024, 3, 3),
        (19, 256, 1, 1),
    ]
    assert [module.p for module in classifier.modules() if isinstance(module, nn.Dropout2d)] == [
        0.1
    ]
    biased = [
        module
        for module in classifier.modules()
        if isinstance(module, nn.Conv2d) and module.bias is not None
    ]
    assert len(biased) == 1


@pytest.mark.parametrize(
    ("encoder", "stride"),
    [("test_efficientnet", 32), ("test_resnet", 16), ("test_convnext", 32), ("test_mambaout", 32)],
)
@torch.no_grad()
def test_any_encoder_with_four_maps_will_do(encoder: str, stride: int) -> None:
    config = NetworkConfig(
        decoder="daformer",
        encoder=encoder,
        encoder_weights="none",
        output_stride=stride,
        width=16,
        embed_dim=8,
    )
    output = build_segmentor(config, 5).eval()(torch.rand(1, 3, 75, 101))
    assert output.logits.shape == (1, 5, 19, 26) and output.embed.shape == (1, 8, 19, 26)
    assert output.deep.shape[-2:] == (-(-75 // stride), -(-101 // stride))
