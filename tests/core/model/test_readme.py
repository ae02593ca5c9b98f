from __future__ import annotations

from u2pl.model.card import Card, Normalisation
from u2pl.model.readme import readme
from u2pl.networks.config import NetworkConfig


def test_it_says_what_how_well_and_how_to_use() -> None:
    card = Card(
        network=NetworkConfig(decoder="deeplabv3plus_light", encoder="resnet10t"),
        classes=("background", "cat | dog", "Kuh ü"),
        method="u2plplus",
        data="photos (12, stratified)",
        evaluation="photos val, whole image",
        scores={"miou": 41.25},
        versions={"torch": "2"},
        normalisation=Normalisation(mean=(0, 0, 0), std=(1, 1, 1)),
    )
    text = readme(card)
    for part in (
        "# resnet10t deeplabv3plus_light, 3 classes\n",
        "trained with u2plplus on photos (12, stratified).\n",
        "| miou | 41.25 |\n",
        "Protocol: photos val, whole image\n",
        "u2pl-semi predict FOLDER IMAGE --out DIR\n",
        'model = u2pl.load("FOLDER")\n',
        "1. cat \\| dog\n2. Kuh ü\n",
        "| versions | torch 2 |\n",
    ):
        assert part in text, part
    assert "normalisation" not in text


def test_it_says_what_is_not_known() -> None:
    text = readme(Card(network=NetworkConfig(), classes=("sky", "sea")))
    assert "with u2pl on data not stated." in text
    assert "Not evaluated." in text and "Protocol: not stated" in text
