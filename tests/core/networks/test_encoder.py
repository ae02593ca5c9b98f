from __future__ import annotations

import pytest
import torch
import torchvision
from segmentation_models_pytorch.encoders import TimmUniversalEncoder

from u2pl.errors import UserError
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import build_encoder, check_encoder, normalisation, side_divisor
from u2pl.networks.pretrained import load_encoder

SIZES = {8: [64, 32, 16, 8, 8, 8], 16: [64, 32, 16, 8, 4, 4], 32: [64, 32, 16, 8, 4, 2]}


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        *((name, stride) for name in ("resnet10t", "tf_efficientnet_lite0") for stride in SIZES),
        *((name, 32) for name in ("test_resnet", "convnext_atto", "pvt_v2_b0")),
        ("mit_b0", 16),
        ("mit_b0", 32),
    ],
)
@torch.no_grad()
def test_feature_maps_shrink_to_the_output_stride(name: str, output_stride: int) -> None:
    check_encoder(name, output_stride)
    encoder = build_encoder(name, output_stride).eval()
    features = encoder(torch.zeros(1, 3, 64, 64))
    assert [feature.shape[-1] for feature in features] == SIZES[output_stride]
    assert [feature.shape[1] for feature in features] == encoder.out_channels


@pytest.mark.parametrize(
    ("output_stride", "dilate"), [(8, [False, True, True]), (16, [False, False, True])]
)
@torch.no_grad()
def test_dilated_resnet_equals_torchvisions(output_stride: int, dilate: list[bool]) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(replace_stride_with_dilation=dilate).eval()
    encoder = build_encoder("resnet50", output_stride).eval()
    load_encoder(encoder, reference.state_dict(), source="torchvision")
    image = torch.randn(1, 3, 64, 64)
    theirs = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
    for stage in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        theirs = stage(theirs)
    ours = encoder(image)[-1]
    assert theirs.std() > 0
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("decoder", ["deeplabv3plus", "deeplabv3plus_light"])
def test_encoder_is_timms_never_smps_own_resnet(decoder: str) -> None:
    network = build_segmentor(
        NetworkConfig(decoder=decoder, encoder="resnet18", encoder_weights="none"), 2
    )
    assert isinstance(network.encoder, TimmUniversalEncoder)


def test_deep_stem_is_available() -> None:
    check_encoder("resnet101s", 8)
    with torch.device("meta"):
        encoder = build_encoder("resnet50s", 8)
    assert encoder.state_dict()["model.conv1.0.weight"].shape == (64, 3, 3, 3)


def test_normalisation_follows_the_encoder() -> None:
    assert normalisation("tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert normalisation("resnet101")[0] == (0.485, 0.456, 0.406)
    network = build_segmentor(
        NetworkConfig(
            decoder="deeplabv3plus_light", encoder="tf_efficientnet_lite0", encoder_weights="none"
        ),
        2,
    )
    assert network.mean.flatten().tolist() == network.std.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnt101", "near: resnet101"),
        ("mit_b6", "near: mit_b"),
        ("mitb5", "near: mit_b5"),
        ("hf-hub:someone/net", "no timm encoder"),
        ("pvt_v2_b0", "output_stride=16"),
        ("resnet18.bogus", "bogus"),
    ],
)
def test_unusable_encoders_are_refused_in_one_line(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        check_encoder(name, 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "output_stride", "says"),
    [
        ("mit_b0", 8, "output_stride=8; set network.output_stride=16, or network.decoder=daformer"),
        ("levit_128", 32, r"strides \[16, 32, 64\], not \[4, 8, 16, 32\]"),
        ("vit_tiny_patch16_224", 32, r"strides \[16, .* not \[4, 8, 16, 32\]"),
    ],
)
def test_encoders_without_the_four_maps_are_refused_in_one_line(
    name: str, output_stride: int, says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        check_encoder(name, output_stride)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [f"mit_b{size}" for size in range(6)])
def test_every_size_of_mit_is_an_encoder(name: str) -> None:
    check_encoder(name, 32)
    assert normalisation(name)[0] == (0.485, 0.456, 0.406) and side_divisor(name, 16) == 32
