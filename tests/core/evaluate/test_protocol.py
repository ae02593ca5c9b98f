from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from u2pl.evaluate.protocol import EvaluationProtocol


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        (EvaluationProtocol(), "whole image, single scale"),
        (
            EvaluationProtocol(mode="center-crop", crop=513, flip=True),
            "center crop 513, single scale, with flip",
        ),
        (
            EvaluationProtocol(mode="slide", crop=769),
            "sliding window 769, stride 513, single scale",
        ),
        (
            EvaluationProtocol(scales=(0.5, 1, 1.5), flip=True),
            "whole image, scales 0.5 1 1.5, with flip",
        ),
        (EvaluationProtocol(scales=(0.75,)), "whole image, scale 0.75"),
        (EvaluationProtocol(crf=True), "whole image, single scale, dense CRF"),
        (
            EvaluationProtocol(scales=(0.5, 1, 1.5), flip=True, crf=True),
            "whole image, scales 0.5 1 1.5, with flip, dense CRF",
        ),
    ],
)
def test_describe(protocol, words):
    assert protocol.describe() == words


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "slide"},
        {"mode": "centre"},
        {"scales": ()},
        {"scales": (0,)},
        {"scales": (float("inf"),)},
        {"scales": (1e4,)},
        {"crop": 0},
        {"crop": 2**63},
        {"stride": 3},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValidationError):
        EvaluationProtocol(**wrong)


def test_round_trip_through_json():
    protocol = EvaluationProtocol(mode="slide", crop=64, scales=(0.5, 1.0), flip=True)
    assert EvaluationProtocol.model_validate_json(protocol.model_dump_json()) == protocol


def test_import_is_free_of_torch():
    code = "import sys, u2pl.evaluate.protocol; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
