from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard

from u2pl.model.card import Card, EncoderWeights, Normalisation, Origin
from u2pl.model.readme import readme
from u2pl.networks.config import NetworkConfig


def test_it_says_what_how_well_and_how_to_use() -> None:
    card = Card(
        network=NetworkConfig(decoder="deeplabv3plus_light", encoder="resnet10t"),
        classes=("background", "cat | dog", "Kuh ü", "<b> [x](y)"),
        method="u2plplus",
        data="photos (12, stratified)",
        evaluation="photos val, whole image",
        scores={"miou": 41.25},
        versions={"torch": "2"},
        normalisation=Normalisation(mean=(0, 0, 0), std=(1, 1, 1)),
    )
    text = readme(card)
    for part in (
        "# resnet10t deeplabv3plus_light, 4 classes\n",
        "trained with u2plplus on photos (12, stratified).\n",
        "| miou | 41.25 |\n",
        "Protocol: photos val, whole image\n",
        "u2pl-semi predict FOLDER IMAGE --out DIR\n",
        'model = u2pl.load("FOLDER")\n',
        "1. cat \\| dog\n2. Kuh ü\n3. &lt;b> [x]\\(y)\n",
        "| versions | torch 2 |\n",
    ):
        assert part in text, part
    assert "normalisation" not in text


def test_classes_stand_beside_their_scores() -> None:
    scores: dict[str, Any] = {"miou": 41.2512, "per_class_iou": [41.2512, None]}
    text = readme(Card(network=NetworkConfig(), classes=("sky", "sea"), scores=scores))
    assert "| miou | 41.25 |\n" in text and "per_class_iou" not in text
    assert "| 0 | sky | 41.25 |\n| 1 | sea | not in the masks |\n" in text


def test_it_says_what_is_not_known() -> None:
    text = readme(Card(network=NetworkConfig(), classes=("sky", "sea")))
    assert "with u2pl on data not stated." in text
    assert "Not evaluated." in text and "Protocol: not stated" in text


def header(**values: Any) -> dict[str, Any]:
    """What the hub reads of a card."""
    network = values.pop("network", NetworkConfig(decoder="daformer", encoder="mit_b0"))
    text = readme(Card(network=network, classes=("sky", "sea"), **values))
    found: dict[str, Any] = ModelCard(text).data.to_dict()
    return found


def test_the_hub_reads_scores_and_what_it_is() -> None:
    scores: dict[str, Any] = {"miou": 41.25, "pixel_accuracy": 80.5, "per_class_iou": [1.0, None]}
    words = 'my "phötos": 1 val, whole image, single scale'
    found = header(method="u2plplus", scores=scores, evaluation=words)
    assert (found["library_name"], found["pipeline_tag"]) == ("u2pl", "image-segmentation")
    assert {"semantic-segmentation", "u2plplus", "mit_b0"} <= set(found["tags"])
    (index,) = found["model-index"]
    (result,) = index["results"]
    assert result["task"] == {"type": "image-segmentation", "name": "whole image, single scale"}
    data = 'my "phötos": 1'
    assert result["dataset"] == {"type": data, "name": data, "split": "val"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "mean_iou": 41.25,
        "accuracy": 80.5,
    }


@pytest.mark.parametrize("scores", [{}, {"miou": None, "step": 3}])
def test_without_scores_the_hub_is_told_none(scores: dict[str, Any]) -> None:
    assert "model-index" not in header(scores=scores)


def test_the_licence_of_weights_follows_them() -> None:
    weights = EncoderWeights(name="mit_b0.imagenet at 9ce53d104d92", sha256="0")
    later = Origin(name="runs/a", sha256="1", encoder_weights=weights)
    for begun in ({"encoder_weights": weights}, {"origin": later}):
        found = header(**begun)
        assert (found["license"], "nvidia" in found["license_name"]) == ("other", True)
    plain = NetworkConfig(encoder="resnet101")
    for other in ({}, {"network": plain, "encoder_weights": weights}):
        assert "license" not in header(**other)


def test_a_licence_with_terms_of_its_own_is_linked_and_any_other_said() -> None:
    network = NetworkConfig(encoder="vit_small_patch16_dinov3", decoder="dpt")
    name = "vit_small_patch16_dinov3.lvd1689m"
    weights = EncoderWeights(name=name, sha256="0", license="dinov3-license")
    found = header(network=network, encoder_weights=weights)
    assert (found["license"], found["license_name"]) == ("other", "dinov3-license")
    assert found["license_link"].endswith("/dinov3-license")

    def text(license: str | None) -> str:
        known = weights.model_copy(update={"license": license})
        return readme(Card(network=network, classes=("sky", "sea"), encoder_weights=known))

    begun = f"began with the weights {name}, under"
    assert f"{begun} dinov3-license (https://" in text("dinov3-license")
    assert f"{begun} apache-2.0." in text("apache-2.0")
    assert "## Licence" not in text(None) and "license:" not in text("apache-2.0")


def test_what_it_began_with_is_said_and_linked_if_it_is_on_the_hub() -> None:
    for name, base in ((f"user/name@{'0a' * 20}", "user/name"), ("user/name", None)):
        origin = Origin(name=name, sha256="1")
        assert header(origin=origin).get("base_model") == base
        text = readme(Card(network=NetworkConfig(), classes=("sky", "sea"), origin=origin))
        assert f"Training began with {name}." in text


def test_its_commands_name_the_hub_if_it_is_there() -> None:
    text = readme(Card(network=NetworkConfig(), classes=("sky", "sea")), "user/name")
    assert "predict user/name IMAGE" in text and 'u2pl.load("user/name")' in text
    assert "FOLDER" not in text
