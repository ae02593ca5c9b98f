"""A model that predicts in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from u2pl.model.card import Card
from u2pl.model.model import Model
from u2pl.networks.segmentor import Segmentor


@pytest.fixture(scope="session")
def model(tiny: Callable[..., Segmentor], card: Card) -> Model:
    """Knows the classes of `make_folder`, and no data."""
    return Model(tiny(3).eval(), card)
