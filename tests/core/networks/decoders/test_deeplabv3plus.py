from __future__ import annotations

import torch
from torch import nn

from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.decoders.deeplabv3plus import Aspp, Decoder
from u2pl.networks.segmentor import Segmentor


def build() -> Segmentor:
    return build_segmentor(NetworkConfig(encoder="resnet10t", encoder_weights="none"), 21)


def test_decoder_has_the_papers_widths() -> None:
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in build().state_dict().items()
        if tensor.dim() == 4 and not name.startswith("encoder")
    }
    assert [shapes[f"decoder.aspp.dilated.{index}.0.weight"] for index in range(3)] == [
        (256, 512, 3, 3)
    ] * 3
    assert shapes["decoder.fuse.0.weight"] == (256, 1280, 3, 3)
    assert shapes["decoder.low.0.weight"] == (256, 64, 1, 1)
    for head, channels in (("classifier", 21), ("embedder", 256)):
        assert [shape for name, shape in shapes.items() if name.startswith(head)] == [
            (256, 512, 3, 3),
            (256, 256, 3, 3),
            (channels, 256, 1, 1),
        ]


def test_convolutions_before_a_norm_have_no_bias() -> None:
    network = build()
    biased = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.bias is not None
    ]
    assert len(biased) == 2 and {name.partition(".")[0] for name in biased} == {
        "classifier",
        "embedder",
    }


def test_dropout_is_per_channel_in_the_fusion_and_twice_in_each_head() -> None:
    dropouts = [
        (name.partition(".")[0], module.p)
        for name, module in build().named_modules()
        if isinstance(module, nn.Dropout2d)
    ]
    assert dropouts == [
        ("decoder", 0.1),
        ("classifier", 0.1),
        ("classifier", 0.1),
        ("embedder", 0.1),
        ("embedder", 0.1),
    ]


@torch.no_grad()
def test_aspp_branches_see_as_far_as_their_rates() -> None:
    aspp = Aspp(4, (12, 24, 36), width=16).eval()
    dot = torch.zeros(1, 4, 81, 81)
    dot[..., 40, 40] = 1
    for rate, branch in zip((12, 24, 36), aspp.dilated, strict=True):
        seen = branch[0](dot)[0].abs().sum(0).nonzero() - 40
        assert sorted(set(seen.flatten().tolist())) == [-rate, 0, rate]
    pooled = aspp(dot)[:, :16]
    torch.testing.assert_close(pooled, aspp.pooled(dot).expand_as(pooled))


@torch.no_grad()
def test_decoder_resizes_deep_to_low() -> None:
    decoder = Decoder(8, 6, (1, 2, 3), width=24, dropout=0.1).eval()
    features = [
        torch.randn(1, 6, 10, 12),
        torch.randn(1, 5, 5, 6),
        torch.randn(1, 7, 5, 6),
        torch.randn(1, 8, 5, 6),
    ]
    fused = decoder(features)
    assert fused.shape == (1, 48, 10, 12)
    torch.testing.assert_close(fused[:, :24], decoder.low(features[0]))


@torch.no_grad()
def test_mit_runs_at_stride_16_and_width_is_that_of_every_part() -> None:
    config = NetworkConfig(
        encoder="mit_b0", encoder_weights="none", output_stride=16, width=24, embed_dim=8
    )
    network = build_segmentor(config, 5).eval()
    output = network(torch.rand(1, 3, 75, 101))
    assert (
        output.logits.shape == (1, 5, 19, 26)
        and output.embed.shape == (1, 8, 19, 26)
        and output.deep.shape == (1, 256, 6, 8)
    )
    wide = [
        module.out_channels
        for part in (network.decoder, network.classifier)
        for module in part.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert sorted(set(wide)) == [5, 24]
