from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from u2pl import distributed
from u2pl.errors import UserError
from u2pl.training.guard import FiniteGuard, check_weights


def test_the_first_bad_step_and_all_its_terms_are_named() -> None:
    guard = FiniteGuard()
    for step in range(6):
        bad = float("nan") if step >= 3 else 1.0
        losses = {
            "loss/sup": 1.0 if step < 4 else float("inf"),
            "loss/unsup": bad,
            "loss/contrast": bad,
            "accuracy": float("nan"),
        }
        guard.watch(
            step, {name: torch.tensor(value) for name, value in losses.items()} | {"lr": 1.0}
        )
        if step < 3:
            guard.check()
    with pytest.raises(UserError, match="not finite at step 3: unsup, contrast; lower"):
        guard.check()


def test_a_term_that_appears_late_is_watched_too() -> None:
    guard = FiniteGuard()
    guard.check()
    guard.watch(0, {"loss/sup": torch.tensor(1.0)})
    guard.watch(1, {"loss/sup": torch.tensor(1.0), "loss/unsup": torch.tensor(float("-inf"))})
    guard.watch(2, {"loss/sup": torch.tensor(float("nan")), "loss/unsup": torch.tensor(1.0)})
    with pytest.raises(UserError, match="at step 1: unsup;"):
        guard.check()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["0.weight", "1.bias", "2.weight"])
def test_one_bad_weight_anywhere_is_noticed(bad: float, name: str) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2))
    check_weights(network, 7)
    network.state_dict()[name].view(-1)[-1] = bad
    with pytest.raises(UserError) as caught:
        check_weights(network, 7)
    assert str(caught.value) == (
        "the weights are not finite after step 7; lower train.lr or set train.clip_norm and start "
        "again with another --out"
    )


def test_only_what_is_trained_is_looked_at() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    network.register_buffer("memory", torch.tensor(float("nan")))
    network[1].weight.data.fill_(float("nan"))
    check_weights(network, 1)
    check_weights(network[1], 1)


def test_all_processes_raise_together(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "total", twins.total)
    networks = [nn.Linear(2, 2), nn.Linear(2, 2)]

    def complaint(rank: int) -> str:
        try:
            check_weights(networks[rank], 3)
        except UserError as error:
            return str(error)
        return ""

    assert twins.run(complaint) == ["", ""]
    networks[1].bias.data[0] = float("inf")
    first, second = twins.run(complaint)
    assert first == second and "not finite after step 3" in first


def test_large_weights_are_finite() -> None:
    network = nn.Linear(2, 2)
    network.weight.data.fill_(3e38)
    check_weights(network, 1)
