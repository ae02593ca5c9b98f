from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from u2pl.data.classes import clear_palette
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.model.card import FORMAT, Card, Normalisation
from u2pl.networks.config import NetworkConfig

NETWORK = NetworkConfig(decoder="daformer", encoder="mit_b0")

#: The config.json that version 0.1.0 wrote before there was a class for it.
OLD = """{
  "format": 1, "app": "u2pl-da", "method": "u2plplus", "options": {"contrast": {"tau": 0.5}},
  "network": {"decoder": "segformer", "encoder": "mit_b1", "encoder_weights": "imagenet",
    "output_stride": 16, "atrous_rates": [12, 24, 36], "width": 256, "embed_dim": 256,
    "dropout": 0.1, "tag_classes": 0},
  "classes": ["road", "car"], "palette": [[128, 64, 128], [0, 0, 142]],
  "source": "cityscapes:data", "split": "val", "data": "gta5 (all)", "seed": 0,
  "evaluation": "cityscapes val, whole image, single scale",
  "protocol": {"mode": "whole", "crop": null, "scales": [1.0], "long_side": 0, "flip": false,
    "crf": false},
  "crop": 512,
  "scores": {"step": 10, "network": "teacher", "per_class_iou": [90.5, null], "miou": 90.5},
  "versions": {"python": "3.12", "torch": "2.11"},
  "normalisation": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
}"""


def test_network_and_classes_are_enough() -> None:
    card = Card(network=NETWORK, classes=("sky", "sea"))
    assert (card.format, card.app, card.split, card.source) == (FORMAT, "u2pl-semi", "val", None)
    assert card.protocol == EvaluationProtocol() and card.normalisation is None
    assert card.colours() == [tuple(row) for row in clear_palette(card.classes).tolist()]
    for missing in ({"network": NETWORK}, {"classes": ("sky", "sea")}):
        with pytest.raises(ValidationError, match="Field required"):
            Card(**missing)


def test_a_card_survives_json() -> None:
    card = Card(
        network=NETWORK,
        classes=("sky", "Kuh ü"),
        palette=[(1, 2, 3), (4, 5, 6)],
        options={"contrast": {"tau": 0.5, "queues": [1, 2]}},
        source="demo",
        seed=3,
        protocol=EvaluationProtocol(mode="slide", crop=64, scales=(0.5, 1.0), flip=True),
        crop=64,
        scores={"miou": 12.5, "per_class_iou": [25.0, None]},
        versions={"torch": "2"},
        normalisation=Normalisation(mean=(0.1, 0.2, 0.3), std=(1, 1, 1)),
    )
    text = json.dumps(card.model_dump(mode="json"))
    assert Card.model_validate(json.loads(text)) == card
    assert card.colours() == [(1, 2, 3), (4, 5, 6)]


def test_what_was_written_before_there_was_a_class_is_read() -> None:
    written = json.loads(OLD)
    card = Card.model_validate(written)
    network = {"embed_kernel": 3, "multi_grid": [1, 1, 1], "auxiliary": False}
    network |= {"freeze_encoder": False, "checkpointing": False}
    later = {"encoder_weights": None, "origin": None, "scaling": None}
    later["network"] = written["network"] | network
    later["protocol"] = written["protocol"] | {"blend": "mean"}
    assert card.model_dump(mode="json") == written | later


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"paletes": []}, ("paletes",)),
        ({"classes": ()}, ("classes",)),
        ({"network": {"decoder": "daformer", "encodr": "mit_b0"}}, ("network", "encodr")),
        ({"protocol": {"mode": "slid"}}, ("protocol", "mode")),
        ({"normalisation": {"mean": [1, 1, 1], "std": [1, 1, 0]}}, ("normalisation", "std", 2)),
        ({"normalisation": {"mean": [0.5], "std": [1, 1, 1]}}, ()),
        ({"palette": [(1, 2), (3, 4)]}, ("palette", 0, 2)),
        ({"palette": [(1, 2, 3)]}, ()),
    ],
)
def test_what_a_card_cannot_be_is_named(change: dict[str, Any], where: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        Card(**({"network": NETWORK, "classes": ("sky", "sea")} | change))
    first = caught.value.errors()[0]
    assert first["loc"] == where
    words = (
        "have 1 and 3 numbers for 3 channels" if "normalisation" in change else "1 colours for 2"
    )
    assert where or words in first["msg"]


def test_a_card_does_not_change() -> None:
    card = Card(network=NETWORK, classes=("sky", "sea"))
    with pytest.raises(ValidationError, match="frozen"):
        card.seed = 1  # type: ignore[misc]
