from __future__ import annotations

import pytest

from u2pl.counting import amount, duration


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (5_760, "6 kB"),
        (58_880_000, "58.9 MB"),
        (665_600_000, "665.6 MB"),
        (2_500_000_000, "2.5 GB"),
    ],
)
def test_bytes_for_people(size: int, text: str) -> None:
    assert amount(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89.0, "89 s"), (90.0, "1.5 min"), (5_400.0, "1.5 h"), (200_000.0, "2.3 days")],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
