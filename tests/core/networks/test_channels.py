"""Networks of other than three input channels, whose first convolution was pretrained on three."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness import small_mit
from u2pl.errors import UserError
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import family_of
from u2pl.networks.encoders import mit
from u2pl.networks.pretrained import load_pretrained
from u2pl.notation import padding, spread

#: An encoder of each family, with decoders that make of its maps what they can.
PAIRS = {
    "deeplabv3plus": "test_resnet",
    "deeplabv3plus_light": "test_efficientnet",
    "daformer": small_mit.NAME,
    "segformer": small_mit.NAME,
    "linear": "test_vit",
    "dpt": "test_vit",
}


@pytest.fixture(autouse=True)
def small_mix_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mit.VARIANTS, small_mit.NAME, small_mit.VARIANT)


@pytest.mark.parametrize("decoder", PAIRS)
@torch.no_grad()
def test_pretrained_weights_of_three_colours_fit_any_channels(tmp_path: Path, decoder: str) -> None:
    torch.manual_seed(0)
    options = {"decoder": decoder, "encoder": PAIRS[decoder], "width": 8, "embed_dim": 0}
    photos = build_segmentor(NetworkConfig(**options, encoder_weights="none"), 3).eval()
    file = tmp_path / "encoder.safetensors"
    save_file(photos.encoder.model.state_dict(), file)
    config = NetworkConfig(**options, encoder_weights=str(file))
    image = torch.rand(2, 3, 64, 96)
    for channels in (2, 4):
        other = build_segmentor(config, 3, channels)
        assert other.channels == channels == len(other.encoder.std)
        assert other.eval()(torch.rand(2, channels, 64, 96)).logits.shape == (2, 3, 16, 24)
    # twice the same photo, with half of the weights each, is seen as once
    six = build_segmentor(config, 3, 6).eval()
    seen = six.encode(torch.cat([image, image], 1))
    for found, expected in zip(seen, photos.encode(image), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    # one channel is seen as a grey photo, but for normalisation, which is different in each colour
    one = build_segmentor(config, 3, 1).eval()
    photos.mean[:], photos.std[:] = one.mean, one.std
    seen = one.encode(image[:, :1])
    for found, expected in zip(seen, photos.encode(image[:, [0, 0, 0]]), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_weights_of_other_channels_are_not_adapted(tmp_path: Path) -> None:
    four = family_of("test_resnet").build("test_resnet", 32, 4)
    save_file(four.model.state_dict(), tmp_path / "a.safetensors")
    two = family_of("test_resnet").build("test_resnet", 32, 2)
    with pytest.raises(UserError, match="1 of another shape"):
        load_pretrained(two, "test_resnet", str(tmp_path / "a.safetensors"))


def test_values_of_colours_are_spread_as_the_weights_are() -> None:
    assert spread((1, 2, 3), 5) == (1, 2, 3, 1, 2) and spread((1, 2, 3), 1) == (2,)
    assert padding(4) == (124, 116, 104, 124) and padding(2) == (124, 116)
