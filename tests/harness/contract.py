"""What every method of every app must keep."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.methods import EveryMethod
from u2pl.methods.discovery import load_method, method_names
from u2pl.methods.method import Method
from u2pl.methods.step import StepResult
from u2pl.run.recipe import recipe_path, resolve
from u2pl.schedules import Progress
from u2pl.training.checkpoint import load_checkpoint, save_checkpoint
from u2pl.training.config import TrainConfig
from u2pl.training.optimizer import build_optimizer

TOTAL = 10
#: The only numbers that may be NaN: how right pseudo-labels are is not known where no unlabelled image has a mask.
MAYBE_NAN = ("accuracy/",)

#: A method with a tiny network and a warm start of 0.3, and a batch of 2 + 2 images.
Build = Callable[..., tuple[Method, Any]]


def steps(
    method: Method, batch: Any, start: int, stop: int, optimizer: torch.optim.Optimizer
) -> StepResult:
    """Train on one batch; returns the last step's result, whose gradients stay on the parameters."""
    for step in range(start, stop):
        optimizer.zero_grad()
        torch.manual_seed(step)
        progress = Progress(step, TOTAL)
        result = method(batch, progress)
        result.loss.backward()
        optimizer.step()
        method.after_step(progress)
    return result


def optimizer_of(method: Method) -> torch.optim.Optimizer:
    return build_optimizer(method, TrainConfig(optimizer="adamw"))


