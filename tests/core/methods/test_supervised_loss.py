from __future__ import annotations

import pytest
from pydantic import ValidationError

from u2pl.methods.supervised_loss import SUPERVISED, SupervisedConfig


def test_the_default_is_the_papers() -> None:
    config = SupervisedConfig()
    assert (config.loss, config.ohem_threshold, config.ohem_min_kept) == (
        "cross_entropy",
        0.7,
        100_000,
    )


def test_an_unknown_loss_is_one_error_that_names_the_nearest_and_all() -> None:
    with pytest.raises(ValidationError) as caught:
        SupervisedConfig(loss="ohm")
    (error,) = caught.value.errors()
    assert error["loc"] == ("loss",) and "did you mean ohem?" in error["msg"]
    assert all(name in error["msg"] for name in SUPERVISED)


@pytest.mark.parametrize(
    "wrong", [{"ohem_threshold": 0}, {"ohem_threshold": 1.5}, {"ohem_min_kept": -1}, {"los": ""}]
)
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SupervisedConfig(**wrong)
