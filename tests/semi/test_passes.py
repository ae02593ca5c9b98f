"""What a step costs: images through the encoders for each labelled image, counted by hand."""

from __future__ import annotations

import pytest

from harness.contract import Build, passes

WARM, LATER = 0, 5


@pytest.mark.parametrize(
    ("name", "mixing", "warm", "later"),
    [
        ("suponly", None, (1, 0), (1, 0)),
        ("mean_teacher", None, (1, 0), (2, 1)),  # labelled and unlabelled | unlabelled
        ("cutmix", None, (1, 0), (2, 1)),
        ("u2pl", 1.0, (1, 0), (2, 3)),  # labelled and mixed | unlabelled, then labelled and mixed
        ("u2plplus", 1.0, (1, 0), (2, 3)),
        ("u2pl", 0.0, (1, 0), (2, 2)),  # | unlabelled, then labelled
        ("fixmatch", None, (1, 0), (2, 1)),
        ("augseg", None, (1, 0), (2, 1)),
        ("ael", None, (1, 0), (2, 1)),
        ("fixmatch weighted", None, (1, 0), (2, 2)),  # | labelled and unlabelled
        ("u2plplus weighted", 1.0, (1, 0), (2, 3)),  # | labelled and unlabelled, then mixed
        ("u2plplus weighted", 0.0, (1, 0), (2, 2)),
        ("unimatch weighted", None, (4, 0), (4, 0)),
        ("unimatch", None, (4, 0), (4, 0)),  # labelled and clean, two strong views
        ("unimatch_v2", None, (1, 0), (3, 1)),  # two strong views, labelled | unlabelled
        ("unimatch_v2 weighted", None, (1, 0), (3, 2)),
        ("esl", None, (1, 0), (2, 3)),
        ("cps", None, (4, 0), (4, 0)),  # labelled and unlabelled, by two students
        ("u2plplus", 0.0, (1, 0), (2, 2)),
    ],
)
def test_passes_are_those_of_the_algorithm(
    name: str,
    mixing: float | None,
    warm: tuple[int, int],
    later: tuple[int, int],
    build: Build,
) -> None:
    options = {} if mixing is None else {"method_mix.probability": mixing}
    method, batch = build(name, **options)
    assert passes(method, batch, WARM) == warm
    assert passes(method, batch, LATER) == later
