from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig


@pytest.mark.parametrize(("encoder", "stride"), [("test_vit", 16), ("test_resnet", 8)])
@torch.no_grad()
def test_logits_are_those_of_one_convolution_enlarged(encoder: str, stride: int) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        decoder="linear", encoder=encoder, encoder_weights="none", output_stride=8, embed_dim=6
    )
    network = build_segmentor(config, 5).eval()
    image = torch.rand(2, 3, 33, 50)
    output, deep = network(image), network.encode(image)[-1]
    drop, convolution = network.classifier
    assert isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (1, 1) and drop.p == 0
    small = convolution(deep)
    large = F.interpolate(small, scale_factor=stride // 4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(output.logits, large[..., :9, :13])
    assert output.embed.shape == (2, 6, 9, 13) and output.feature.shape == (2, deep.shape[1], 9, 13)
    assert not [*network.decoder.parameters()] and network.min_images == 1
