"""A network of other than three input channels: its folder, its card, its file, its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import u2pl
from u2pl.data.geo.scaling import unscaled
from u2pl.errors import UserError
from u2pl.model.card import Card, EncoderWeights, Normalisation
from u2pl.model.folder import folder_files
from u2pl.model.model import Model
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig

TINY = {"encoder": "test_resnet", "encoder_weights": "none", "width": 8, "embed_dim": 0}
PIXELS = np.random.default_rng(0).integers(1, 250, (4, 40, 50), np.uint8)


def model(channels: int, **values: Any) -> Model:
    torch.manual_seed(0)
    config = NetworkConfig(decoder="segformer", **TINY)
    scaling = unscaled(tuple(range(1, channels + 1)))
    card = Card(network=config, classes=("a", "b", "c"), scaling=scaling, **values)
    return Model(build_segmentor(config, 3, channels).eval(), card)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_what_was_saved_predicts_arrays_and_rasters_alike(tmp_path: Path, channels: int) -> None:
    from harness.rasters import write_raster  # skips without the extra

    made = model(channels)
    made.save(tmp_path / "model")
    loaded = u2pl.load(tmp_path / "model", "cpu")
    assert loaded.network.channels == channels and len(loaded.card.normalisation.mean) == channels
    array = PIXELS[:channels].transpose(1, 2, 0)
    expected = made.predict(array, probabilities=True)
    file = write_raster(tmp_path / "a.tif", PIXELS)
    for image in (file, torch.from_numpy(PIXELS[:channels]), array / 255):
        found = loaded.predict(image, probabilities=True, flip=False)
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    first = array[..., :3] if channels > 3 else array[..., [0, 0, 0]]
    np.testing.assert_array_equal(found.image, first)
    assert found.overlay().size == (50, 40)
    windows = loaded.predict(file, window=32, scales=[0.5, 1.0])
    assert windows.ids.shape == (40, 50)


def test_what_the_network_does_not_take_is_one_line(tmp_path: Path) -> None:
    from harness.rasters import write_raster  # skips without the extra

    four, jpeg = model(4), tmp_path / "photo.jpg"
    Image.new("RGB", (20, 20)).save(jpeg)
    few = write_raster(tmp_path / "few.tif", PIXELS[:2])
    for image, said in (
        (few, "few.tif has 2 bands, and band 3 is wanted"),
        (jpeg, "is a photo, and the network was trained on rasters, of which it takes 4 bands"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \[H, W, 4\] \(a tensor \[4, H, W\]\), not"),
        (np.zeros((8, 8), np.uint8), r"shape \[H, W, 4\] \("),
    ):
        with pytest.raises(UserError, match=said) as caught:
            four.predict(image)
        assert "\n" not in str(caught.value)


def test_the_card_says_what_its_channels_are() -> None:
    weights = EncoderWeights(name="resnet", sha256="0" * 64)
    for channels, said in ((4, "were repeated and scaled"), (1, "were added up for one band")):
        made = model(channels, encoder_weights=weights)
        text = folder_files(made.network, made.card)["README.md"]
        assert isinstance(text, bytes) and said in text.decode()
        assert "of rasters of uint8" in text.decode()
    with pytest.raises(ValueError, match="have 3 and 3 numbers for 4 channels"):
        model(4, normalisation=Normalisation(mean=(0, 0, 0), std=(1, 1, 1)))
