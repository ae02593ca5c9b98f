from __future__ import annotations

import pytest
import timm
import torch
import torchvision

from u2pl.errors import UserError
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoders.pyramid import Pyramid
from u2pl.networks.pretrained import load_encoder


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_mambaout"])
@torch.no_grad()
def test_facts_and_maps_are_timms(name: str) -> None:
    """One encoder with a map at stride 2 as well, one without, and one with channels last."""
    encoder = Pyramid(name, 32).eval()
    theirs = timm.create_model(name, features_only=True).eval()
    theirs.load_state_dict(encoder.model.state_dict())
    info, config = theirs.feature_info, timm.get_pretrained_cfg(name)
    assert encoder.channels == tuple(info.channels()[-4:])
    assert encoder.strides == tuple(info.reduction()[-4:]) == (4, 8, 16, 32)
    assert (encoder.mean, encoder.std) == (config.mean, config.std)
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    channels_last = name == "test_mambaout"
    for ours, other in zip(encoder(image), theirs(image)[-4:], strict=True):
        assert torch.equal(ours, other.movedim(-1, 1) if channels_last else other)


def test_colours_are_those_of_the_pretrained_weights() -> None:
    assert Pyramid("tf_efficientnet_lite0", 16).mean == (0.5, 0.5, 0.5)
    encoder = Pyramid("resnet10t", 16)
    assert (encoder.mean, encoder.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("output_stride", "dilate"), [(8, [False, True, True]), (16, [False, False, True])]
)
@torch.no_grad()
def test_dilated_resnet_equals_torchvisions(output_stride: int, dilate: list[bool]) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(replace_stride_with_dilation=dilate).eval()
    encoder = Pyramid("resnet50", output_stride).eval()
    load_encoder(encoder, reference.state_dict(), source="torchvision")
    image = torch.randn(1, 3, 64, 64)
    theirs = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
    stages = (reference.layer1, reference.layer2, reference.layer3, reference.layer4)
    for ours, stage in zip(encoder(image), stages, strict=True):
        theirs = stage(theirs)
        assert theirs.std() > 0
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("stride", "expected"), [(8, (4, 8, 16)), (16, (2, 4, 8))])
def test_multi_grid_multiplies_the_dilation_of_the_last_stage(
    stride: int, expected: tuple[int, ...]
) -> None:
    options = {"encoder": "resnet50", "encoder_weights": "none", "output_stride": stride}
    with torch.device("meta"):
        encoder = build_segmentor(NetworkConfig(multi_grid=(1, 2, 4), **options), 3).encoder
        plain = build_segmentor(NetworkConfig(**options), 3).encoder
        maps = encoder(torch.empty(1, 3, 64, 64))
    assert [block.conv2.dilation for block in encoder.model.layer4] == [(d, d) for d in expected]
    assert maps[-1].shape[-2:] == (64 // stride, 64 // stride)
    for ours, theirs in zip(encoder.model.layer3, plain.model.layer3, strict=True):
        assert ours.conv2.dilation == theirs.conv2.dilation


@pytest.mark.parametrize(
    ("encoder", "decoder", "stride"),
    [
        ("resnet18", "deeplabv3plus", 8),
        ("tf_efficientnet_lite0", "deeplabv3plus", 16),
        ("resnet50", "daformer", 32),
        ("resnest50d", "deeplabv3plus", 16),
        ("res2net50_26w_4s", "deeplabv3plus", 16),
        ("mit_b0", "segformer", 16),
    ],
)
def test_multi_grid_of_other_encoders_is_refused(encoder: str, decoder: str, stride: int) -> None:
    config = NetworkConfig(
        decoder=decoder,
        encoder=encoder,
        encoder_weights="none",
        output_stride=stride,
        multi_grid=(1, 2, 4),
    )
    with torch.device("meta"), pytest.raises(UserError, match=r"multi_grid is for ResNets .*leave"):
        build_segmentor(config, 3)


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("convnext_tiny.dinov3_lvd1689m", "segformer"),
        ("convnext_tiny.dinov3_lvd1689m", "dpt"),
        ("swin_tiny_patch4_window7_224", "daformer"),
        ("swinv2_cr_tiny_224", "linear"),
    ],
)
def test_encoders_of_today_with_four_strides_take_images_of_any_size(
    name: str, decoder: str
) -> None:
    config = NetworkConfig(
        decoder=decoder, encoder=name, encoder_weights="none", output_stride=32, width=8
    )
    with torch.device("meta"):
        network = build_segmentor(config, 3).eval()
        output = network(torch.empty(1, 3, 75, 101))
    assert network.encoder.channels == (96, 192, 384, 768)
    assert network.encoder.strides == (4, 8, 16, 32)
    assert output.logits.shape == (1, 3, 19, 26) and output.deep.shape == (1, 768, 3, 4)


def test_deep_stem_is_available() -> None:
    with torch.device("meta"):
        encoder = Pyramid("resnet50s", 8)
    assert encoder.state_dict()["model.conv1.0.weight"].shape == (64, 3, 3, 3)


@pytest.mark.parametrize("decoder", ["deeplabv3plus", "deeplabv3plus_light"])
def test_networks_take_colours_and_divisor_from_it(decoder: str) -> None:
    config = NetworkConfig(
        decoder=decoder, encoder="test_resnet", encoder_weights="none", output_stride=16, width=8
    )
    network = build_segmentor(config, 2)
    assert isinstance(network.encoder, Pyramid) and network.divisor == 16
    assert network.mean.flatten().tolist() == network.std.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "output_stride", "says"),
    [
        ("pvt_v2_b0", 16, "output_stride=16"),
        ("test_mambaout", 16, "output_stride=16 .*unexpected keyword"),
        ("levit_128", 32, r"strides \[16, 32, 64\], not \[4, 8, 16, 32\]"),
        ("xcit_nano_12_p16_224", 32, "xcit_nano_12_p16_224"),
    ],
)
def test_encoders_without_the_four_maps_are_refused_in_one_line(
    name: str, output_stride: int, says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        Pyramid.build(name, output_stride)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("try resnet101")


def test_weights_that_the_hub_does_not_have_are_said() -> None:
    with pytest.raises(UserError, match="timm has no ImageNet weights for resnet50t"):
        Pyramid.hub_weights("resnet50t")
