"""What every method of every app must keep."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.methods import EveryMethod
from u2pl.evaluate.inference import evaluating
from u2pl.methods.discovery import load_method, method_names
from u2pl.methods.method import Method, Passes
from u2pl.methods.step import StepResult
from u2pl.mixing.mixers import Mixer
from u2pl.networks.segmentor import Segmentor
from u2pl.run.presets import recipe_path
from u2pl.run.recipe import resolve
from u2pl.schedules import Progress
from u2pl.training.checkpoint import load_checkpoint, save_checkpoint
from u2pl.training.config import TrainConfig
from u2pl.training.optimizer import build_optimizer

TOTAL = 10
#: The warm start of a method that has one is its first three steps.
WARM_START = 0.3
#: The only numbers that may be NaN: how right pseudo-labels are is not known where no unlabelled
#: image has a mask.
MAYBE_NAN = ("accuracy/",)

#: A method with a tiny network and a warm start of 0.3, and a batch of 2 + 2 images.
Build = Callable[..., tuple[Method[Any], Any]]


def steps(
    method: Method[Any], batch: Any, start: int, stop: int, optimizer: torch.optim.Optimizer
) -> StepResult:
    """Train on one batch; returns the last step's result and keeps its gradients."""
    for step in range(start, stop):
        optimizer.zero_grad()
        torch.manual_seed(step)
        progress = Progress(step, TOTAL)
        result = method(batch, progress)
        result.loss.backward()
        optimizer.step()
        method.after_step(progress)
    return result


def optimizer_of(method: Method[Any]) -> torch.optim.Optimizer:
    return build_optimizer(method, TrainConfig(optimizer="adamw"))


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a module is trained in: those that require a gradient."""
    return {key: value for key, value in module.named_parameters() if value.requires_grad}


def passes(method: Method[Any], batch: Any, step: int) -> Passes:
    """Images that pass through the encoders in a step, for each labelled image of the batch."""
    images, _, height, width = batch[0].shape
    return method.count_passes(batch, Progress(step, TOTAL), images * height * width)


def constants(method: Method[Any]) -> dict[str, Tensor]:
    """The buffers that are no part of the state."""
    saved = method.state_dict().keys()
    return {key: value for key, value in method.named_buffers() if key not in saved}


class Watched:
    """A method that is trained for a while, and what was seen of it; no test may change it.

    Args:
        method: to be trained.
        batch: what it is trained on.
        folder: where its state is kept.
    """

    #: Steps whose gradients are kept: the first, the warm start's last, the first after it, a late
    #: one.
    LOOKED_AT = (0, 2, 3, 7)
    #: The state is kept before the first of these steps, and once more, in memory, after the last.
    BETWEEN = (5, 6)

    def __init__(self, method: Method[Any], batch: Any, folder: Path) -> None:
        self.method, self.batch, self.folder = method, batch, folder
        self.images = [tensor.clone() for tensor in batch]
        self.networks = method.networks()
        self.weights = {
            role: [value.clone() for value in network.parameters()]
            for role, network in self.networks.items()
        }
        self.students, optimizer = trained(method), optimizer_of(method)
        self.optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.results: list[StepResult] = []
        self.gradients: dict[int, dict[str, Tensor]] = {}
        self.states: list[Any] = []
        for step in range(max(self.LOOKED_AT) + 1):
            if step == self.BETWEEN[0]:
                save_checkpoint(folder, method, optimizer, {"step": step})
                self.states.append(states(method, optimizer))
            self.results.append(steps(method, batch, step, step + 1, optimizer))
            if step == self.BETWEEN[1]:
                self.states.append(states(method, optimizer))
            if step in self.LOOKED_AT:
                self.gradients[step] = {
                    key: value.grad.clone()
                    for key, value in method.named_parameters()
                    if value.grad is not None
                }


class Unread(TorchDispatchMode):
    """Inside, an operation whose result's shape or value the host has to know is an error."""

    READS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "_unique",
        "unique",
        "is_nonzero",
        "equal",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not name.startswith(self.READS), name
        if name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple)):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "index by a mask"
        return func(*args, **(kwargs or {}))


def states(method: Method[Any], optimizer: torch.optim.Optimizer) -> Any:
    """All that a checkpoint holds."""
    return copy.deepcopy((method.state_dict(), optimizer.state_dict()))


