from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from u2pl import distributed
from u2pl.methods.method import (
    LabeledMethodConfig,
    Method,
    MethodConfig,
    SupervisedConfig,
    label_accuracy,
)
from u2pl.networks.segmentor import SegOutput
from u2pl.schedules import Progress

IGNORE = 255


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4, ceil_mode=True)
        self.head = nn.Conv2d(3, 5, 1)
        self.embedder = nn.Conv2d(3, 2, 1)

    def forward(self, image, embed: bool = True):
        small = self.pool(image.float() / 255)
        return SegOutput(self.head(small), self.embedder(small) if embed else None)


def make(loss: str = "cross_entropy", **options) -> Method:
    torch.manual_seed(0)
    return Method(
        LabeledMethodConfig(supervised=SupervisedConfig(loss=loss, **options)), Student(), 5
    )


def random_batch(seed: int = 0, batch: int = 2, size=(13, 18)):
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 5, (batch, *size), generator=draw, dtype=torch.uint8)
    label[:, :, -4:] = IGNORE
    return torch.randint(0, 256, (batch, 3, *size), generator=draw, dtype=torch.uint8), label


def slow_loss(logits, label, keep=lambda p: True) -> float:
    costs = [
        -math.log(p)
        for b, i, j in (label != IGNORE).nonzero().tolist()
        if keep(p := logits[b, :, i, j].double().softmax(0)[label[b, i, j].item()].item())
    ]
    return sum(costs) / len(costs)


def test_supervised_loss_is_the_mean_over_labelled_pixels():
    _, label = random_batch()
    logits = torch.randn(2, 5, 13, 18, generator=torch.Generator().manual_seed(1)) * 2
    assert make().supervised_loss(logits, label).item() == pytest.approx(
        slow_loss(logits, label), rel=1e-5
    )


def test_ohem_is_the_mean_over_hard_pixels():
    _, label = random_batch()
    logits = torch.randn(2, 5, 13, 18, generator=torch.Generator().manual_seed(1)) * 2
    method = make("ohem", ohem_threshold=0.2, ohem_min_kept=10)
    assert method.supervised_loss(logits, label).item() == pytest.approx(
        slow_loss(logits, label, lambda p: p <= 0.2), rel=1e-5
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "ohem"])
def test_a_supervised_step_reaches_every_parameter(loss):
    """Also those it has no use for: processes wait for the gradient of each."""
    method = make(loss)
    result = method.supervised_step(*random_batch())
    result.loss.backward()
    assert torch.isfinite(result.loss) and result.scalars["loss/sup"] == result.loss.detach()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert method.student.head.weight.grad.any() and not method.student.embedder.weight.grad.any()


@pytest.mark.parametrize("loss", ["cross_entropy", "ohem"])
def test_a_step_without_labels_is_a_connected_zero(loss):
    method = make(loss)
    image, label = random_batch()
    result = method.supervised_step(image, torch.full_like(label, IGNORE))
    result.loss.backward()
    assert result.loss.item() == 0
    assert not any(parameter.grad.any() for parameter in method.parameters())


@pytest.mark.parametrize("loss", ["cross_entropy", "ohem"])
def test_two_processes_have_the_gradient_of_one(loss, twins, monkeypatch):
    image, label = random_batch(batch=4)
    label[:2, 3:] = IGNORE
    whole = make(loss, ohem_threshold=0.1, ohem_min_kept=200)
    whole.supervised_step(image, label).loss.backward()
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "total", twins.total)
    monkeypatch.setattr(distributed, "gather", twins.gather)
    halves = [make(loss, ohem_threshold=0.1, ohem_min_kept=200) for _ in range(2)]

    def step(rank: int) -> None:
        halves[rank].supervised_step(
            image[2 * rank : 2 * rank + 2], label[2 * rank : 2 * rank + 2]
        ).loss.backward()

    twins.run(step)
    for a, b, both in zip(
        halves[0].parameters(), halves[1].parameters(), whole.parameters(), strict=True
    ):
        torch.testing.assert_close((a.grad + b.grad) / 2, both.grad)


def test_a_method_is_its_student_unless_it_says_more():
    method = make()
    assert list(method.networks()) == ["student"] and method.networks()["student"] is method.student
    assert Method.notes(MethodConfig(), 2) == []
    with pytest.raises(NotImplementedError):
        method(None, Progress(0, 1))


def test_label_accuracy_counts_where_a_truth_is_known():
    label, truth = (
        torch.tensor([[[0, 1, 2, 3]]]),
        torch.tensor([[[0, 2, 255, 3]]], dtype=torch.uint8),
    )
    where = torch.tensor([[[True, True, True, False]]])
    assert label_accuracy(label, truth, where).item() == 0.5
    assert label_accuracy(label, torch.full_like(truth, 255), where).isnan()
