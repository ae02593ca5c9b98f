"""What every method must keep; each file of the methods folder is enrolled by existing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from u2pl.batches import PairBatch
from u2pl.cli.config import recipe_path, resolve
from u2pl.cli.discovery import load_method, method_names
from u2pl.method import Method
from u2pl.outputs import StepResult
from u2pl.schedules import Progress
from u2pl.train.checkpoint import load_checkpoint, save_checkpoint
from u2pl.train.config import TrainConfig
from u2pl.train.optimizer import build_optimizer
from u2pl_semi.app import APP
from u2pl_semi.planning import SemiRequest, make_plan

METHODS = sorted(method_names(APP.methods))
TOTAL = 10
#: The only numbers that may be NaN: how right pseudo-labels are is not known where no unlabelled image has a mask.
MAYBE_NAN = ("accuracy/",)

Build = Callable[..., tuple[Method, PairBatch]]


@pytest.fixture
def build(folder: Path, tiny: Callable[..., list[str]]) -> Build:
    """A method with a tiny network, and a batch of 2 + 2 images."""

    def make(name: str, seed: int = 0) -> tuple[Method, PairBatch]:
        options = tuple(tiny(name, **({} if name == "suponly" else {"method_warm_start": 0.3}))[1::2])
        plan = make_plan(APP, SemiRequest(name, "demo", options, TOTAL, seed, data=str(folder)))
        dataset = plan.build_dataset()
        return plan.build_method().train(), default_collate([dataset[index] for index in range(2)])

    return make


def steps(method: Method, batch: PairBatch, start: int, stop: int, optimizer: torch.optim.Optimizer) -> StepResult:
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


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_finite_and_gradients_reach_every_parameter_of_the_student_alone(name: str, build: Build) -> None:
    method, batch = build(name)
    optimizer = optimizer_of(method)
    for start, stop in ((0, 1), (1, 3), (3, 4), (4, 8)):  # the first step, the warm start's last, the first after it, a later one
        result = steps(method, batch, start, stop, optimizer)
        assert result.loss.dim() == 0
        assert result.loss.isfinite()
        students = dict(method.student.named_parameters())
        assert [key for key, value in students.items() if value.grad is None] == []  # DDP waits for each of them
        assert sum(float(value.grad.abs().sum()) for value in students.values() if value.grad is not None) > 0
        assert all(value.grad.isfinite().all() for value in students.values() if value.grad is not None)
        own = {id(value) for value in students.values()}
        assert [
            key for key, value in method.named_parameters() if id(value) not in own and (value.requires_grad or value.grad is not None)
        ] == []


@pytest.mark.parametrize("name", METHODS)
def test_what_is_logged_is_detached_and_finite(name: str, build: Build) -> None:
    method, batch = build(name)
    result = steps(method, batch, 0, 6, optimizer_of(method))
    assert any(key.startswith("loss/") for key in result.scalars)
    for key, value in result.scalars.items():
        if isinstance(value, Tensor):
            assert not value.requires_grad, key
            assert value.shape in ((), (method.num_classes,)), key
        if not key.startswith(MAYBE_NAN):
            assert torch.as_tensor(value).isfinite().all(), key


@pytest.mark.parametrize("name", METHODS)
def test_the_state_survives_a_checkpoint_and_leads_to_the_same_next_step(name: str, build: Build, tmp_path: Path) -> None:
    method, batch = build(name)
    optimizer = optimizer_of(method)
    steps(method, batch, 0, 5, optimizer)
    save_checkpoint(tmp_path, method, optimizer, {"step": 5})

    other, _ = build(name, seed=1)
    other_optimizer = optimizer_of(other)
    assert load_checkpoint(tmp_path, other, other_optimizer) == {"step": 5}
    for one, two in ((method, other), (optimizer, other_optimizer)):
        assert_equal(one.state_dict(), two.state_dict())

    ours, theirs = steps(method, batch, 5, 7, optimizer), steps(other, batch, 5, 7, other_optimizer)
    assert_equal(dict(ours.scalars), dict(theirs.scalars))
    assert_equal(method.state_dict(), other.state_dict())
    saved = set(method.state_dict())
    assert not [key for key, _ in method.named_buffers() if key not in saved and not key.endswith((".mean", ".std", ".length", ".start"))]


@pytest.mark.parametrize("name", METHODS)
def test_networks_are_named_and_the_teacher_takes_no_gradient(name: str, build: Build) -> None:
    method, batch = build(name)
    networks = method.networks()
    assert networks["student"] is method.student
    before = {role: [value.clone() for value in network.parameters()] for role, network in networks.items()}
    steps(method, batch, 0, 6, optimizer_of(method))
    for role, network in networks.items():
        assert isinstance(network, nn.Module)
        assert any(not torch.equal(a, b) for a, b in zip(before[role], network.parameters(), strict=True)), role
        if role != "student":
            assert not network.training, role
            assert all(value.grad is None and not value.requires_grad for value in network.parameters()), role


@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_not_change_its_batch(name: str, build: Build) -> None:
    method, batch = build(name)
    before = [tensor.clone() for tensor in batch]
    steps(method, batch, 0, 5, optimizer_of(method))
    assert all(torch.equal(a, b) for a, b in zip(before, batch, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_a_label_or_a_valid_pixel_gives_a_finite_loss(name: str, build: Build) -> None:
    method, batch = build(name)
    empty = batch._replace(
        label_l=torch.full_like(batch.label_l, 255), valid_u=torch.zeros_like(batch.valid_u), truth_u=torch.full_like(batch.truth_u, 255)
    )
    for step in (0, 5):
        result = method(empty, Progress(step, TOTAL))
        result.loss.backward()
        assert result.loss.isfinite()
        assert all(value.grad is not None and value.grad.isfinite().all() for value in method.student.parameters())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("recipe", sorted(path.stem for path in APP.recipes.glob("*.toml")))
def test_every_recipe_suits_every_method(name: str, recipe: str) -> None:
    kind = load_method(f"{APP.package}.methods", APP.methods, name)
    assert resolve(recipe_path(APP.recipes, recipe), kind.Config).dump()["method"].keys() == kind.Config.model_fields.keys()


@pytest.mark.parametrize("recipe", sorted(path.stem for path in APP.recipes.glob("*.toml")))
def test_every_method_option_of_a_recipe_is_known_to_some_method(recipe: str) -> None:
    import tomllib

    known = {key for name in METHODS for key in load_method(f"{APP.package}.methods", APP.methods, name).Config.model_fields}
    path = recipe_path(APP.recipes, recipe)
    assert set(tomllib.loads(path.read_text()).get("method", {})) <= known
    assert path.read_text().startswith("# ")  # `presets` prints the header


@pytest.mark.parametrize("name", METHODS)
def test_a_method_s_file_says_what_it_is(name: str) -> None:
    kind = load_method(f"{APP.package}.methods", APP.methods, name)
    assert len(method_names(APP.methods)[name]) > 10
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
