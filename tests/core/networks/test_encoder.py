from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from u2pl.errors import UserError
from u2pl.networks import encoders
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import families, family_of
from u2pl.networks.encoders.mit import MixTransformer
from u2pl.networks.encoders.pyramid import Pyramid

AddFile = Callable[..., None]

SIZES = {8: [16, 8, 8, 8], 16: [16, 8, 4, 4], 32: [16, 8, 4, 2]}


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        *((name, stride) for name in ("test_resnet", "test_efficientnet") for stride in SIZES),
        *((name, 32) for name in ("test_convnext", "test_mambaout", "pvt_v2_b0")),
        ("mit_b0", 16),
        ("mit_b0", 32),
    ],
)
@torch.no_grad()
def test_four_maps_are_what_the_encoder_says_of_itself(name: str, output_stride: int) -> None:
    encoder = family_of(name).build(name, output_stride).eval()
    features = encoder(torch.zeros(1, 3, 64, 64))
    assert [feature.shape[-1] for feature in features] == SIZES[output_stride]
    assert tuple(feature.shape[1] for feature in features) == encoder.channels
    assert tuple(64 // feature.shape[-1] for feature in features) == encoder.strides
    assert encoder.divisor % output_stride == 0 and len(encoder.mean) == len(encoder.std) == 3


def test_an_encoder_belongs_to_one_family() -> None:
    assert {MixTransformer, Pyramid} <= set(families())
    assert families()[-1] is Pyramid  # takes every name of timm's that no other family does
    assert family_of("mit_b0") is MixTransformer and family_of("resnet101") is Pyramid
    assert not set(MixTransformer.names()) & set(Pyramid.names())


PATCHES = '''"""Four maps that show the patches of the image as they are."""

from torch import nn

from u2pl.networks.encoder import Encoder


class Patches(Encoder):
    def __init__(self):
        super().__init__()
        self.model = nn.PixelUnshuffle(4)
        self.channels, self.strides, self.divisor = (48,) * 4, (4,) * 4, 4
        self.mean, self.std = (0.25,) * 3, (0.5,) * 3

    @classmethod
    def names(cls):
        return ["patches_of_4"]

    @classmethod
    def build(cls, name, output_stride):
        return cls()

    @classmethod
    def hub_weights(cls, name):
        return {}

    def forward(self, image):
        return [self.model(image)] * 4
'''


@torch.no_grad()
def test_a_file_in_the_folder_is_a_family(add_file: AddFile) -> None:
    """It is found by existing, and the whole network takes its facts from the encoder."""
    add_file(encoders, "patches", PATCHES)
    names = [family.__name__ for family in families()]
    assert names.index("Patches") < names.index("Pyramid")
    config = NetworkConfig(
        decoder="segformer", encoder="patches_of_4", encoder_weights="none", width=8, tag_classes=2
    )
    network = build_segmentor(config, 3).eval()
    assert network.divisor == 4 and network.mean.flatten().tolist() == [0.25] * 3
    output = network(torch.rand(1, 3, 9, 14))
    assert output.logits.shape == (1, 3, 3, 4) and output.deep.shape == (1, 48, 3, 4)
    assert network.tag_logits(output.deep).shape == (1, 2)
    with pytest.raises(UserError, match="near: patches_of_4"):
        family_of("patches_of_5")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnt101", "near: resnet101"),
        ("mit_b6", "near: mit_b"),
        ("mitb5", "near: mit_b5"),
        ("hf-hub:someone/net", "no encoder of timm and no MiT"),
        ("resnet18.bogus", "bogus"),
        ("", "try resnet101"),
    ],
)
def test_unknown_encoders_are_refused_in_one_line(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        family_of(name).build(name, 16)
    assert "\n" not in str(caught.value)


def test_a_tag_of_weights_is_part_of_a_name() -> None:
    assert family_of("resnet18.a1_in1k") is family_of("resnet18")
