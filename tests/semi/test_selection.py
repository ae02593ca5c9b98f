from __future__ import annotations

import pytest
import torch

from u2pl.pseudo.partition import partition
from u2pl.pseudo.select import join, select_labeled, select_unlabeled
from u2pl_semi.selection import SemiContrastConfig, select_candidates

IGNORE = 255


@pytest.mark.parametrize("selection", ["paper", "released"])
def test_select_uses_labels_for_the_first_half_and_the_partition_for_the_second(selection):
    draw, classes, size = torch.Generator().manual_seed(0), 5, (2, 13, 18)
    prob_small = (torch.randn(4, classes, 4, 5, generator=draw) * 2).softmax(dim=1)
    prob_full = (torch.randn(2, classes, *size[1:], generator=draw) * 2).softmax(dim=1)
    label_l, label_u = (
        torch.randint(0, classes, size, generator=draw, dtype=torch.uint8),
        prob_full.argmax(dim=1),
    )
    valid = torch.rand(size, generator=draw) < 0.9
    part = partition(prob_full, valid, 0.2)
    found = select_candidates(
        SemiContrastConfig(selection=selection), prob_small, label_l, label_u, part, 0.2
    )
    small = [
        x[:, [2, 6, 10, 12]][:, :, [2, 6, 10, 14, 17]]
        for x in (label_l, label_u, part.reliable_BHW, part.unreliable_BHW, valid)
    ]
    labeled = select_labeled(prob_small[:2], small[0], 2)
    assert torch.equal(found.anchor_Bhw[:2], labeled.anchor_Bhw)
    assert not found.negative_BChw[2:][~small[4].unsqueeze(1).expand(-1, classes, -1, -1)].any()
    assert (found.anchor_Bhw[2:][~small[2]] == IGNORE).all()
    if selection == "paper":
        unlabeled = select_unlabeled(prob_small[2:], small[1], small[2], small[3], 2, 5)
        assert all(torch.equal(a, b) for a, b in zip(found, join(labeled, unlabeled), strict=True))
