from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d, GroupNorm1, LayerNorm2d
from torch import nn

from harness.fixtures import cases
from u2pl.methods.method import Method, MethodConfig
from u2pl.methods.step import StepResult
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.schedules import Progress, linear_warmup
from u2pl.training import optimizer as optimizer_module
from u2pl.training.checkpoint import load_checkpoint, save_checkpoint
from u2pl.training.config import TrainConfig
from u2pl.training.optimizer import build_optimizer, set_learning_rate


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.decoder = nn.Linear(2, 2)
        self.my_encoder_head = nn.Linear(2, 2)  # a name that only looks like the encoder's


class Plain(Method):
    """A method that is never run."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__(MethodConfig(), student, 3)

    def forward(self, batch: Any, progress: Progress) -> StepResult:
        raise NotImplementedError


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_head_learns_faster_and_the_rate_follows_the_step(
    kind: Literal["sgd", "adamw"],
) -> None:
    method = Plain(Student())
    method.teacher = nn.Linear(2, 2).requires_grad_(False)
    config = TrainConfig(optimizer=kind, lr=0.016, batch=4, reference_batch=16, head_lr_factor=10)
    optimizer = build_optimizer(method, config)
    encoder, head = optimizer.param_groups
    assert [id(p) for p in encoder["params"]] == [
        id(p) for p in method.student.encoder.parameters()
    ]
    assert len(head["params"]) == 4
    assert (encoder["lr"], head["lr"]) == pytest.approx((0.004, 0.04))
    assert set_learning_rate(optimizer, config, 50, 100) == pytest.approx(0.004 * 0.5**0.9)
    assert (encoder["lr"], head["lr"]) == pytest.approx((0.004 * 0.5**0.9, 0.04 * 0.5**0.9))


def test_a_step_moves_only_what_is_trained() -> None:
    method = Plain(Student())
    method.teacher = nn.Linear(2, 2).requires_grad_(False)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimizer = build_optimizer(method, TrainConfig(lr=1.0))
    for value in method.student.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()
    moved = {
        name for name, value in method.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {name for name in before if name.startswith("student.")}


class Normalised(nn.Module):
    """Norms of every kind in both parts, by other names; and a convolution called `norm`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 1), BatchNormAct2d(4), LayerNorm2d(4), nn.LayerNorm(4)
        )
        self.norm = nn.Conv2d(4, 4, 1)
        self.decoder = nn.Sequential(
            nn.BatchNorm2d(4),
            nn.SyncBatchNorm(4),
            nn.GroupNorm(2, 4),
            GroupNorm1(4),
            nn.Linear(4, 2),
        )


def named_groups(method: Method, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    names = {
        id(parameter): name.removeprefix("student.")
        for name, parameter in method.named_parameters()
    }
    return [
        [names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups
    ]


ENCODER = [
    f"encoder.{part}"
    for part in (
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "2.weight",
        "2.bias",
        "3.weight",
        "3.bias",
    )
]
HEAD = [
    "norm.weight",
    "norm.bias",
    *[f"decoder.{layer}.{kind}" for layer in range(5) for kind in ("weight", "bias")],
]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_decaying_norms_are_in_the_two_groups_with_everything_else(
    kind: Literal["sgd", "adamw"],
) -> None:
    method = Plain(Normalised())
    optimizer = build_optimizer(method, TrainConfig(optimizer=kind, weight_decay=0.01))
    assert named_groups(method, optimizer) == [ENCODER, HEAD]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.01]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_norms_that_do_not_decay_are_found_by_their_type(kind: Literal["sgd", "adamw"]) -> None:
    method = Plain(Normalised())
    config = TrainConfig(
        optimizer=kind, lr=0.1, head_lr_factor=10, weight_decay=0.01, norm_decay=False
    )
    optimizer = build_optimizer(method, config)
    assert named_groups(method, optimizer) == [
        ENCODER[:2],
        ENCODER[2:],
        [*HEAD[:2], *HEAD[-2:]],
        HEAD[2:-2],
    ]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0, 0.01, 0.0]
    set_learning_rate(optimizer, config, 0, 10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.1, 1.0, 1.0])


