"""Parts of classes: assignment and update by loops over pixels."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity

from u2pl import distributed
from u2pl.maps import downsample
from u2pl.memory.parts import PartPrototypes

CLASSES, PARTS, WIDTH = 4, 3, 8


def filled(known: bool = True) -> PartPrototypes:
    parts = PartPrototypes(CLASSES, PARTS, WIDTH, momentum=0.9)
    draw = torch.Generator().manual_seed(0)
    center = torch.randn(CLASSES * PARTS, WIDTH, generator=draw)
    mask = torch.ones(CLASSES * PARTS, dtype=torch.bool)
    if not known:
        mask[[0, 4, 5]] = False
        mask[9:] = False  # class 3 has no part
    parts.fill(center, mask)
    return parts


def case(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    deep = torch.randn(2, WIDTH, 5, 6, generator=draw)
    label = torch.randint(CLASSES, (2, 5, 6), generator=draw)
    label[torch.rand(2, 5, 6, generator=draw) < 0.2] = 255
    return deep, label


@pytest.mark.parametrize("known", [True, False])
def test_each_pixel_goes_to_the_nearest_part_of_its_class(known: bool) -> None:
    parts, (deep, label) = filled(known), case()
    found = parts.assign(deep, label)
    for b, i, j in torch.cartesian_prod(*map(torch.arange, (2, 5, 6))).tolist():
        c = int(label[b, i, j])
        own = (
            [] if c == 255 else [c * PARTS + k for k in range(PARTS) if parts.known[c * PARTS + k]]
        )
        near = {s: float(cosine_similarity(deep[b, :, i, j], parts.center[s], dim=0)) for s in own}
        expected = max(near, key=near.__getitem__) if near else parts.slots
        assert found[b, i, j] == expected
    assert (found == parts.slots).any() and found.unique().numel() > 6


def test_at_another_size_the_cosines_are_resized() -> None:
    parts, (deep, _) = filled(), case()
    label = torch.zeros(2, 20, 24, dtype=torch.uint8)
    found = parts.assign(deep, label)
    assert found.shape == (2, 20, 24) and (found < PARTS).all()
    # near a feature's centre its own part wins
    own = parts.assign(deep, label[:, ::4, ::4])
    assert (downsample(found) == own).float().mean() > 0.9


def test_a_permutation_of_the_classes_permutes_the_parts() -> None:
    parts, (deep, label) = filled(False), case()
    order = torch.tensor([2, 0, 3, 1])  # new class c is old class order[c]
    table = torch.full((256,), 255)
    table[order] = torch.arange(CLASSES)
    slots = (order.unsqueeze(1) * PARTS + torch.arange(PARTS)).flatten()
    other = PartPrototypes(CLASSES, PARTS, WIDTH, momentum=0.9)
    other.fill(parts.center[slots], parts.known[slots])
    renamed = other.assign(deep, table[label])
    back = torch.cat([slots, torch.tensor([parts.slots])])
    assert torch.equal(back[renamed], parts.assign(deep, label))


def test_prototypes_follow_the_means_of_the_parts_that_occur() -> None:
    parts, (deep, label) = filled(), case()
    assigned = parts.assign(deep, label)
    assigned[assigned == 3] = parts.slots
    before = parts.center.clone()
    parts.update(deep, assigned)
    for s in range(parts.slots):
        members = [deep[b, :, i, j].double() for b, i, j in (assigned == s).nonzero().tolist()]
        if not members:
            assert torch.equal(parts.center[s], before[s])
            continue
        expected = 0.9 * before[s].double() + 0.1 * torch.stack(members).mean(0)
        torch.testing.assert_close(parts.center[s].double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(parts.center, before)


def test_more_parts_than_255_are_told_apart() -> None:
    parts = PartPrototypes(150, 3, 2, momentum=0.5)
    parts.fill(torch.randn(450, 2), torch.ones(450, dtype=torch.bool))
    label = torch.arange(150).view(1, 10, 15).to(torch.uint8)
    found = parts.assign(torch.randn(1, 2, 10, 15), label)
    assert torch.equal(found // 3, label.long())
    before = parts.center.clone()
    parts.update(torch.ones(1, 2, 10, 15), found)
    moved = (parts.center != before).any(dim=1)
    assert moved[found.flatten()].all() and moved.sum() == 150


def test_two_processes_move_them_like_one(twins, monkeypatch) -> None:
    deep, label = case()
    whole = filled()
    assigned = whole.assign(deep, label)
    whole.update(deep, assigned)
    monkeypatch.setattr(distributed, "total", twins.total)
    halves = [filled(), filled()]
    twins.run(lambda rank: halves[rank].update(deep[rank, None], assigned[rank, None]))
    for half in halves:
        torch.testing.assert_close(half.center, whole.center)
