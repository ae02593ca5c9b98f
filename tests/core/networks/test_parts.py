from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from u2pl.errors import UserError, explain
from u2pl.networks import decoders
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoders.pyramid import Pyramid
from u2pl.networks.parts import Parts, conv_norm_relu, representation_head
from u2pl.networks.registry import decoder_file, decoder_names

#: Decoders that come with the core, and what each has by default.
DEFAULTS = {
    "daformer": (32, (6, 12, 18), 256),
    "deeplabv3plus": (8, (12, 24, 36), 256),
    "deeplabv3plus_light": (8, (12, 24, 36), 64),
    "dpt": (32, (12, 24, 36), 256),
    "linear": (32, (12, 24, 36), 256),
    "segformer": (16, (12, 24, 36), 256),
}

FINEST = '''"""The finest map as it is."""

from torch import nn

from u2pl.networks.parts import DecoderFacts, Parts

FACTS = DecoderFacts(strides=(16, 8), atrous_rates=(1, 2, 3), embed_dim=5)


class First(nn.Module):
    def forward(self, features):
        return features[0]


def build(config, encoder, num_classes):
    width = encoder.channels[0]
    heads = (nn.Conv2d(width, n, 1) for n in (num_classes, config.embed_dim))
    return Parts(First(), *heads, min_images=3)
'''


def test_each_file_is_a_decoder_with_its_defaults() -> None:
    assert set(DEFAULTS) <= set(decoder_names())
    for name, (stride, rates, width) in DEFAULTS.items():
        config = NetworkConfig(decoder=name)
        assert (config.output_stride, config.atrous_rates, config.embed_dim) == (
            stride,
            rates,
            width,
        )
        assert decoder_file(name).FACTS.strides[0] == stride


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_file_builds_a_decoder_and_two_heads(name: str) -> None:
    config = NetworkConfig(decoder=name, output_stride=16, width=8, embed_dim=3)
    encoder = Pyramid("test_resnet", 16)
    parts = decoder_file(name).build(config, encoder, 4)
    assert isinstance(parts, Parts) and parts.min_images in (1, 2)
    fused = parts.decoder.eval()(encoder.eval()(torch.zeros(1, 3, 32, 64)))
    assert parts.classifier.eval()(fused).shape == (1, 4, 8, 16)
    assert parts.embedder.eval()(fused).shape == (1, 3, 8, 16)
    without = config.model_copy(update={"embed_dim": 0})
    assert decoder_file(name).build(without, encoder, 4).embedder is None


def test_a_file_in_the_folder_is_a_decoder(add_file: Callable[..., None]) -> None:
    """It is found by existing; its facts are the config's defaults and limits."""
    add_file(decoders, "finest", FINEST)
    config = NetworkConfig(decoder="finest", encoder="test_resnet", encoder_weights="none")
    assert (config.output_stride, config.atrous_rates, config.embed_dim) == (16, (1, 2, 3), 5)
    network = build_segmentor(config, 4).eval()
    output = network(torch.rand(1, 3, 9, 14))
    assert output.logits.shape == (1, 4, 3, 4) and output.embed.shape == (1, 5, 3, 4)
    assert network.min_images == 3
    with pytest.raises(ValidationError, match="decoder finest runs at 8 or 16"):
        NetworkConfig(decoder="finest", output_stride=32)
    with pytest.raises(ValidationError, match=r"there are .*, finest"):
        NetworkConfig(decoder="coarsest")


@pytest.mark.parametrize("decoder", sorted({*DEFAULTS} - {"dpt", "linear"}))
def test_decoders_of_a_pyramid_refuse_tokens_and_name_those_that_do_not(decoder: str) -> None:
    config = NetworkConfig(decoder=decoder, encoder="test_vit", encoder_weights="none")
    with pytest.raises(UserError) as caught:
        build_segmentor(config, 3)
    assert str(caught.value) == (
        f"network.decoder={decoder} needs a map at stride 4, and all maps of "
        "network.encoder=test_vit are at stride 16: set network.decoder=dpt or linear"
    )


def test_an_unknown_decoder_is_one_line_that_lists_them() -> None:
    with pytest.raises(ValidationError) as caught:
        NetworkConfig(decoder="deeplab", output_stride=8)
    line = explain(caught.value, "network.")
    assert line.startswith("network.decoder: ") and line.endswith("not 'deeplab'")
    assert all(name in line for name in DEFAULTS) and "\n" not in line


@torch.no_grad()
def test_the_block_keeps_the_size() -> None:
    block = conv_norm_relu(4, 8, kernel=3, dilation=6, groups=4).eval()
    assert block(torch.randn(1, 4, 5, 7)).shape == (1, 8, 5, 7)
    assert block[0].bias is None and [type(part) for part in block[1:]] == [nn.BatchNorm2d, nn.ReLU]


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_representation_head_is_the_papers(kernel: int) -> None:
    config = NetworkConfig(decoder="daformer", embed_dim=256, embed_kernel=kernel)
    with torch.device("meta"):
        head = representation_head(1024, config)
    kinds = [type(module) for module in head.modules() if not isinstance(module, nn.Sequential)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2  # two Conv-BN-ReLU blocks
    convolutions = [module for module in head.modules() if isinstance(module, nn.Conv2d)]
    assert [tuple(module.weight.shape) for module in convolutions] == [
        (512, 1024, kernel, kernel),  # the first halves the channels
        (256, 512, kernel, kernel),
    ]
    # both preserve the resolution
    assert head(torch.empty(2, 1024, 5, 7, device="meta")).shape == (2, 256, 5, 7)
    assert all(module.bias is None for module in convolutions)