class MethodContract(EveryMethod):
    """Needs a fixture `build`.

    What a method trains is whatever requires a gradient: one student or two, or a head beside them.
    """

    #: Classes that numbers of each class leave out: 1 if the background is none.
    unlogged: ClassVar[int] = 0

    def spoilt(self, batch: Any) -> dict[str, Any]:
        """The batch without anything to learn from, in one way or another."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def watch(
        cls, build: Build, tmp_path_factory: pytest.TempPathFactory
    ) -> Callable[[str], Watched]:
        """A method that is trained once for all tests."""
        return cache(lambda name: Watched(*build(name), tmp_path_factory.mktemp("state")))

    def test_losses_are_finite_and_gradients_reach_all_that_is_trained_and_nothing_else(
        self, name: str, watch: Callable[[str], Watched]
    ) -> None:
        run = watch(name)
        assert run.students
        assert run.optimized == {id(value) for value in run.students.values()}
        assert trained(run.method).keys() == run.students.keys()
        for result in run.results:
            assert result.loss.dim() == 0
            assert result.loss.isfinite()
        for step, gradients in run.gradients.items():
            # DDP waits for each of them, and for no other
            assert gradients.keys() == run.students.keys(), step
            assert all(gradient.isfinite().all() for gradient in gradients.values()), step
            assert any(gradient.any() for gradient in gradients.values()), step
        late = {id(run.students[key]) for key, value in gradients.items() if value.any()}
        for role, network in run.networks.items():
            own = {id(value) for value in trained(network).values()}
            assert not own or own & late, role

    def test_what_is_logged_is_detached_and_finite(
        self, name: str, watch: Callable[[str], Watched]
    ) -> None:
        run = watch(name)
        for result in run.results:
            assert any(key.startswith("loss/") for key in result.scalars)
            for key, value in result.scalars.items():
                if isinstance(value, Tensor):
                    assert not value.requires_grad, key
                    assert value.shape in ((), (run.method.num_classes - self.unlogged,)), key
                if not key.startswith(MAYBE_NAN):
                    assert torch.as_tensor(value).isfinite().all(), key

    def test_networks_are_trained_or_follow_and_what_follows_takes_no_gradient(
        self, name: str, watch: Callable[[str], Watched]
    ) -> None:
        run = watch(name)
        assert isinstance(next(iter(run.networks.values())), Segmentor)  # the result, which is kept
        assert any(trained(network) for network in run.networks.values())
        now = run.method.networks()
        assert list(now) == list(run.networks)
        for role, network in run.networks.items():
            assert now[role] is network
            both = zip(run.weights[role], network.parameters(), strict=True)
            assert any(not torch.equal(a, b) for a, b in both), role
            assert network.training == bool(trained(network)), role
            if not trained(network):
                assert all(value.grad is None for value in network.parameters()), role

    def test_a_method_does_not_change_its_batch(
        self, name: str, watch: Callable[[str], Watched]
    ) -> None:
        run = watch(name)
        assert all(torch.equal(a, b) for a, b in zip(run.images, run.batch, strict=True))

    def test_the_state_survives_a_checkpoint_and_leads_to_the_same_next_steps(
        self, name: str, build: Build, watch: Callable[[str], Watched]
    ) -> None:
        run, (other, _) = watch(name), build(name, seed=1)
        # what is not saved has not moved, and does not depend on the seed
        assert_equal(constants(run.method), constants(other))
        first, last = run.BETWEEN
        optimizer = optimizer_of(other)
        assert load_checkpoint(run.folder, other, optimizer).facts == {"step": first}
        assert_equal(states(other, optimizer), run.states[0])
        for step in range(first, last + 1):
            result = steps(other, run.batch, step, step + 1, optimizer)
            assert_equal(result.scalars, run.results[step].scalars)
            assert_equal(result.loss.detach(), run.results[step].loss.detach())
        assert_equal(states(other, optimizer), run.states[1])

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
                    for value in trained(method).values()
                ), what

    def test_a_step_reads_nothing_back_from_the_device(
        self, name: str, build: Build, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a GPU each such operation would wait until all work before it is done."""
        monkeypatch.setattr(Mixer, "mixes", lambda *_: True)  # a coin of the host's own
        method, batch = build(name)
        for step in (0, 5, 9):
            with Unread():
                result = method(batch, Progress(step, TOTAL))
                result.loss.backward()

    def test_what_it_makes_of_images_can_be_looked_at_and_changes_nothing(
        self, name: str, build: Build
    ) -> None:
        method, batch = build(name)
        before = copy.deepcopy(method.state_dict())
        image, tags = batch[0], getattr(batch, "tags", None)
        valid = torch.ones(len(image), *image.shape[-2:], dtype=torch.bool)
        valid[:, :, 20:] = False
        for step in (0, 9):
            with evaluating([method]):
                maps = method.explain(image, valid, tags, Progress(step, TOTAL))
            assert "entropy" in maps
            assert "label" in maps or not method.uses_unlabeled
            for value in maps.values():
                assert value.shape == valid.shape
                assert not value.requires_grad
                if value.dtype == torch.bool:
                    assert not value[~valid].any()  # padding is never marked
                elif value.dtype == torch.uint8:
                    assert ((value < method.num_classes) | (value == 255)).all()
                else:
                    assert ((value >= 0) & (value <= 1 + 1e-5)).all()
        assert_equal(method.state_dict(), before)
        assert all(module.training for module in method.student.modules())

    def test_every_recipe_suits_every_method(self, method: str, recipe: str) -> None:
        kind = load_method(f"{self.app.package}.methods", self.app.methods, method)
        path, sections = recipe_path(self.app.recipes, recipe), self.app.sections
        _, options = resolve(path, kind.Config, sections=sections)
        assert options.model_dump().keys() == kind.Config.model_fields.keys()

    def test_a_method_s_file_says_what_it_is(self, method: str) -> None:
        kind = load_method(f"{self.app.package}.methods", self.app.methods, method)
        assert len(method_names(self.app.methods)[method]) > 10
        assert kind.Config.model_config.get("extra") == "forbid"
        assert all(field.description for field in kind.Config.model_fields.values())


class RecipeContract(EveryMethod):
    """What the recipes of an app must keep."""

    def test_every_method_option_of_a_recipe_is_known_to_some_method(self, recipe: str) -> None:
        kinds = [
            load_method(f"{self.app.package}.methods", self.app.methods, name)
            for name in method_names(self.app.methods)
        ]
        known = {key for kind in kinds for key in kind.Config.model_fields}
        path = recipe_path(self.app.recipes, recipe)
        assert set(tomllib.loads(path.read_text()).get("method", {})) <= known
        assert path.read_text().startswith("# ")  # `presets` prints the header


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
