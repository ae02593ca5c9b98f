"""What U2PL+ adds to DAFormer, and in which order."""

from __future__ import annotations

from math import log
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harness.contract import TOTAL, Build, optimizer_of, steps
from u2pl.methods.step import StepResult
from u2pl.mixing.blend import paste
from u2pl.mixing.masks import half_of_classes
from u2pl.pseudo.partition import Partition
from u2pl.schedules import Progress
from u2pl.training.config import TrainConfig
from u2pl.training.optimizer import build_optimizer
from u2pl_da.adaptation import ClassMixed
from u2pl_da.methods.u2plplus import U2PLPlus, U2PLPlusConfig

IGNORE = 255


class Notes(NamedTuple):
    """What went through a step."""

    result: StepResult
    label_t: Tensor  # given to ClassMix
    mixed: ClassMixed
    part: Partition
    moved_by: Tensor  # labels that moved the prototypes
    prob_t: Tensor  # the teacher's on the clean target images, at full size
    embed_t: Tensor


def noted(method: Any, batch: Any, step: int, monkeypatch: pytest.MonkeyPatch) -> Notes:
    """Take a step without an optimizer, and note what went through it."""
    seen: dict[str, Any] = {}

    def note(owner: Any, name: str, key: str, take: Any) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner,
            name,
            lambda *args: (
                seen.update({key: take(*args)}) or seen.setdefault(f"{key} out", real(*args))
            ),
        )

    with torch.no_grad():
        clean = method.teacher(batch.image_t, learn=False)
    note(method, "mix", "mix", lambda generator, batch, label, weight: label)
    note(method, "partition", "partition", lambda *_: None)
    note(method.prototypes, "update", "update", lambda embed, label: label)
    result = method(batch, Progress(step, TOTAL))
    prob = interpolate(clean.logits, scale_factor=4, mode="bilinear").softmax(dim=1)
    return Notes(
        result,
        seen["mix"],
        seen["mix out"],
        seen["partition out"],
        seen["update"],
        prob,
        clean.embed,
    )


def trained(build: Build, **options: Any) -> tuple[Any, Any]:
    """A method after four steps, so that prototypes are known; its target batch has padding."""
    method, batch = build("u2plplus", network_dropout=0, **options)
    batch.valid_t[1, :, 50:] = False
    steps(method, batch, 0, 4, optimizer_of(method))
    return method, batch


