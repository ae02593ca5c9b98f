"""CPS: two students, each the other's teacher, and their average."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from harness.contract import TOTAL, Build, trained
from u2pl.schedules import Progress


def test_the_students_share_an_encoder_s_start_and_nothing_else(build: Build) -> None:
    method, _ = build("cps")
    one, two = method.student, method.second
    names = [key for key, _ in one.named_parameters()]
    assert trained(method).keys() == {
        f"{role}.{key}" for role in ("student", "second") for key in names
    }
    for key, a, b in zip(names, one.parameters(), two.parameters(), strict=True):
        if key.startswith("encoder.") or a.std() == 0:  # norms and biases start alike
            assert torch.equal(a, b), key
        else:
            assert not torch.equal(a, b), key


def test_each_learns_from_the_labels_of_the_other(build: Build) -> None:
    method, batch = build("cps", method_lambda_cps=0.5)
    method.eval()
    result = method(batch, Progress(5, TOTAL))
    images, size = torch.cat([batch.image_l, batch.image_u]), batch.label_l.shape[-2:]
    one, two = (
        interpolate(network(images).logits.detach().double(), scale_factor=4, mode="bilinear")[
            ..., : size[0], : size[1]
        ]
        for network in (method.student, method.second)
    )
    seen = torch.cat([batch.label_l != 255, batch.valid_u])
    total = 0.0
    for logits, other in ((one, two), (two, one)):
        log_prob, label = logits.log_softmax(dim=1), other.argmax(dim=1)
        for b, i, j in seen.nonzero().tolist():
            total -= log_prob[b, int(label[b, i, j]), i, j].item()
    cps = total / int(seen.sum())
    assert result.scalars["loss/cps"].item() == pytest.approx(cps, rel=2e-4)
    both = result.scalars["loss/sup"] + result.scalars["loss/sup_second"]
    assert result.loss.item() == pytest.approx(both.item() + 0.5 * cps, rel=2e-4)
    agreed = ((one.argmax(dim=1) == two.argmax(dim=1)) & seen).sum() / seen.sum()
    assert result.scalars["agreement"].item() == pytest.approx(agreed.item(), abs=2e-3)


@torch.no_grad()
def test_the_average_is_the_mean_of_both_probabilities(build: Build) -> None:
    method, batch = build("cps")
    method.eval()
    student, second, average = method.networks().values()
    image = batch.image_u
    expected = (student(image).logits.softmax(1) + second(image).logits.softmax(1)) / 2
    torch.testing.assert_close(average(image).logits.softmax(1), expected)
    # and adds no weight to the state
    assert not any("average" in key for key in method.state_dict())
