"""Weights of pseudo-labels in the step of each method that has them, by a loop over pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.contract import TOTAL, Build
from u2pl.mixing.mixers import Mixed
from u2pl.schedules import Progress
from u2pl_semi.methods import ael, u2pl, u2plplus

NAMES = ("fixmatch", "augseg", "ael", "unimatch", "unimatch_v2", "u2pl", "u2plplus")
OPTIONS = {
    "method_pixel_weight.kind": "rank_statistics",
    "method_pixel_weight.confidence": 0.1,
    "method_pixel_weight.memory": 8,
    "method_pixel_weight.channels": 24,
}


class Term(NamedTuple):
    """A mean over pixels: its name, the student's scores, labels, and what a pixel counts."""

    name: str
    logits: Tensor
    label: Tensor
    own: Tensor  # without the weight
    counted: Tensor  # in the divisor, without the weight
    weight: Tensor


class Watched:
    """Notes the weights of a step, and from which pixel of the clean images each mixed one is."""

    def __init__(self, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.method = method
        self.outputs: list[Any] = []
        self.mixed: list[Mixed] = []
        self.places: list[Tensor] = []
        self.seen: dict[str, Any] = {}
        self.least = getattr(method.config, "confidence", 0.0)
        decode, weigh = method.student.decode, method.pixel_weight.forward

        def decoding(*args: Any, **kwargs: Any) -> Any:
            self.outputs.append(decode(*args, **kwargs))
            return self.outputs[-1]

        def weighing(looks: Any, batch: Any, label: Tensor, generator: Any) -> Any:
            found = weigh(looks, batch, label, generator)
            self.seen |= {"label": label, "weight": found.weight_BHW}
            return found

        method.student.decode, method.pixel_weight.forward = decoding, weighing
        if hasattr(method, "sampled"):
            self.keep(method, "sampled", setattr)
            mix = self.mixing(ael.paste_box)
            monkeypatch.setattr(ael, "paste_box", mix)
        else:
            mix = self.mixing(method.mix)
            if hasattr(method.mix, "mixes"):
                mix.mixes = method.mix.mixes  # type: ignore[attr-defined]
            method.mix = mix
        for module in (u2pl, u2plplus):
            self.keep(module, "partition", monkeypatch.setattr)

    def clear(self) -> None:
        """Forget the last step."""
        self.outputs.clear()
        self.mixed.clear()
        self.places.clear()

    def keep(self, owner: Any, name: str, put: Callable[[Any, str, Any], None]) -> None:
        """Note what a function returns."""
        function = getattr(owner, name)

        def keeping(*args: Any, **kwargs: Any) -> Any:
            self.seen[name] = function(*args, **kwargs)
            return self.seen[name]

        put(owner, name, keeping)

    def mixing(self, mix: Callable[..., Mixed]) -> Callable[..., Mixed]:
        """The mix, with one more map: the number of each pixel, -1 in labelled images."""

        def numbered(*args: Any) -> Mixed:
            label = self.seen["label"]
            place = torch.arange(label.numel()).view(label.shape)
            if isinstance(args[-1], Mixed):
                *others, labeled, unlabeled = args
                labeled = labeled._replace(maps=(*labeled.maps, torch.full_like(place, -1)))
                args = *others, labeled, unlabeled._replace(maps=(*unlabeled.maps, place))
                found = mix(*args)
            else:
                self.seen["top"] = args[4]
                found = mix(*args, place)
            self.mixed.append(found._replace(maps=found.maps[:-1]))
            self.places.append(found.maps[-1])
            return self.mixed[-1]

        return numbered

    def weight(self, view: int) -> Tensor:
        """The weight of each mixed pixel: that of the pixel it is, 1 of a labelled one."""
        place = self.places[view]
        return torch.where(place < 0, 1.0, self.seen["weight"].flatten()[place.clamp(min=0)])

    def terms(self, batch: Any) -> list[Term]:
        """The step's terms of pseudo-labelled pixels."""
        config, images = self.method.config, len(batch.image_l)
        view, name = self.mixed[0], type(self.method).__name__
        if name == "UniMatch":
            label, weight = self.seen["label"], self.seen["weight"]
            sure = (self.seen["top"] >= self.least) & batch.valid_u
            logits_fp = self.outputs[0].logits[2 * images :]
            own = Term("fp", logits_fp, label, sure, batch.valid_u, weight)
            strong = self.outputs[1].logits.chunk(2)
            return [own, *(self.confident(f"s{k + 1}", strong[k], k) for k in range(2))]
        if name == "UniMatchV2":
            strong = self.outputs[0].logits[images:].chunk(2)
            return [self.confident(f"s{k + 1}", strong[k], k) for k in range(2)]
        logits = self.outputs[0].logits[images:]
        if name in ("FixMatch", "AugSeg"):
            return [self.confident("unsup", logits, 0)]
        if name == "AEL":
            target = self.seen["sampled"]
            kept = (target != 255) & view.valid_BHW
            sure = torch.where(kept, view.maps[1] ** config.gamma, 0.0)
            return [Term("unsup", logits, target, sure, sure, self.weight(0))]
        reliable = self.seen["partition"].reliable_BHW
        return [Term("unsup", logits, view.maps[0], reliable, reliable, self.weight(0))]

    def confident(self, name: str, logits: Tensor, number: int) -> Term:
        view = self.mixed[number]
        own = (view.maps[1] >= self.least) & view.valid_BHW
        return Term(name, logits, view.maps[0], own, view.valid_BHW, self.weight(number))


def full(logits: Tensor, batch: Any) -> Tensor:
    height, width = batch.label_l.shape[-2:]
    large = F.interpolate(logits.detach().double(), scale_factor=4, mode="bilinear")
    return large[..., :height, :width]


def slow_mean(term: Term, rule: str, xi_2: float, batch: Any) -> float:
    """sum(w own CE) / sum(counted), or / sum(w counted); plus xi_2 times the reverse one's."""
    label = torch.where(term.own > 0, term.label, 0).long().unsqueeze(1)
    log_prob = full(term.logits, batch).log_softmax(dim=1).gather(1, label).flatten().tolist()
    total, divisor = 0.0, 0.0
    maps = (value.flatten().tolist() for value in (term.weight, term.own, term.counted))
    for value, weight, own, counted in zip(log_prob, *maps, strict=True):
        loss = -value - xi_2 * math.log(1e-4) * (1 - math.exp(value))
        total += weight * own * loss
        divisor += counted * (weight if rule == "released" else 1)
    return total / divisor


@pytest.mark.parametrize("rule", ["paper", "released"])
@pytest.mark.parametrize("name", NAMES)
def test_terms_of_pixels_are_multiplied_by_weights_that_are_mixed_like_the_labels(
    name: str, rule: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {**OPTIONS, "method_pixel_weight.rule": rule}
    if name == "ael":
        options["method_weak_classes.cutmix"] = 1.0
    elif name != "augseg":
        options["method_mix.probability"] = 1.0
    if name in ("fixmatch", "augseg", "unimatch", "unimatch_v2"):
        method, batch = build(name, **options)
        watch = Watched(method, monkeypatch)
        method(batch, Progress(4, TOTAL))
        options["method_confidence"] = watch.mixed[0].maps[1].median().item()
    method, batch = build(name, **options)
    watch, mixed, shares = Watched(method, monkeypatch), False, []
    xi_2 = method.config.unsupervised.xi_2 if name.startswith("u2pl") else 0.0
    assert (xi_2 > 0) == (name == "u2plplus")
    for step in (4, 5, 6):
        watch.clear()
        result = method(batch, Progress(step, TOTAL))
        for place in watch.places:
            mixed |= not torch.equal(place.flatten(), torch.arange(place.numel()))
        for term in watch.terms(batch):
            expected = slow_mean(term, rule, xi_2, batch)
            found = result.scalars[f"loss/{term.name}"].item()
            assert found == pytest.approx(expected, rel=5e-4), term.name
            shares.append((term.own > 0).float().mean().item())
    assert mixed and len(watch.seen["weight"].unique()) > 2
    assert any(0 < share < 1 for share in shares), shares
    assert result.scalars["memory_fill"] > 0
    result.loss.backward()
    assert all(p.grad is not None for p in method.student.parameters() if p.requires_grad)
