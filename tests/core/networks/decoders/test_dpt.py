from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.decoders.dpt import Decoder, Residual, inner_channels
from u2pl.networks.parts import width_for

#: Channels of the tokens of DINOv2, then the published widths under UniMatch V2's DPT.
PUBLISHED = {
    384: (64, (48, 96, 192, 384)),
    768: (128, (96, 192, 384, 768)),
    1024: (256, (256, 512, 1024, 1024)),
    1536: (384, (1536, 1536, 1536, 1536)),
}


def slow_transposed(feature: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """Each pixel becomes a square of its own."""
    side = layer.kernel_size[0]
    batch, _, height, width = feature.shape
    found = feature.new_zeros(batch, layer.out_channels, side * height, side * width)
    for y in range(height):
        for x in range(width):
            square = torch.einsum("bi,iouv->bouv", feature[:, :, y, x], layer.weight)
            found[..., side * y : side * (y + 1), side * x : side * (x + 1)] = square
    return found + layer.bias.view(-1, 1, 1)


def slow_resize(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with corners on corners, pixel by pixel."""
    height, width = feature.shape[-2:]
    rows = []
    for y in range(size[0]):
        row = []
        for x in range(size[1]):
            v = y * (height - 1) / max(1, size[0] - 1)
            u = x * (width - 1) / max(1, size[1] - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = feature[..., top, left] * (1 - u + left) + feature[..., top, right] * (u - left)
            lower = feature[..., below, left] * (1 - u + left)
            lower = lower + feature[..., below, right] * (u - left)
            row.append(upper * (1 - v + top) + lower * (v - top))
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def slow_unit(feature: Tensor, residual: Residual) -> Tensor:
    _, first, _, second = residual.inner
    inner = F.conv2d(feature.clamp(min=0), first.weight, first.bias, padding=1)
    return feature + F.conv2d(inner.clamp(min=0), second.weight, second.bias, padding=1)


def slow_dpt(decoder: Decoder, features: list[Tensor]) -> Tensor:
    """Step by step in the order of the release: enlarged before the 1x1 convolution."""
    maps = []
    for feature, (project, resize, narrow) in zip(features, decoder.reassemble, strict=True):
        value = torch.einsum("bihw,oi->bohw", feature, project.weight[..., 0, 0])
        value = value + project.bias.view(-1, 1, 1)
        if isinstance(resize, nn.ConvTranspose2d):
            value = slow_transposed(value, resize)
        elif isinstance(resize, nn.Conv2d):
            value = F.conv2d(value, resize.weight, resize.bias, stride=resize.stride, padding=1)
        maps.append(F.conv2d(value, narrow.weight, None, padding=1))
    path = None
    for number in (3, 2, 1, 0):
        block, value = decoder.fuse[number], maps[number]
        if path is not None:
            value = path + slow_unit(value, block.skip)
        value = slow_unit(value, block.sum)
        if number:  # the last doubling is left out
            value = slow_resize(value, maps[number - 1].shape[-2:])
        weight = block.project.weight[..., 0, 0]
        path = torch.einsum("bihw,oi->bohw", value, weight) + block.project.bias.view(-1, 1, 1)
    return path


@pytest.mark.parametrize(
    ("channels", "strides", "size"),
    [
        ((16,) * 4, (16,) * 4, (3, 5)),
        ((16,) * 4, (8,) * 4, (6, 5)),
        ((16,) * 4, (32,) * 4, (1, 2)),
        ((3, 4, 5, 6), (4, 8, 16, 32), (2, 3)),
        ((3, 4, 5, 6), (4, 8, 16, 16), (2, 4)),
    ],
    ids=["patch 16", "patch 8", "patch 32", "pyramid", "dilated pyramid"],
)
def test_values_and_gradients_are_those_of_the_slow_formula(
    channels: tuple[int, ...], strides: tuple[int, ...], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    decoder = Decoder(channels, strides, 6).double()
    features = [
        torch.randn(2, each, *(side * strides[-1] // stride for side in size)).double()
        for each, stride in zip(channels, strides, strict=True)
    ]
    leaves = [*decoder.parameters(), *(each.requires_grad_() for each in features)]
    ours, slow = decoder(features), slow_dpt(decoder, features)
    assert ours.shape[-2:] == tuple(side * strides[-1] // 4 for side in size)
    torch.testing.assert_close(ours, slow)
    cotangent = torch.randn(ours.shape).double()
    pairs = (torch.autograd.grad((each * cotangent).sum(), leaves) for each in (ours, slow))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other)
        assert one.any()


@pytest.mark.parametrize("channels", PUBLISHED)
def test_widths_are_the_published_ones(channels: int) -> None:
    width, inner = PUBLISHED[channels]
    assert width_for(channels) == width and inner_channels((channels,) * 4, (16,) * 4) == inner
    with torch.device("meta"):
        decoder = Decoder((channels,) * 4, (16,) * 4, width)
    kinds = [type(each[1]) for each in decoder.reassemble]
    assert kinds == [nn.ConvTranspose2d, nn.ConvTranspose2d, nn.Identity, nn.Conv2d]
    assert [each[0].out_channels for each in decoder.reassemble] == list(inner)
    assert [each[1].stride for each in decoder.reassemble if len([*each[1].parameters()])] == [
        (4, 4),
        (2, 2),
        (2, 2),
    ]
    assert all(
        each[2].bias is None and each[2].out_channels == width for each in decoder.reassemble
    )
    assert not any(isinstance(part, nn.BatchNorm2d | nn.LayerNorm) for part in decoder.modules())


def test_the_width_follows_from_the_encoder_unless_it_is_given() -> None:
    for width, expected in ((None, 64), (24, 24)):
        given = {} if width is None else {"width": width}
        config = NetworkConfig(decoder="dpt", encoder="test_vit", encoder_weights="none", **given)
        assert config.width == (width or 0) and config.dropout == 0
        network = build_segmentor(config, 5)
        assert network.feature_dim == expected
        first, relu, drop, last = network.classifier
        assert (first.kernel_size, last.kernel_size, drop.p) == ((3, 3), (1, 1), 0)
        assert (first.out_channels, last.out_channels) == (expected, 5)
        assert isinstance(relu, nn.ReLU) and network.min_images == 1


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet", "test_convnext", "mit_b0"])
def test_both_heads_of_any_encoder_are_trained_with_one_image(encoder: str) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(decoder="dpt", encoder=encoder, encoder_weights="none", embed_dim=6)
    network = build_segmentor(config, 5).train()
    output = network(torch.rand(1, 3, 75, 101))
    assert output.logits.shape == (1, 5, 19, 26) and output.embed.shape == (1, 6, 19, 26)
    assert output.feature.shape == (1, network.feature_dim, 19, 26)
    (output.logits.square().mean() + output.embed.square().mean()).backward()
    assert all(value.grad is not None for value in network.parameters())
    assert all(value.grad.isfinite().all() for value in network.parameters())
