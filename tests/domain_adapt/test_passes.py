"""What a step costs: images through the encoders for each source image, counted by hand."""

from __future__ import annotations

import pytest

from harness.contract import Build, passes

WARM, LATER = 0, 5


@pytest.mark.parametrize(
    ("name", "warm", "later"),
    [
        ("source_only", (1, 0), (1, 0)),
        # source and mixed | the teacher on the target, the pretrained encoder on the source
        ("daformer", (2, 2), (2, 2)),
        ("daformer without distance", (2, 1), (2, 1)),
        # | and the teacher on source and mixed
        ("u2plplus", (2, 2), (2, 4)),
    ],
)
def test_passes_are_those_of_the_algorithm(
    name: str, warm: tuple[int, int], later: tuple[int, int], build: Build
) -> None:
    method, batch = build(name)
    assert passes(method, batch, WARM) == warm
    assert passes(method, batch, LATER) == later
