"""What a step costs: images through the encoders for each labelled image, counted by hand."""

from __future__ import annotations

import pytest

from harness.contract import Build, passes

WARM, LATER = 0, 5


@pytest.mark.parametrize(
    ("name", "warm", "later"),
    [
        ("suponly", (1, 0), (1, 0)),
        ("mean_teacher", (1, 0), (2, 1)),  # labelled and unlabelled | unlabelled
        ("cutmix", (1, 0), (2, 1)),
        ("u2pl", (1, 0), (2, 3)),  # labelled and mixed | unlabelled, then labelled and mixed
        ("u2plplus", (1, 0), (2, 3)),
    ],
)
def test_passes_are_those_of_the_algorithm(
    name: str, warm: tuple[int, int], later: tuple[int, int], build: Build
) -> None:
    method, batch = build(name)
    assert passes(method, batch, WARM) == warm
    assert passes(method, batch, LATER) == later