def test_without_a_gradient_only_what_decays_shrinks() -> None:
    method = Plain(Normalised())
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    optimizer = build_optimizer(method, TrainConfig(lr=0.1, weight_decay=0.5, norm_decay=False))
    for value in method.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    shrunk = {
        name.removeprefix("student.")
        for name, value in method.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert shrunk == {*ENCODER[:2], *HEAD[:2], *HEAD[-2:]}


def test_a_network_without_norms_has_two_groups_either_way() -> None:
    method = Plain(Student())
    sizes = [
        [len(g["params"]) for g in build_optimizer(method, TrainConfig(norm_decay=d)).param_groups]
        for d in (True, False)
    ]
    assert sizes == [[2, 4], [2, 4]]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("norm_decay", [True, False])
def test_a_saved_state_goes_on_exactly(
    kind: Literal["sgd", "adamw"], norm_decay: bool, tmp_path: Path
) -> None:
    config = TrainConfig(optimizer=kind, norm_decay=norm_decay)

    def fresh() -> tuple[Method, torch.optim.Optimizer]:
        method = Plain(Normalised())
        return method, build_optimizer(method, config)

    def step(method: Method, optimizer: torch.optim.Optimizer, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for value in method.parameters():
            value.grad = torch.randn(value.shape, generator=draw)
        optimizer.step()

    first, second = fresh(), fresh()
    step(*first, 0)
    save_checkpoint(tmp_path, *first, {})
    load_checkpoint(tmp_path, *second)
    for run in (first, second):
        step(*run, 1)
    for name, value in first[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name]), name


def rates(total: int, **train: Any) -> list[float]:
    config = TrainConfig(batch=16, **train)
    optimizer = build_optimizer(Plain(Student()), config)
    return [set_learning_rate(optimizer, config, step, total) for step in range(total)]


@pytest.fixture
def fixture(shared: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """Numbers of schedules; a warm-up starts at the share that they start at."""
    z = np.load(shared("fixtures/schedules.npz"))
    warmup = partial(linear_warmup, start=float(z["cfg_warmup_ratio"]))
    monkeypatch.setattr(optimizer_module, "linear_warmup", warmup)
    return z


def test_the_rate_warms_up_as_in_the_fixture(fixture: Mapping[str, Any]) -> None:
    base, total = float(fixture["cfg_daformer_base"]), int(fixture["cfg_daformer_total"])
    warmup = int(fixture["cfg_daformer_warmup"]) / total
    found, expected = (
        rates(total, lr=base, poly_power=1.0, warmup=warmup),
        fixture["out_daformer_lr_formula"],
    )
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-5, atol=1e-9 * base)


def test_the_rates_of_both_parts_are_those_of_the_fixture(fixture: Mapping[str, Any]) -> None:
    """AFA's are, times the decay, which AFA leaves out during its warm-up."""
    base, total = float(fixture["cfg_afa_base"]), int(fixture["cfg_afa_total"])
    warmup, step = int(fixture["cfg_afa_warmup"]), np.arange(len(fixture["out_afa_lr"]))
    decay = np.where(step < warmup, 1 - step / total, 1.0)
    for factor in cases(fixture, r"out_afa_lr_x(\d+)"):
        options = {"lr": base, "head_lr_factor": float(factor), "warmup": warmup / total}
        config = TrainConfig(batch=16, poly_power=1.0, **options)
        optimizer = build_optimizer(Plain(Student()), config)
        found = []
        for i in step.tolist():
            set_learning_rate(optimizer, config, i, total)
            found.append([group["lr"] for group in optimizer.param_groups])
        expected = np.stack([fixture["out_afa_lr"], fixture[f"out_afa_lr_x{factor}"]])
        limit = 1e-9 * expected.max()
        np.testing.assert_allclose(np.transpose(found), decay * expected, rtol=1e-5, atol=limit)


def test_without_warmup_the_rate_is_the_plain_formula() -> None:
    assert rates(50, lr=0.02, poly_power=0.9) == [
        0.02 * (1 - step / 50) ** 0.9 for step in range(50)
    ]


def test_the_warmup_is_a_rounded_share_of_the_run() -> None:
    found = rates(40, lr=1.0, poly_power=0.0, warmup=0.0375 * 3)  # 4.5 steps
    assert [rate == 1.0 for rate in found[:6]] == [False] * 4 + [True] * 2
    assert (
        found[0] == pytest.approx(1e-6)
        and rates(3, lr=1.0, poly_power=0.0, warmup=0.0375) == [1.0] * 3
    )


def tokens(**options: Any) -> Method:
    torch.manual_seed(0)
    config = NetworkConfig(
        decoder="dpt", encoder="test_vit", encoder_weights="none", width=8, **options
    )
    return Plain(build_segmentor(config, 3))


@pytest.mark.parametrize("norm_decay", [True, False])
def test_the_encoder_s_rate_decays_from_block_to_block(norm_decay: bool) -> None:
    method = tokens()
    config = TrainConfig(
        lr=0.16, batch=16, head_lr_factor=10, layer_decay=0.5, norm_decay=norm_decay
    )
    optimizer = build_optimizer(method, config)
    names = named_groups(method, optimizer)
    assert sum(map(len, names)) == len([*method.parameters()])
    set_learning_rate(optimizer, config, 0, 10)
    rates = {
        name.removeprefix("encoder.model."): group["lr"]
        for group, group_names in zip(optimizer.param_groups, names, strict=True)
        for name in group_names
    }
    for name, rate in rates.items():
        if name.startswith("blocks."):
            expected = 0.16 * 0.5 ** (6 - int(name.split(".")[1]))
        elif name.startswith(("cls_token", "pos_embed", "patch_embed")):
            expected = 0.16 * 0.5**7
        elif name.startswith("norm."):
            expected = 0.16
        else:
            expected = 1.6
        assert rate == pytest.approx(expected), name


def test_without_decay_or_with_a_frozen_encoder_there_are_no_more_groups() -> None:
    (encoder, head), (alone,) = (
        build_optimizer(method, TrainConfig()).param_groups
        for method in (tokens(), tokens(freeze_encoder=True))
    )
    assert len(head["params"]) == len(alone["params"]) and len(encoder["params"]) > 70
    frozen = tokens(freeze_encoder=True)
    (other,) = build_optimizer(frozen, TrainConfig(layer_decay=0.5)).param_groups
    assert other["lr"] == alone["lr"] and TrainConfig().rates(True).startswith("0 for the encoder")
