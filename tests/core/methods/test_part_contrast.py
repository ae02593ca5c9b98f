"""Pixel-to-part contrast: what is enqueued and drawn, and the loss by loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from u2pl.losses.contrast import bank_similarity
from u2pl.memory.class_queue import ClassQueue
from u2pl.methods import part_contrast
from u2pl.methods.part_contrast import PartContrast, PartContrastConfig

CLASSES, SLOTS, WIDTH = 3, 6, 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = generator(seed)
    student, teacher = torch.randn(2, 4, WIDTH, 6, 7, generator=draw)
    part = torch.randint(SLOTS + 1, (4, 6, 7), generator=draw)
    anchor = torch.where(torch.rand(4, 6, 7, generator=draw) < 0.7, part // 2, 255)
    return student.requires_grad_(), teacher, anchor, part


def make(**options: Any) -> PartContrast:
    config = {"anchors": 8, "share": 0.5, "negatives": 7, "queue": 6, **options}
    return PartContrast(PartContrastConfig(**config), CLASSES, SLOTS, WIDTH)


def test_the_mean_of_each_part_in_each_image_is_enqueued() -> None:
    module, (student, teacher, anchor, part) = make(), case()
    module(student, teacher, anchor, part, generator())
    for s in range(SLOTS):
        means = []
        for b in range(4):
            members = [teacher[b, :, i, j] for i, j in (part[b] == s).nonzero().tolist()]
            if members:
                mean = torch.stack(members).double().mean(0)
                means.append(mean / mean.norm())
        stored = module.queue.rows[6 * s : 6 * s + int(module.queue.filled[s])]
        torch.testing.assert_close(stored.double(), torch.stack(means), rtol=1e-5, atol=1e-6)


def test_the_loss_equals_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = make(), {}

    def similarity(anchors: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        seen.update(anchors=anchors.detach(), rows=rows.clone(), index=index)
        return bank_similarity(anchors, rows, index)

    monkeypatch.setattr(part_contrast, "bank_similarity", similarity)
    module(*case(1), generator(1))  # fills the queues
    student, teacher, anchor, part = case(2)
    result = module(student, teacher, anchor, part, generator(2))
    pixels = torch.nn.functional.normalize(student.detach(), dim=1)
    queue_of = torch.arange(6 * SLOTS) // 6
    losses = []
    for c in range(CLASSES):
        candidates = ((anchor == c) & (part < SLOTS)).nonzero().tolist()
        wanted = min(8, math.ceil(0.5 * len(candidates)))
        own = []
        for a in range(8 * c, 8 * c + wanted):
            place = next(
                p for p in candidates
                if torch.allclose(pixels[p[0], :, p[1], p[2]], seen["anchors"][a])
            )  # fmt: skip
            s = int(part[tuple(place)])
            index = seen["index"][a]
            assert queue_of[index[0]] == s and not (queue_of[index[1:]] == s).any()
            cos = (seen["rows"][index].double() @ seen["anchors"][a].double()) / 0.5
            own.append((cos.logsumexp(0) - cos[0]).item())
        assert result.scalars["anchors"][c] == wanted
        losses.append(sum(own) / len(own))
    assert result.loss.item() == pytest.approx(sum(losses) / CLASSES, rel=1e-5)
    result.loss.backward()
    assert student.grad.any()


def test_an_anchor_needs_a_part_and_keys_of_others() -> None:
    student, teacher, anchor, part = case()
    module = make()
    nothing = module(student, teacher, anchor, torch.full_like(part, SLOTS), generator())
    assert nothing.loss == 0 and nothing.loss.requires_grad
    assert not nothing.scalars["anchors"].any() and not module.queue.filled.any()
    # keys of one part alone leave nothing to contrast with
    alone = module(student, teacher, torch.zeros_like(anchor), torch.zeros_like(part), generator())
    assert alone.loss == 0 and alone.scalars["contrast_classes"] == 0
    other = torch.where(torch.arange(7) < 3, 0, 5).expand_as(part)
    some = module(student, teacher, other // 2, other, generator())
    assert some.loss > 0 and some.scalars["contrast_classes"] == 2


def test_drawing_from_others_covers_their_rows_alike() -> None:
    queue = ClassQueue([4, 3, 5, 2], 1)
    queue.filled.copy_(torch.tensor([4, 0, 3, 2]))
    stored = {0: [0, 1, 2, 3], 1: [], 2: [7, 8, 9], 3: [12, 13]}
    uniform = torch.linspace(0, 1 - 1e-6, 3000).expand(4, -1)
    found = queue.draw_others(uniform, torch.arange(4))
    for own in range(4):
        rows = [row for q, each in stored.items() if q != own for row in each]
        slow = [rows[int(u * len(rows))] for u in uniform[0].tolist()]
        assert (found[own] != torch.tensor(slow)).float().mean() < 0.005  # rounding at an edge
        assert set(found[own].tolist()) == set(rows)
    own = queue.draw_own(torch.tensor([0.0, 0.5, 0.99, 0.5]), torch.arange(4))
    assert own.tolist() == [0, 4, 9, 13]


def test_queues_with_nothing_else_give_a_row_all_the_same() -> None:
    queue = ClassQueue([2, 2], 1)
    assert queue.draw_others(torch.rand(2, 3), torch.arange(2)).shape == (2, 3)
    queue.filled.copy_(torch.tensor([2, 0]))
    found = queue.draw_others(torch.rand(2, 3), torch.arange(2))
    assert (found >= 0).all() and (found < 5).all()
