from __future__ import annotations

import torch

from u2pl.methods.step import StepResult, weighted_sum


def test_weighted_sum_weighs_the_loss_and_logs_the_terms():
    sup, unsup = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    result = weighted_sum({"unsup": torch.tensor(0.5), "unused": 9.0}, sup=sup, unsup=unsup)
    assert result.loss.item() == 3.5
    assert {name: value.item() for name, value in result.scalars.items()} == {
        "loss/sup": 2.0,
        "loss/unsup": 3.0,
    }
    assert not any(value.requires_grad for value in result.scalars.values())
    without = weighted_sum({"distance": 9.0}, sup=sup, distance=None)
    assert without.loss.item() == 2.0 and without.scalars.keys() == {"loss/sup"}
    result.loss.backward()
    assert sup.grad.item() == 1 and unsup.grad.item() == 0.5


def test_log_adds_without_changing_what_was_there():
    result = StepResult(torch.tensor(1.0), {"a": 1.0})
    more = result.log(b=2.0)
    assert (
        more.scalars == {"a": 1.0, "b": 2.0}
        and result.scalars == {"a": 1.0}
        and more.loss is result.loss
    )