def test_the_denoised_label_is_mixed_and_the_raw_one_moves_the_prototypes(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, batch = trained(build)
    before = method.prototypes.center.clone()
    assert method.prototypes.known.any()
    corrected = method.prototypes.denoised_label
    notes = noted(method, batch, 5, monkeypatch)
    assert not torch.equal(method.prototypes.center, before)
    method.prototypes.center.copy_(before)  # the prototypes of the step before correct
    raw, denoised = notes.prob_t.argmax(dim=1), corrected(notes.prob_t, notes.embed_t)
    assert (raw != denoised).any()
    assert torch.equal(notes.label_t, denoised)
    assert torch.equal(
        notes.mixed.label_BHW, paste(notes.mixed.pasted_BHW, batch.label_l.long(), denoised)
    )

    reliable = torch.where(notes.part.reliable_BHW, raw, IGNORE)
    expected = torch.cat(
        [batch.label_l.long(), torch.where(notes.mixed.pasted_BHW, batch.label_l.long(), reliable)]
    )
    assert torch.equal(notes.moved_by, expected[:, 2::4, 2::4])


def test_without_denoising_the_raw_label_is_mixed(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = noted(*trained(build, **{"method_prototypes.denoise": "false"}), 5, monkeypatch)
    assert torch.equal(notes.label_t, notes.prob_t.argmax(dim=1))


def test_reliable_or_not_is_every_target_pixel_that_shows_the_scene(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, batch = trained(build)
    _, _, mixed, part, *_ = noted(method, batch, 5, monkeypatch)
    assert not (part.reliable_BHW & part.unreliable_BHW).any()
    shows = batch.valid_t & ~batch.border_t.unsqueeze(2) & ~mixed.pasted_BHW
    assert torch.equal(part.reliable_BHW | part.unreliable_BHW, shows)
    assert part.unreliable_BHW.sum() / shows.sum() == pytest.approx(
        0.2 * (1 - 5 / TOTAL), abs=2e-3
    )  # alpha_t


def slow_unsupervised(
    logits: Tensor,
    mixed: ClassMixed,
    part: Partition,
    xi: tuple[float, float],
    entropy_filter: bool,
) -> float:
    total = 0.0
    log_prob = logits.double().log_softmax(dim=1)
    for b, i, j in (mixed.label_BHW != IGNORE).nonzero().tolist():
        log_y = log_prob[b, mixed.label_BHW[b, i, j], i, j].item()
        reverse = -log(1e-4) * (1 - torch.tensor(log_y).exp().item())
        counts = not (entropy_filter and part.unreliable_BHW[b, i, j])
        total += counts * mixed.weight_BHW[b, i, j].item() * (xi[0] * -log_y + xi[1] * reverse)
    return total / mixed.label_BHW.numel()


@pytest.mark.parametrize("entropy_filter", [False, True])
def test_the_entropy_filter_leaves_out_exactly_the_unreliable_pixels(
    entropy_filter: bool, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, batch = trained(
        build, **{"method_unsupervised.entropy_filter": str(entropy_filter).lower()}
    )
    _, _, mixed, part, *_ = noted(method, batch, 5, monkeypatch)
    logits = torch.randn(
        2, 4, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    loss = method.unsupervised_loss(logits, mixed, part)
    loss.backward()
    assert loss.item() == pytest.approx(
        slow_unsupervised(logits.detach(), mixed, part, (1.0, 0.1), entropy_filter), rel=1e-4
    )
    counts = (mixed.weight_BHW > 0) & (mixed.label_BHW != IGNORE)
    assert (counts & part.unreliable_BHW).any()
    counts &= ~(part.unreliable_BHW & entropy_filter)
    assert torch.equal(logits.grad.abs().sum(dim=1) > 0, counts)


def test_the_loss_is_the_weighted_sum_of_its_terms(build: Build) -> None:
    method, batch = trained(build, method_lambda_c=0.25)
    result = method(batch, Progress(5, TOTAL))
    terms = {
        key.removeprefix("loss/"): float(value)
        for key, value in result.scalars.items()
        if key.startswith("loss/")
    }
    assert terms.keys() == {"sup", "unsup", "distance", "contrast"} and all(
        value > 0 for value in terms.values()
    )
    expected = terms["sup"] + terms["unsup"] + 0.05 * terms["distance"] + 0.25 * terms["contrast"]
    assert result.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_warm_start_is_daformer(build: Build) -> None:
    """Number for number: the representation head comes last and draws no random number."""
    plain, warming = build("daformer"), build("u2plplus", **{"method_warm_start": 1})
    runs = [(method, batch, optimizer_of(method)) for method, batch in (plain, warming)]
    for step in range(4):
        ours, theirs = (
            steps(method, batch, step, step + 1, optimizer) for method, batch, optimizer in runs
        )
        assert ours.loss == theirs.loss
        assert ours.scalars.keys() == theirs.scalars.keys()
        for key, value in ours.scalars.items():
            torch.testing.assert_close(value, theirs.scalars[key], rtol=0, atol=0, equal_nan=True)
    assert not runs[1][0].prototypes.known.any() and not runs[1][0].contrast.queue.filled.any()


def test_after_the_warm_start_the_contrast_begins(build: Build) -> None:
    method, batch = build("u2plplus")
    first = steps(method, batch, 0, 3, optimizer_of(method))
    assert "loss/contrast" not in first.scalars
    assert "loss/contrast" in method(batch, Progress(3, TOTAL)).scalars


def rename(method: U2PLPlus, order: Tensor) -> None:
    """Make class order[k] of a method its class k."""
    imagenet: Any = method.imagenet
    imagenet.is_thing[: len(order)] = imagenet.is_thing[order]
    for network in (method.student, method.teacher.network):
        last: Any = network.classifier[-1]
        for value in (last.weight, last.bias):
            value.data.copy_(value.data[order].clone())


def test_a_permutation_of_the_classes_changes_nothing(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn for a class, in ClassMix and among its keys, stays the same under a new id."""
    order = torch.tensor([2, 0, 3, 1])
    table = torch.full((256,), IGNORE, dtype=torch.uint8)
    table[order] = torch.arange(4, dtype=torch.uint8)
    options = {"method_warm_start": 0, "method_contrast.queue_background": 20, "network_dropout": 0}
    results = []
    for renamed in (False, True):
        method: Any
        method, batch = build("u2plplus", **options)
        if renamed:
            rename(method, order)
            batch = batch._replace(label_l=table[batch.label_l.long()])
            draw = method.contrast.queue.draw
            monkeypatch.setattr(
                method.contrast.queue, "draw", lambda uniform, draw=draw: draw(uniform[order])
            )
            monkeypatch.setattr(
                "u2pl_da.adaptation.half_of_classes",
                lambda label, score: half_of_classes(label, score[:, order]),
            )
        optimizer = build_optimizer(method, TrainConfig(optimizer="sgd"))
        results.append([steps(method, batch, step, step + 1, optimizer) for step in range(3)])
    for plain, other in zip(*results, strict=True):
        assert plain.scalars["contrast_classes"] > 1 and plain.scalars["loss/distance"] >= 0
        torch.testing.assert_close(other.loss, plain.loss, rtol=1e-4, atol=1e-6)
        for key, value in plain.scalars.items():
            value = value[order] if isinstance(value, Tensor) and value.dim() else value
            torch.testing.assert_close(
                other.scalars[key], value, rtol=1e-3, atol=1e-5, equal_nan=True, msg=key
            )


def test_defaults_are_the_papers() -> None:
    config = U2PLPlusConfig()
    unsupervised, contrast = config.unsupervised, config.contrast
    assert (
        unsupervised.xi_1,
        unsupervised.xi_2,
        unsupervised.alpha_0,
        unsupervised.entropy_filter,
    ) == (1.0, 0.1, 0.2, False)
    assert (
        config.lambda_c,
        config.warm_start,
        config.prototypes.momentum,
        config.prototypes.denoise,
    ) == (0.1, 0, 0.999, True)
    assert (contrast.anchors, contrast.negatives, contrast.tau, contrast.delta_p) == (
        256,
        50,
        0.5,
        0.3,
    )
    assert set(contrast.queue_lengths(19)) == {30_000} and contrast.thresholds(19) == (3, 19, 0.3)
