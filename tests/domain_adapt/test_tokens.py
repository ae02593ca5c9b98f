"""Every method on a Vision Transformer, with its distance to the pretrained features."""

from __future__ import annotations

from harness.contract import TOTAL, Build, assert_equal, optimizer_of, steps
from harness.tokens import NETWORK, OnTokens
from u2pl.schedules import Progress
from u2pl_da.app import APP


class TestOnTokens(OnTokens):
    app = APP


def test_the_distance_is_that_of_the_tokens_to_those_before_training(build: Build) -> None:
    method, batch = build("daformer", **NETWORK)
    method.eval()
    first = method(batch, Progress(0, TOTAL)).scalars["loss/distance"]
    assert first == 0  # nothing has moved
    steps(method.train(), batch, 0, 4, optimizer_of(method))
    assert method.eval()(batch, Progress(4, TOTAL)).scalars["loss/distance"] > 0
    before = build("daformer", **NETWORK)[0].student.encoder.state_dict()
    assert_equal(dict(method.imagenet.encoder.state_dict()), dict(before))


def test_without_a_trained_encoder_there_is_no_distance(build: Build) -> None:
    method, batch = build("daformer", **NETWORK, network_freeze_encoder="true")
    assert method.imagenet is None
    assert "loss/distance" not in method(batch, Progress(0, TOTAL)).scalars
