"""AEL's step by a loop over pixels, its banks, and what is pasted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.contract import TOTAL, Build
from harness.slow import enlarged
from u2pl.schedules import Progress
from u2pl_semi.methods import ael

PROGRESS = Progress(5, TOTAL)
ALWAYS = {"method_weak_classes.copy_paste": 1.0, "method_weak_classes.cutmix": 1.0}


def watched(method: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What student and teacher see and give, what is pasted, and which labels are sampled."""
    seen: dict[str, Any] = {}
    student, teacher, sampled = method.student.forward, method.teacher.forward, method.sampled
    box, pixels = ael.paste_box, ael.paste_class

    def predicting(image: Tensor, **kwargs: Any) -> Any:
        seen["student sees"], seen["student"] = image, student(image, **kwargs)
        return seen["student"]

    def teaching(image: Tensor, **kwargs: Any) -> Any:
        seen["teacher sees"], seen["teacher"] = image, teacher(image, **kwargs)
        return seen["teacher"]

    def sampling(label: Tensor, generator: torch.Generator) -> Tensor:
        seen["label"], seen["target"] = label, sampled(label, generator)
        return seen["target"]

    def mixing(*args: Any) -> Any:
        seen["mixed"] = box(*args)
        return seen["mixed"]

    def pasting(*args: Any) -> Any:
        seen["pasted"] = pixels(*args)
        return seen["pasted"]

    method.student.forward, method.teacher.forward = predicting, teaching
    method.sampled = sampling
    monkeypatch.setattr(ael, "paste_box", mixing)
    monkeypatch.setattr(ael, "paste_class", pasting)
    return seen


@pytest.mark.parametrize(("gamma", "balance"), [(2.0, 0.5), (0.0, 0.0), (1.0, 3.0)])
def test_the_loss_equals_the_loop(
    gamma: float, balance: float, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"method_gamma": gamma, "method_balance": balance, "method_lambda_u": 0.7, **ALWAYS}
    method, batch = build("ael", **options)
    method.bank_u.value.copy_(torch.linspace(0.1, 0.9, method.num_classes))
    method.bank_u.seen.fill_(10**6)
    with torch.no_grad():  # a teacher that is surer of some pixels than of others
        logits = method.teacher(batch.image_u).logits
        weight, bias = method.teacher.network.classifier.parameters()
        bias -= logits.mean(dim=(0, 2, 3))
        scale = 2 / (logits - logits.mean(dim=(0, 2, 3), keepdim=True)).std()
        weight *= scale
        bias *= scale
    seen = watched(method, monkeypatch)
    result = method(batch, PROGRESS)
    size = batch.label_l.shape[-2:]
    log_prob = enlarged(seen["student"].logits, size).log_softmax(dim=1)

    label_l, _ = seen["pasted"]
    sup, labels = 0.0, 0
    for b, i, j in (label_l != 255).nonzero().tolist():
        sup, labels = sup - log_prob[b, int(label_l[b, i, j]), i, j].item(), labels + 1
    unsup, weights, pixels = 0.0, 0.0, 0
    mixed, target = seen["mixed"], seen["target"]
    for b, i, j in mixed.valid_BHW.nonzero().tolist():
        c, weight = int(target[b, i, j]), mixed.maps[1][b, i, j].item() ** gamma
        if c != 255:
            unsup -= weight * log_prob[2 + b, c, i, j].item()
            weights, pixels = weights + weight, pixels + 1
    assert result.scalars["loss/unsup"].item() == pytest.approx(unsup / weights, rel=2e-4)
    expected = sup / labels + 0.7 * unsup / weights
    assert result.loss.item() == pytest.approx(expected, rel=2e-4)
    assert mixed.maps[1].std() > 0.1
    assert (pixels == int(mixed.valid_BHW.sum())) == (balance == 0)


