"""An encoder with attention that is small enough for tests."""

from __future__ import annotations

from u2pl.networks.encoders import mit

NAME = "mit_test"
VARIANT = mit.Variant((1, 1, 1, 2), (8, 16, 20, 32), "none")


def register() -> None:
    """Make it known to this process, for as long as it lives."""
    mit.VARIANTS[NAME] = VARIANT
