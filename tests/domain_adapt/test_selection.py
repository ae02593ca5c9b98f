"""Anchors and negatives: U2PL+ Eqs 21-28 by a loop over pixels, and the rows of its Tab. 12."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from u2pl.pseudo.partition import Partition, lowest_entropy, partition
from u2pl.pseudo.select import Candidates, Thresholds
from u2pl_da.selection import DomainNegativesConfig, select_in_domains

CLASSES, IMAGES, SIDE, ALPHA = 7, 3, 40, 0.2
LIMITS = Thresholds(r_l=2, r_h=5, delta_p=0.3)
#: D_l, R, U, in the order of the table.
TABLE_12 = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (1, 1, 1)]


class Case(NamedTuple):
    prob: Tensor  # of source and mixed images at a quarter of the size
    label_l: Tensor
    label_m: Tensor
    pasted: Tensor
    seen: Tensor  # target pixels that are neither padding nor border
    part: Partition


def random_case(seed: int = 0) -> Case:
    """Mixed images with a box of source pixels, a border at the top and padding at the right.

    Some source labels are 255.
    """
    draw = torch.Generator().manual_seed(seed)
    prob = (2 * torch.randn(2 * IMAGES, CLASSES, SIDE // 4, SIDE // 4, generator=draw)).softmax(
        dim=1
    )
    label_l, label_m = torch.randint(0, CLASSES, (2, IMAGES, SIDE, SIDE), generator=draw)
    pasted = torch.zeros(IMAGES, SIDE, SIDE, dtype=torch.bool)
    pasted[:, 4:24, 8:28] = True
    label_l[torch.rand(label_l.shape, generator=draw) < 0.2] = 255
    label_m[pasted & (torch.rand(label_m.shape, generator=draw) < 0.2)] = 255
    seen = ~pasted
    seen[:, :8], seen[:, :, 32:] = False, False
    full = (2 * torch.randn(IMAGES, CLASSES, SIDE, SIDE, generator=draw)).softmax(dim=1)
    return Case(prob, label_l, label_m, pasted, seen, partition(full, seen, ALPHA))


def chosen(case: Case, negatives: DomainNegativesConfig) -> Candidates:
    return select_in_domains(
        case.prob,
        case.label_l,
        case.label_m,
        case.pasted,
        case.part,
        ALPHA,
        LIMITS,
        negatives,
        lambda x: x,
    )


def slow(case: Case, negatives: DomainNegativesConfig) -> Candidates:
    """The same by a loop over the features, each of which is the pixel next to its centre."""
    low = lowest_entropy(case.part, ALPHA)
    side = SIDE // 4
    anchor = torch.full((2 * IMAGES, side, side), 255)
    negative = torch.zeros(2 * IMAGES, CLASSES, side, side, dtype=torch.bool)
    for b, i, j in torch.cartesian_prod(
        torch.arange(2 * IMAGES), torch.arange(side), torch.arange(side)
    ).tolist():
        p = case.prob[b, :, i, j]
        pixel = (b % IMAGES, 4 * i + 2, 4 * j + 2)
        label = int((case.label_l if b < IMAGES else case.label_m)[pixel])
        from_source = b < IMAGES or bool(case.pasted[pixel])
        if (
            label != 255
            and p[label] > LIMITS.delta_p
            and (from_source or case.part.reliable_BHW[pixel])
        ):
            anchor[b, i, j] = label
        for c in range(CLASSES):
            rank = int((p > p[c]).sum())
            if from_source:
                negative[b, c, i, j] = (
                    negatives.source and label not in (c, 255) and rank < LIMITS.r_l
                )
            else:
                doubtful = (negatives.unreliable and case.part.unreliable_BHW[pixel]) or (
                    negatives.reliable and low[pixel]
                )
                negative[b, c, i, j] = bool(doubtful) and LIMITS.r_l <= rank < LIMITS.r_h
    return Candidates(anchor, anchor, negative)


@pytest.mark.parametrize(("source", "reliable", "unreliable"), [*TABLE_12, (0, 0, 0)])
def test_every_row_of_table_12_equals_the_loop(source: int, reliable: int, unreliable: int) -> None:
    config, case = (
        DomainNegativesConfig(source=source, reliable=reliable, unreliable=unreliable),
        random_case(),
    )
    for found, expected in zip(chosen(case, config), slow(case, config), strict=True):
        assert torch.equal(found, expected)


def test_the_rows_differ_in_the_negatives_of_exactly_their_pixels() -> None:
    case = random_case()
    known = torch.cat([torch.ones_like(case.pasted), case.pasted])[:, 2::4, 2::4]
    low = torch.cat([torch.zeros_like(case.pasted), lowest_entropy(case.part, ALPHA)])[
        :, 2::4, 2::4
    ]
    high = torch.cat([torch.zeros_like(case.pasted), case.part.unreliable_BHW])[:, 2::4, 2::4]
    assert not (known & low).any() and not (known & high).any() and low.any() and high.any()
    every = chosen(case, DomainNegativesConfig(source=True, reliable=True, unreliable=True))
    for source, reliable, unreliable in TABLE_12:
        row = chosen(
            case, DomainNegativesConfig(source=source, reliable=reliable, unreliable=unreliable)
        )
        assert torch.equal(row.anchor_Bhw, every.anchor_Bhw) and torch.equal(
            row.positive_Bhw, every.positive_Bhw
        )
        where = (known & bool(source)) | (low & bool(reliable)) | (high & bool(unreliable))
        assert torch.equal(row.negative_BChw, every.negative_BChw & where.unsqueeze(1))
        assert row.negative_BChw.any()


def test_the_default_is_the_best_row() -> None:
    assert tuple(DomainNegativesConfig().model_dump().values()) == (True, False, True)


def test_border_padding_and_what_is_ignored_serve_as_nothing() -> None:
    case = random_case()
    found = chosen(case, DomainNegativesConfig(source=True, reliable=True, unreliable=True))
    target = ~case.pasted & ~case.seen
    ignored = torch.cat([case.label_l == 255, target | (case.pasted & (case.label_m == 255))])[
        :, 2::4, 2::4
    ]
    assert target[:, 2::4, 2::4].any() and ignored.float().mean() > 0.2
    assert (found.anchor_Bhw[ignored] == 255).all() and (found.positive_Bhw[ignored] == 255).all()
    assert not (found.negative_BChw & ignored.unsqueeze(1)).any()
    assert (found.anchor_Bhw != 255).any()


def test_a_pasted_pixel_is_what_it_is_in_its_own_image() -> None:
    """With equal labels and probabilities, it is the same candidate wherever it lies."""
    case = random_case()
    everywhere = torch.ones_like(case.pasted)
    nothing = partition(torch.full((IMAGES, CLASSES, SIDE, SIDE), 1 / CLASSES), ~everywhere, ALPHA)
    same = case._replace(
        prob=case.prob[:IMAGES].repeat(2, 1, 1, 1),
        label_m=case.label_l,
        pasted=everywhere,
        part=nothing,
    )
    for group in chosen(same, DomainNegativesConfig()):
        assert torch.equal(group[:IMAGES], group[IMAGES:])
