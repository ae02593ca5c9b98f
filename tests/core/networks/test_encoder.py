from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from u2pl.errors import UserError
from u2pl.networks import encoders
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import copied, families, family_of, frozen_encoders
from u2pl.networks.encoders.mit import MixTransformer
from u2pl.networks.encoders.pyramid import Pyramid
from u2pl.networks.encoders.vit import PlainViT

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
    assert family_of("vit_base_patch14_dinov2") is family_of("eva02_tiny_patch14_224") is PlainViT
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
    def build(cls, name, output_stride, channels=3):
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
        ("vit_small_patch14_dinov", r"near: vit_small_patch14_dinov2, "),
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


#: Encoders of each kind, and the number of their blocks or stages.
BLOCKS = {
    "test_vit": 6,
    "test_resnet": 4,
    "test_efficientnet": 6,
    "test_convnext": 4,
    "pvt_v2_b0": 4,
    "mit_b0": 4,
    "test_mambaout": 4,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_layers_hold_each_parameter_once_from_input_to_output(name: str) -> None:
    encoder = family_of(name).build(name, 32)
    stem, *blocks, _after = encoder.layers()
    assert stem and len(blocks) == BLOCKS[name] and all(blocks)
    order = {id(value): place for place, value in enumerate(encoder.parameters())}
    places = [order[id(value)] for layer in encoder.layers() for value in layer]
    assert places == [*range(len(order))]  # the model's own order is that of its forward


def test_an_encoder_without_blocks_has_no_layers(add_file: AddFile) -> None:
    add_file(encoders, "patches", PATCHES)
    with pytest.raises(UserError, match=r"train.layer_decay needs an encoder of blocks"):
        family_of("patches_of_4").build("patches_of_4", 32).layers()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mit_b0"])
def test_a_frozen_encoder_is_the_same_in_every_mode_and_copy(name: str) -> None:
    torch.manual_seed(0)
    decoder = "dpt" if name == "test_vit" else "segformer"
    options = {"decoder": decoder, "encoder": name, "encoder_weights": "none", "width": 8}
    network = build_segmentor(NetworkConfig(freeze_encoder=True, **options), 3)
    image = torch.rand(2, 3, 64, 64)
    before = [each.clone() for each in network.train().encode(image)]
    assert network.training and network.decoder.training and not network.encoder.training
    assert not any(each.requires_grad for each in before)
    for one, other in zip(before, network.eval().encode(image), strict=True):
        assert torch.equal(one, other)  # no statistics, no dropout, no drop path
    assert not any(value.requires_grad for value in network.encoder.parameters())
    assert all(value.requires_grad for value in network.head_parameters())
    twin = copied(network)
    assert twin.encoder is network.encoder and twin.decoder is not network.decoder
    trained = build_segmentor(NetworkConfig(**options), 3)
    assert copied(trained).encoder is not trained.encoder and not frozen_encoders(trained)
    assert trained.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("name", ["test_convnext", "mit_b0"])
def test_checkpointing_changes_no_gradient_of_a_pyramid(name: str) -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        config = NetworkConfig(
            decoder="segformer",
            encoder=name,
            encoder_weights="none",
            output_stride=32,
            width=8,
            checkpointing=checkpointing,
        )
        torch.manual_seed(0)
        network = build_segmentor(config, 3).train()
        torch.manual_seed(1)  # MiT drops paths
        network(torch.rand(2, 3, 64, 64)).logits.square().mean().backward()
        return [value.grad for value in network.encoder.parameters()]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_checkpointing_is_not_for_batchnorm_or_what_has_no_blocks(add_file: AddFile) -> None:
    """Its statistics would be updated in each of both passes."""
    with pytest.raises(UserError, match=r"checkpointing is not .*BatchNorm .*ViT, a ConvNeXt"):
        family_of("test_resnet").build("test_resnet", 16).recompute()
    add_file(encoders, "patches", PATCHES)
    with pytest.raises(UserError, match=r"checkpointing is not .*no blocks"):
        family_of("patches_of_4").build("patches_of_4", 16).recompute()
