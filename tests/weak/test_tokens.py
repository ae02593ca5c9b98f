"""Methods on a Vision Transformer: those that need no affinity of Mix Transformers."""

from __future__ import annotations

import pytest

from harness.contract import Build
from harness.tokens import NETWORK, OnTokens
from u2pl.errors import UserError
from u2pl_ws.app import APP


class TestOnTokens(OnTokens):
    app = APP
    variants = ("u2plplus on cam",)
    elsewhere = frozenset({"afa", "u2plplus"})


@pytest.mark.parametrize("name", ["afa", "u2plplus"])
def test_an_affinity_of_tokens_or_of_a_frozen_encoder_is_refused(name: str, build: Build) -> None:
    with pytest.raises(UserError, match=r"network\.encoder=mit_b1.*method\.host=cam") as caught:
        build(name, **NETWORK)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"freeze_encoder=true leaves the affinity.*host=cam"):
        build(name, network_freeze_encoder="true")
