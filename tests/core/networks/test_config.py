from __future__ import annotations

import pytest
from pydantic import ValidationError

from u2pl.networks.config import RANDOM, NetworkConfig


def test_defaults_are_the_papers() -> None:
    config = NetworkConfig()
    assert (config.decoder, config.encoder, config.output_stride, config.atrous_rates) == (
        "deeplabv3plus",
        "resnet101",
        8,
        (12, 24, 36),
    )
    assert (config.width, config.embed_dim, config.dropout, config.encoder_weights) == (
        256,
        256,
        0.1,
        "imagenet",
    )


def test_daformer_has_strides_and_rates_of_its_own_unless_told() -> None:
    config = NetworkConfig(decoder="daformer")
    assert (config.output_stride, config.atrous_rates, config.width, config.embed_dim) == (
        32,
        (6, 12, 18),
        256,
        256,
    )
    assert NetworkConfig(
        decoder="daformer", output_stride=16, atrous_rates=(1, 2, 3)
    ).atrous_rates == (1, 2, 3)


def test_segformer_runs_where_the_weak_papers_does_unless_told() -> None:
    config = NetworkConfig(decoder="segformer")
    assert (config.output_stride, config.width, config.embed_dim, config.dropout) == (
        16,
        256,
        256,
        0.1,
    )
    assert NetworkConfig(decoder="segformer", output_stride=32).output_stride == 32


def test_a_dump_from_before_there_were_widths_and_tags_is_read() -> None:
    old = {
        key: value
        for key, value in NetworkConfig().model_dump(mode="json").items()
        if key not in ("width", "tag_classes")
    }
    assert NetworkConfig.model_validate(old) == NetworkConfig()


@pytest.mark.parametrize(
    ("decoder", "stride", "says"),
    [
        ("daformer", 8, "runs at 16 or 32"),
        ("segformer", 8, "runs at 16 or 32"),
        ("deeplabv3plus", 32, "8 or 16"),
        ("deeplabv3plus_light", 32, "8 or 16"),
    ],
)
def test_strides_that_a_decoder_cannot_use_are_refused_by_name(
    decoder: str, stride: int, says: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        NetworkConfig(decoder=decoder, output_stride=stride)
    first = caught.value.errors()[0]
    assert (
        first["loc"] == ("output_stride",)
        and f"decoder {decoder} " in first["msg"]
        and says in first["msg"]
    )


def test_light_decoder_has_a_narrow_representation_unless_told() -> None:
    assert NetworkConfig(decoder="deeplabv3plus_light").embed_dim == 64
    assert NetworkConfig(decoder="deeplabv3plus_light", embed_dim=32).embed_dim == 32


@pytest.mark.parametrize("weights", [None, "", "none", "None"])
def test_no_weights_is_one_value_that_any_file_format_can_hold(weights: str | None) -> None:
    config = NetworkConfig(encoder_weights=weights)
    assert config.encoder_weights == RANDOM
    assert NetworkConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"output_stride": 32},
        {"decodr": "deeplabv3plus"},
        {"dropout": 1.0},
        {"embed_dim": -1},
        {"atrous_rates": (6, 12)},
        {"width": -1},
        {"tag_classes": -1},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NetworkConfig(**wrong)


def test_every_field_says_what_it_is() -> None:
    assert all(field.description for field in NetworkConfig.model_fields.values())
