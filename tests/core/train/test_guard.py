import pytest
import torch

from u2pl.errors import UserError
from u2pl.train.guard import FiniteGuard


def test_the_first_bad_step_and_all_its_terms_are_named() -> None:
    guard = FiniteGuard()
    for step in range(6):
        bad = float("nan") if step >= 3 else 1.0
        losses = {"loss/sup": 1.0 if step < 4 else float("inf"), "loss/unsup": bad, "loss/contrast": bad, "accuracy": float("nan")}
        guard.watch(step, {name: torch.tensor(value) for name, value in losses.items()} | {"lr": 1.0})
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
