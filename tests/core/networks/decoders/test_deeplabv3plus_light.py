from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig


@pytest.mark.parametrize(
    ("encoder", "output_stride"), [("tf_efficientnet_lite0", 16), ("resnet10t", 8)]
)
@torch.no_grad()
def test_logits_are_smps_before_upsampling(encoder: str, output_stride: int) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        decoder="deeplabv3plus_light",
        encoder=encoder,
        encoder_weights="none",
        output_stride=output_stride,
    )
    ours = build_segmentor(config, 7).eval()
    theirs = smp.DeepLabV3Plus(
        f"tu-{encoder}",
        encoder_weights=None,
        encoder_output_stride=output_stride,
        classes=7,
        upsampling=1,
    ).eval()
    theirs.encoder.load_state_dict(ours.encoder.state_dict())
    theirs.decoder.load_state_dict(ours.decoder.state_dict())
    theirs.segmentation_head[0].load_state_dict(ours.classifier.state_dict())
    image = torch.rand(2, 3, 64, 96)
    logits = ours(image).logits
    assert logits.shape == (2, 7, 16, 24) and logits.std() > 0
    torch.testing.assert_close(logits, theirs((image - ours.mean) / ours.std))


def test_representation_head_is_narrow() -> None:
    network = build_segmentor(
        NetworkConfig(
            decoder="deeplabv3plus_light", encoder="tf_efficientnet_lite0", encoder_weights="none"
        ),
        7,
    )
    head = sum(parameter.numel() for parameter in network.embedder.parameters())
    assert head < 0.01 * sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def test_width_is_that_of_the_decoder() -> None:
    network = build_segmentor(
        NetworkConfig(
            decoder="deeplabv3plus_light",
            encoder="resnet10t",
            encoder_weights="none",
            output_stride=16,
            width=24,
        ),
        7,
    ).eval()
    assert network.classifier.weight.shape == (7, 24, 1, 1) and network.embedder[
        0
    ].weight.shape == (64, 24, 1, 1)
    assert network(torch.rand(1, 3, 32, 32)).logits.shape == (1, 7, 8, 8)


@torch.no_grad()
def test_mit_runs_at_stride_16() -> None:
    config = NetworkConfig(
        decoder="deeplabv3plus_light",
        encoder="mit_b0",
        encoder_weights="none",
        output_stride=16,
        width=24,
    )
    output = build_segmentor(config, 7).eval()(torch.rand(1, 3, 75, 101))
    assert output.logits.shape == (1, 7, 19, 26) and output.embed.shape == (1, 64, 19, 26)
