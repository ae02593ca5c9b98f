"""What a step costs: images through the encoder for each tagged image, counted by hand."""

from __future__ import annotations

import pytest

from harness.contract import Build, passes

WARM, LATER = 0, 6
#: Each view and its mirror image, by area.
VIEWS = 2 * (1 + 0.5**2 + 1.5**2)


@pytest.mark.parametrize("name", ["cam", "afa", "u2plplus", "u2plplus on cam"])
def test_passes_are_those_of_the_algorithm(name: str, build: Build) -> None:
    method, batch = build(name, data_crop=64)
    assert passes(method, batch, WARM) == (1, 0)
    assert passes(method, batch, LATER) == (1, VIEWS)


def test_a_view_that_is_padded_counts_with_its_padding(build: Build) -> None:
    """Sides of 32, 16 and 48 pixels, which this encoder's divisor of 32 makes 32, 32 and 64."""
    assert passes(*build("afa", data_crop=32), LATER) == (1, 2 * (1 + 1 + 4))
