from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.fixtures import assert_close
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.decoders.daformer import Decoder
from u2pl.networks.decoders.segformer import fusion

#: Ours for the names of the released code's modules.
NAMES = {"linear_fuse.conv": "0", "linear_fuse.bn": "1", "linear_pred": "4"}


def test_evaluation_equals_the_released_head(shared: Callable[[str], Path]) -> None:
    fixture = {
        key: torch.from_numpy(value)
        for key, value in np.load(shared("fixtures/afa_segformer_head.npz")).items()
    }
    width = int(fixture["cfg_channels"])
    decoder = Decoder(fixture["cfg_in_channels"].tolist(), width, deepest_first=True).eval()
    classifier = fusion(int(fixture["cfg_num_classes"]), width, dropout=0.1).eval()
    linear, rest = {}, {}
    for key, tensor in fixture.items():
        name, _, leaf = key.removeprefix("sd_").rpartition(".")
        if name.startswith("linear_c"):
            linear[f"linear.{int(name[8]) - 1}.{leaf}"] = (
                tensor[..., None, None] if leaf == "weight" else tensor
            )
        elif key.startswith("sd_"):
            rest[f"{NAMES[name]}.{leaf}"] = tensor
    decoder.load_state_dict(linear)
    classifier.load_state_dict(rest | {"1.num_batches_tracked": torch.tensor(0)})
    features = [fixture[f"in_feature{index + 1}"] for index in range(len(decoder.linear))]
    with torch.no_grad():
        assert_close(classifier(decoder(features)), fixture["out_logits_eval"])


@torch.no_grad()
def test_maps_lie_side_by_side_from_coarse_to_fine() -> None:
    decoder = Decoder((4, 5, 6, 7), width=3, deepest_first=True)
    sizes = ((4, 8), (5, 4), (6, 2), (7, 1))
    features = [torch.randn(2, channels, side, 2 * side) for channels, side in sizes]
    maps = decoder(features)
    assert maps.shape == (2, 12, 8, 16)
    for place, index in enumerate((3, 2, 1, 0)):
        small = decoder.linear[index](features[index])
        expected = F.interpolate(small, (8, 16), mode="bilinear", align_corners=False)
        torch.testing.assert_close(maps[:, 3 * place : 3 * place + 3], expected)


def test_heads_have_the_papers_widths() -> None:
    config = NetworkConfig(decoder="segformer", encoder="mit_b1", encoder_weights="none")
    with torch.device("meta"):
        network = build_segmentor(config, 21)
    assert [
        module.stride for module in network.encoder.model.modules() if isinstance(module, nn.Conv2d)
    ][-3:] == [(1, 1)] * 3
    shapes = [tuple(module.weight.shape) for module in network.decoder.linear]
    assert shapes == [(256, channels, 1, 1) for channels in (64, 128, 320, 512)]
    fuse, norm, _, drop, answer = network.classifier
    assert (fuse.weight.shape, fuse.bias, norm.num_features, drop.p) == (
        (256, 1024, 1, 1),
        None,
        256,
        0.1,
    )
    assert answer.weight.shape == (21, 256, 1, 1) and answer.bias is not None
    assert network.min_images == 1


@pytest.mark.parametrize(
    ("encoder", "stride"),
    [
        ("mit_b0", 16),
        ("mit_b0", 32),
        ("test_efficientnet", 32),
        ("test_resnet", 16),
        ("test_convnext", 32),
    ],
)
@torch.no_grad()
def test_any_encoder_with_four_maps_will_do(encoder: str, stride: int) -> None:
    config = NetworkConfig(
        decoder="segformer",
        encoder=encoder,
        encoder_weights="none",
        output_stride=stride,
        width=16,
        embed_dim=8,
    )
    network = build_segmentor(config, 5).eval()
    output = network(torch.rand(1, 3, 75, 101))
    assert output.logits.shape == (1, 5, 19, 26) and output.embed.shape == (1, 8, 19, 26)
    assert output.deep.shape[-2:] == tuple(
        -(-side // network.divisor) * network.divisor // stride for side in (75, 101)
    )


def test_trains_with_one_image() -> None:
    config = NetworkConfig(
        decoder="segformer", encoder="mit_b0", encoder_weights="none", width=16, embed_dim=8
    )
    output = build_segmentor(config, 5)(
        torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    )
    assert output.logits.isfinite().all() and output.embed.isfinite().all()


def dropped(logits: Tensor) -> bool:
    return bool((logits == 0).flatten(2).all(2).any())


def test_dropout_takes_whole_channels() -> None:
    head = fusion(5, 16, dropout=0.5)
    torch.manual_seed(0)
    assert dropped(head[:4](torch.rand(4, 64, 8, 8)))
    assert not dropped(head[:3](torch.rand(4, 64, 8, 8)))
