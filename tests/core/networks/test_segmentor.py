from __future__ import annotations

import pytest
import torch
from torch import nn

from u2pl.errors import UserError
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoders.pyramid import Pyramid
from u2pl.networks.segmentor import Segmentor

DECODERS = {"deeplabv3plus": 8, "deeplabv3plus_light": 16, "daformer": 32, "segformer": 16}
CLASSES, CHANNELS = 5, 16


@pytest.fixture(scope="module", params=DECODERS)
def network(request: pytest.FixtureRequest) -> Segmentor:
    torch.manual_seed(0)
    config = NetworkConfig(
        decoder=request.param,
        encoder="test_resnet",
        encoder_weights="none",
        output_stride=DECODERS[request.param],
        embed_dim=CHANNELS,
        width=32,
    )
    return build_segmentor(config, CLASSES).eval()


def photo(*size: int, images: int = 2) -> torch.Tensor:
    return torch.randint(
        0, 256, (images, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize("size", [(33, 47), (65, 65), (64, 96), (129, 70), (1, 3)])
@torch.no_grad()
def test_any_size_gives_a_quarter_rounded_up(network: Segmentor, size: tuple[int, int]) -> None:
    output = network(photo(*size))
    quarter = tuple((side + 3) // 4 for side in size)
    assert output.logits.shape == (2, CLASSES, *quarter)
    assert output.embed is not None and output.embed.shape == (2, CHANNELS, *quarter)


@torch.no_grad()
def test_bytes_and_fractions_are_the_same_image(network: Segmentor) -> None:
    image = photo(33, 47)
    for whole, part in zip(network(image)[:3], network(image / 255)[:3], strict=True):
        assert torch.equal(whole, part)


@torch.no_grad()
def test_padding_is_the_mean_colour_and_is_cut_off(network: Segmentor) -> None:
    image = photo(33, 47) / 255
    padded = network.mean.expand(
        2, 3, *(-(-side // network.divisor) * network.divisor for side in (33, 47))
    ).clone()
    padded[..., :33, :47] = image
    output, whole = network(image), network(padded)
    torch.testing.assert_close(output.logits, whole.logits[..., :9, :12])
    torch.testing.assert_close(output.embed, whole.embed[..., :9, :12])
    prepared = network.prepare(image)
    assert prepared.shape[-2] % network.divisor == prepared.shape[-1] % network.divisor == 0
    assert not prepared[..., 33:, :].any() and not prepared[..., 47:].any()
    torch.testing.assert_close(prepared[..., :33, :47], (image - network.mean) / network.std)


@torch.no_grad()
def test_without_embed_the_representation_head_does_not_run(network: Segmentor) -> None:
    runs: list[int] = []
    handle = network.embedder.register_forward_hook(lambda *_: runs.append(1))
    image = photo(32, 32)
    without, with_embed = network(image, embed=False), network(image)
    handle.remove()
    assert without.embed is None and len(runs) == 1
    assert torch.equal(without.logits, with_embed.logits)


@torch.no_grad()
def test_deep_is_the_encoders_last_map_padding_included(network: Segmentor) -> None:
    image = photo(33, 47)
    deep = network(image, embed=False).deep
    assert deep.shape[-2:] == tuple(-(-side // network.divisor) for side in (33, 47))
    assert torch.equal(deep, network.encoder(network.prepare(image))[-1])


@torch.no_grad()
def test_images_do_not_touch_each_other_in_evaluation(network: Segmentor) -> None:
    image = photo(40, 40)
    torch.testing.assert_close(
        network(image[1:]).logits, network(image).logits[1:], atol=1e-5, rtol=1e-4
    )


def test_gradient_reaches_every_parameter_and_encoder_and_heads_share_them_out(
    network: Segmentor,
) -> None:
    network.train()
    network.zero_grad(set_to_none=True)
    output = network(photo(48, 48))
    (output.logits.square().mean() + output.embed.square().mean()).backward()
    network.eval()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert all(
        parameter.grad.abs().sum() > 0
        for part in (network.classifier, network.embedder)
        for parameter in part.parameters()
    )
    listed = [id(value) for value in (*network.encoder.parameters(), *network.head_parameters())]
    assert sorted(listed) == sorted(id(parameter) for parameter in network.parameters())
    network.zero_grad(set_to_none=True)


@pytest.mark.parametrize("decoder", DECODERS)
def test_without_a_representation_there_is_no_head_and_nothing_unused(decoder: str) -> None:
    config = NetworkConfig(
        decoder=decoder,
        encoder="test_resnet",
        encoder_weights="none",
        output_stride=16,
        embed_dim=0,
        width=16,
    )
    network = build_segmentor(config, CLASSES)
    output = network(photo(48, 48))
    output.logits.square().mean().backward()
    assert output.embed is None and network.embed_dim == 0
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert not any(key.startswith("embedder") for key in network.state_dict())


def test_one_image_cannot_be_pooled_over_and_the_error_says_so(network: Segmentor) -> None:
    network.train()
    if network.min_images > 1:
        with pytest.raises(UserError, match="1 image per process"):
            network(photo(32, 32, images=1))
    else:
        assert network(photo(64, 64, images=1)).logits.isfinite().all()
    network.eval()
    network(photo(32, 32, images=1))


def test_normalisation_over_processes_may_see_one_image_each() -> None:
    part = nn.Identity()
    encoder = Pyramid("test_resnet", 32)
    network = Segmentor(encoder, nn.SyncBatchNorm(3), part, part, min_images=2)
    network._check_batch(1)
    network.decoder = nn.BatchNorm2d(3)
    with pytest.raises(UserError):
        network._check_batch(1)


def test_normalisation_is_no_part_of_the_state(network: Segmentor) -> None:
    assert not {"mean", "std"} & network.state_dict().keys()


@pytest.mark.parametrize("decoder", DECODERS)
def test_image_level_classifier_looks_at_the_last_map(decoder: str) -> None:
    stride = DECODERS[decoder]
    config = NetworkConfig(
        decoder=decoder,
        encoder="test_resnet",
        encoder_weights="none",
        output_stride=stride,
        embed_dim=0,
        width=16,
        tag_classes=3,
    )
    network = build_segmentor(config, CLASSES).eval()
    deep = network(photo(33, 47)).deep
    activation, tags = network.activation(deep), network.tag_logits(deep)
    weight = network.tagger.weight[..., 0, 0]
    torch.testing.assert_close(activation, torch.einsum("kd,bdhw->bkhw", weight, deep))
    torch.testing.assert_close(tags, deep.amax(dim=(2, 3)) @ weight.T)
    assert network.tagger.bias is None and tags.shape == (2, 3)
    assert any(parameter is network.tagger.weight for parameter in network.head_parameters())
    tags.sum().backward()
    assert network.tagger.weight.grad.any() and all(
        parameter.grad is None for parameter in network.classifier.parameters()
    )


def test_without_tags_there_is_no_classifier_of_them(network: Segmentor) -> None:
    assert network.tagger is None and not any(
        key.startswith("tagger") for key in network.state_dict()
    )


@pytest.mark.parametrize("decoder", DECODERS)
def test_same_seed_same_network(decoder: str) -> None:
    config = NetworkConfig(
        decoder=decoder,
        encoder="test_resnet",
        encoder_weights="none",
        output_stride=16,
        embed_dim=8,
        width=16,
    )
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_segmentor(config, CLASSES).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("decoder", ["deeplabv3plus", "daformer"])
def test_the_auxiliary_classifier_sees_the_third_map_in_training_only(decoder: str) -> None:
    config = NetworkConfig(
        decoder=decoder,
        encoder="test_resnet",
        encoder_weights="none",
        output_stride=DECODERS[decoder],
        width=8,
        auxiliary=True,
    )
    network = build_segmentor(config, CLASSES)
    assert network.auxiliary is not None
    first, *_, last = [part for part in network.auxiliary if isinstance(part, nn.Conv2d)]
    assert first.weight.shape == (8, network.encoder.channels[2], 3, 3)
    assert last.weight.shape == (CLASSES, 8, 1, 1)
    output = network(photo(33, 47))
    assert output.auxiliary is not None and output.auxiliary.shape == output.logits.shape
    output.auxiliary.sum().backward()
    trained = {id(p) for p in network.head_parameters()}
    assert all(p.grad is not None and id(p) in trained for p in network.auxiliary.parameters())
    assert all(p.grad is None for p in network.classifier.parameters())
    assert network.eval()(photo(33, 47)).auxiliary is None