class MethodContract(EveryMethod):
    """Needs a fixture `build`."""

    #: Endings of buffers that are constants, and so no part of the state.
    constants: ClassVar[tuple[str, ...]] = (".mean", ".std", ".length", ".start")
    #: Beginnings of parameters that are trained beside the student and shared with nobody.
    own_heads: ClassVar[tuple[str, ...]] = ()
    #: Classes that numbers of each class leave out: 1 where the background is none.
    unlogged: ClassVar[int] = 0

    def spoilt(self, batch: Any) -> dict[str, Any]:
        """The batch without anything to learn from, in one way or another."""
        raise NotImplementedError

    def test_losses_are_finite_and_gradients_reach_every_parameter_of_the_student_alone(
        self, name: str, build: Build
    ) -> None:
        method, batch = build(name)
        optimizer = optimizer_of(method)
        students = {f"student.{key}": value for key, value in method.student.named_parameters()}
        students |= {
            key: value for key, value in method.named_parameters() if key.startswith(self.own_heads)
        }
        own = {id(value) for value in students.values()}
        assert {id(value) for group in optimizer.param_groups for value in group["params"]} == own
        for start, stop in (
            (0, 1),
            (1, 3),
            (3, 4),
            (4, 8),
        ):  # the first step, the warm start's last, the first after it, a later one
            result = steps(method, batch, start, stop, optimizer)
            assert result.loss.dim() == 0
            assert result.loss.isfinite()
            assert [
                key for key, value in students.items() if value.grad is None
            ] == []  # DDP waits for each of them
            assert (
                sum(
                    float(value.grad.abs().sum())
                    for value in students.values()
                    if value.grad is not None
                )
                > 0
            )
            assert all(
                value.grad.isfinite().all() for value in students.values() if value.grad is not None
            )
            assert [
                key
                for key, value in method.named_parameters()
                if id(value) not in own and (value.requires_grad or value.grad is not None)
            ] == []

    def test_what_is_logged_is_detached_and_finite(self, name: str, build: Build) -> None:
        method, batch = build(name)
        result = steps(method, batch, 0, 6, optimizer_of(method))
        assert any(key.startswith("loss/") for key in result.scalars)
        for key, value in result.scalars.items():
            if isinstance(value, Tensor):
                assert not value.requires_grad, key
                assert value.shape in ((), (method.num_classes - self.unlogged,)), key
            if not key.startswith(MAYBE_NAN):
                assert torch.as_tensor(value).isfinite().all(), key

    def test_the_state_survives_a_checkpoint_and_leads_to_the_same_next_step(
        self, name: str, build: Build, tmp_path: Path
    ) -> None:
        method, batch = build(name)
        optimizer = optimizer_of(method)
        steps(method, batch, 0, 5, optimizer)
        save_checkpoint(tmp_path, method, optimizer, {"step": 5})

        other, _ = build(name, seed=1)
        other_optimizer = optimizer_of(other)
        assert load_checkpoint(tmp_path, other, other_optimizer) == {"step": 5}
        for one, two in ((method, other), (optimizer, other_optimizer)):
            assert_equal(one.state_dict(), two.state_dict())

        ours, theirs = (
            steps(method, batch, 5, 7, optimizer),
            steps(other, batch, 5, 7, other_optimizer),
        )
        assert_equal(dict(ours.scalars), dict(theirs.scalars))
        assert_equal(method.state_dict(), other.state_dict())
        saved = set(method.state_dict())
        assert not [
            key
            for key, _ in method.named_buffers()
            if key not in saved and not key.endswith(self.constants)
        ]

    def test_networks_are_named_and_the_teacher_takes_no_gradient(
        self, name: str, build: Build
    ) -> None:
        method, batch = build(name)
        networks = method.networks()
        assert networks["student"] is method.student
        before = {
            role: [value.clone() for value in network.parameters()]
            for role, network in networks.items()
        }
        steps(method, batch, 0, 6, optimizer_of(method))
        for role, network in networks.items():
            assert isinstance(network, nn.Module)
            assert any(
                not torch.equal(a, b)
                for a, b in zip(before[role], network.parameters(), strict=True)
            ), role
            if role != "student":
                assert not network.training, role
                assert all(
                    value.grad is None and not value.requires_grad for value in network.parameters()
                ), role

    def test_a_method_does_not_change_its_batch(self, name: str, build: Build) -> None:
        method, batch = build(name)
        before = [tensor.clone() for tensor in batch]
        steps(method, batch, 0, 5, optimizer_of(method))
        assert all(torch.equal(a, b) for a, b in zip(before, batch, strict=True))

    def test_a_batch_with_nothing_to_learn_from_gives_a_finite_loss(
        self, name: str, build: Build
    ) -> None:
        method, batch = build(name)
        for what, spoilt in self.spoilt(batch).items():
            for step in (0, 5):
                method.zero_grad()
                result = method(spoilt, Progress(step, TOTAL))
                result.loss.backward()
                assert result.loss.isfinite(), what
                assert all(
                    value.grad is not None and value.grad.isfinite().all()
                    for value in method.student.parameters()
                ), what

    def test_every_recipe_suits_every_method(self, method: str, recipe: str) -> None:
        kind = load_method(f"{self.app.package}.methods", self.app.methods, method)
        resolved = resolve(
            recipe_path(self.app.recipes, recipe), kind.Config, sections=self.app.sections()
        )
        assert resolved.dump()["method"].keys() == kind.Config.model_fields.keys()

    def test_every_method_option_of_a_recipe_is_known_to_some_method(self, recipe: str) -> None:
        kinds = [
            load_method(f"{self.app.package}.methods", self.app.methods, name)
            for name in method_names(self.app.methods)
        ]
        known = {key for kind in kinds for key in kind.Config.model_fields}
        path = recipe_path(self.app.recipes, recipe)
        assert set(tomllib.loads(path.read_text()).get("method", {})) <= known
        assert path.read_text().startswith("# ")  # `presets` prints the header

    def test_a_method_s_file_says_what_it_is(self, method: str) -> None:
        kind = load_method(f"{self.app.package}.methods", self.app.methods, method)
        assert len(method_names(self.app.methods)[method]) > 10
        assert kind.Config.model_config.get("extra") == "forbid"
        assert all(field.description for field in kind.Config.model_fields.values())


def assert_equal(one: object, two: object) -> None:
    """Nested dicts and lists of tensors and numbers, NaN equal to NaN."""
    if isinstance(one, dict):
        assert isinstance(two, dict)
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert isinstance(two, (list, tuple))
        for a, b in zip(one, two, strict=True):
            assert_equal(a, b)
    elif isinstance(one, Tensor):
        assert isinstance(two, Tensor)
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == two
