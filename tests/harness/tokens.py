"""What every method must do on a Vision Transformer, trained or frozen, as on any other encoder."""

from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch

from harness.contract import (
    TOTAL,
    Build,
    assert_equal,
    optimizer_of,
    states,
    steps,
    trained,
)
from harness.methods import EveryMethod
from harness.tiny import Options
from u2pl.memory.teacher import Teacher
from u2pl.methods.discovery import method_names
from u2pl.networks.encoder import Encoder
from u2pl.schedules import Progress
from u2pl.training.checkpoint import load_checkpoint, save_checkpoint

#: A network of tokens.
NETWORK: Options = {
    "network_encoder": "test_vit",
    "network_decoder": "dpt",
    "network_output_stride": 32,
    "network_width": 8,
}


class OnTokens(EveryMethod):
    """Needs a fixture `build`."""

    #: Methods that need another encoder.
    elsewhere: ClassVar[frozenset[str]] = frozenset()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Every method and variant but those that need another encoder."""
        names = {*method_names(self.app.methods), *self.variants} - self.elsewhere
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", sorted(names))

    @pytest.mark.parametrize("decoder", ["dpt", "linear"])
    def test_a_step_trains_the_whole_network(self, name: str, decoder: str, build: Build) -> None:
        method, batch = build(name, **{**NETWORK, "network_decoder": decoder})
        for step in (0, 5):
            method.zero_grad()
            result = method(batch, Progress(step, TOTAL))
            result.loss.backward()
            assert result.loss.isfinite()
            values = trained(method).items()
            assert all(v.grad is not None and v.grad.isfinite().all() for _, v in values)
        assert any(v.grad.any() for k, v in values if k.startswith("student.encoder."))

    def test_a_frozen_encoder_stays_as_it_is_and_keeps_nothing(
        self, name: str, build: Build
    ) -> None:
        method, batch = build(name, **NETWORK, network_freeze_encoder="true")
        student = method.student
        before = copy.deepcopy(student.encoder.state_dict())
        heads = {id(value) for value in student.head_parameters()}
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda value: kept.append(value) or value,  # type: ignore[func-returns-value]
            lambda value: value,
        ):
            maps = student.encode(batch[0])
        assert not kept and not any(each.requires_grad for each in maps)

        optimizer = optimizer_of(method)
        optimized = {id(value) for group in optimizer.param_groups for value in group["params"]}
        assert heads <= optimized and not optimized & {id(v) for v in student.encoder.parameters()}
        weights = {key: value.clone() for key, value in trained(method).items()}
        steps(method, batch, 0, 7, optimizer)
        assert not any(part.training for part in student.encoder.modules())
        assert_equal(dict(student.encoder.state_dict()), dict(before))
        assert any(not torch.equal(value, weights[key]) for key, value in trained(method).items())
        encoders = {part for part in method.modules() if isinstance(part, Encoder)}
        assert encoders == {student.encoder}  # of all networks
        for part in method.modules():
            if isinstance(part, Teacher):
                assert part.network.encoder is student.encoder

    def test_the_state_of_a_frozen_one_is_whole(
        self, name: str, build: Build, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        frozen = {**NETWORK, "network_freeze_encoder": "true"}
        (method, batch), (other, _) = build(name, **frozen), build(name, seed=1, **frozen)
        optimizer, its = optimizer_of(method), optimizer_of(other)
        steps(method, batch, 0, 4, optimizer)
        folder = tmp_path_factory.mktemp("frozen")
        save_checkpoint(folder, method, optimizer, {})
        load_checkpoint(folder, other, its)
        for made, update in ((method, optimizer), (other, its)):
            steps(made, batch, 4, 6, update)
        assert_equal(states(other, its), states(method, optimizer))