def test_the_teacher_labels_clean_images_and_a_box_carries_their_labels(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"method_strong_view.kind": "none", **ALWAYS}
    method, batch = build("ael", **options)
    batch.image_u[1] = 255 - batch.image_u[0] // 2  # no pixel is like that of the other image
    seen, pasted = watched(method, monkeypatch), 0
    for step in range(4, 8):
        method(batch, Progress(step, TOTAL))
        assert torch.equal(seen["teacher sees"], batch.image_u)
        prob = enlarged(seen["teacher"].logits, batch.label_l.shape[-2:]).softmax(dim=1)
        label = torch.where(batch.valid_u, prob.argmax(dim=1), 255)
        shown = (seen["student sees"][2:] * 255).round()
        other = (shown == batch.image_u.flip(0)).all(dim=1)
        assert torch.equal(other, (shown != batch.image_u).any(dim=1))
        maps = seen["mixed"].maps
        for found, clean in ((seen["mixed"].valid_BHW, batch.valid_u), (maps[3], batch.truth_u)):
            assert torch.equal(found, torch.where(other, clean.flip(0), clean))
        expected = torch.where(other, label.flip(0), label)
        assert (seen["label"] != expected).float().mean() < 0.002
        top = prob.amax(dim=1)
        expected = torch.where(other, top.flip(0), top)
        torch.testing.assert_close(maps[1].double(), expected, rtol=0, atol=1e-5)
        pasted += int(other.sum())
    assert pasted > 100


def test_pasted_classes_bring_their_pixels_and_labels(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every labelled image is painted in the colours of its classes."""
    method, batch = build("ael", **ALWAYS)
    batch = batch._replace(image_l=batch.label_l.unsqueeze(1).expand(-1, 3, -1, -1).clone())
    seen, changed = watched(method, monkeypatch), 0
    for step in range(4, 8):
        result = method(batch, Progress(step, TOTAL))
        label, image = seen["pasted"]
        assert torch.equal(label.unsqueeze(1).expand_as(image), image)
        assert torch.equal((seen["student sees"][:2] * 255).round(), image.float())
        changed += int((label != batch.label_l).sum())
        log_prob = enlarged(seen["student"].logits, label.shape[-2:]).log_softmax(dim=1)
        sup = F.nll_loss(log_prob[:2], label.long(), ignore_index=255)
        assert result.scalars["loss/sup"].item() == pytest.approx(sup.item(), rel=2e-4)
    assert changed > 50


def test_banks_hold_how_sure_the_student_and_the_teacher_are_of_each_class(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first step they are its means."""
    method, batch = build("ael", **ALWAYS)
    seen = watched(method, monkeypatch)
    result = method(batch, PROGRESS)
    size = batch.label_l.shape[-2:]
    student = enlarged(seen["student"].logits, size)[:2].softmax(dim=1)
    teacher = enlarged(seen["teacher"].logits, size).softmax(dim=1)
    guessed = torch.where(batch.valid_u, teacher.argmax(dim=1), 255)
    for name, bank, prob, label in (
        ("labelled", method.bank_l, student, seen["pasted"][0]),
        ("unlabelled", method.bank_u, teacher, guessed),
    ):
        own: list[list[float]] = [[] for _ in range(method.num_classes)]
        for b, i, j in (label != 255).nonzero().tolist():
            c = int(label[b, i, j])
            own[c].append(prob[b, c, i, j].item())
        expected = [float(np.mean(values)) if values else 0.0 for values in own]
        assert bank.value.tolist() == pytest.approx(expected, rel=5e-3)
        assert bank.seen.tolist() == [int(bool(values)) for values in own]
        logged = result.scalars[f"bank/{name}"]
        assert torch.equal(logged, bank.value) and logged is not bank.value


@pytest.mark.parametrize("balance", [0.0, 0.5, 2.0])
def test_confident_classes_lose_pixels(balance: float, build: Build) -> None:
    method, _ = build("ael", method_balance=balance)
    method.bank_u.value.copy_(torch.tensor([0.9, 0.2, 0.6, 0.4]))
    label = torch.arange(4).view(1, 4, 1).expand(2, 4, 5000).clone()
    label[:, :, ::10] = 255
    found = method.sampled(label, PROGRESS.generator())
    assert torch.isin(found[label == 255], torch.tensor(255)).all()
    for c, value in enumerate((0.9, 0.2, 0.6, 0.4)):
        kept = found[label == c]
        assert torch.isin(kept, torch.tensor([c, 255])).all()
        expected = ((1 - value) / 0.8) ** balance
        assert (kept == c).float().mean().item() == pytest.approx(expected, abs=0.025)


def test_each_image_is_sampled_for_itself(build: Build) -> None:
    method, _ = build("ael", method_balance=1.0)
    method.bank_u.value.copy_(torch.tensor([0.9, 0.2, 0.6, 0.4]))
    found = method.sampled(torch.zeros(2, 40, 50, dtype=torch.int64), PROGRESS.generator())
    assert not torch.equal(found[0], found[1])
