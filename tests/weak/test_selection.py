"""Anchors and negatives: U2PL+ Eqs 29-31 by a loop over pixels, and the rows of its Tab. 14."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.pseudo.select import Candidates
from u2pl_ws.activation_maps import only_tagged
from u2pl_ws.selection import TagNegativesConfig, WeakContrastConfig, select_by_tags

IGNORE, BETA = 255, 0.45
SIZE, SMALL = (24, 32), (6, 8)
#: Pixels of images without the tag, pixels below beta; in the order of the table.
TABLE_14 = [(True, False), (False, True), (True, True)]


class Case(NamedTuple):
    cam: Tensor
    tags: Tensor
    valid: Tensor


def random_case(seed: int = 0, classes: int = 5, images: int = 4) -> Case:
    """Maps of the tagged classes, with padding at the right and below.

    The first image is tagged with all classes, the last with none.
    """
    draw = torch.Generator().manual_seed(seed)
    tags = torch.rand(images, classes, generator=draw) < 0.5
    tags[0], tags[-1] = True, False
    cam = F.interpolate(torch.rand(images, classes, 4, 5, generator=draw), SIZE, mode="bilinear")
    valid = torch.ones(images, *SIZE, dtype=torch.bool)
    valid[:, -5:], valid[1, :, -9:] = False, False
    return Case(only_tagged(cam, tags), tags, valid)


def chosen(case: Case, negatives: TagNegativesConfig, beta: float = BETA) -> Candidates:
    return select_by_tags(*case, SMALL, beta, negatives)


def slow(case: Case, negatives: TagNegativesConfig, beta: float = BETA) -> Candidates:
    cam = F.interpolate(case.cam, SMALL, mode="bilinear", align_corners=False)
    images, classes = case.tags.shape
    anchor = torch.full((images, *SMALL), IGNORE)
    negative = torch.zeros(images, classes, *SMALL, dtype=torch.bool)
    for b, i, j in torch.cartesian_prod(*map(torch.arange, (images, *SMALL))).tolist():
        if not case.valid[b, 4 * i + 2, 4 * j + 2]:
            continue
        maps = cam[b, :, i, j].tolist()
        best = max(range(classes), key=lambda c: (maps[c], -c))
        if maps[best] > beta:
            anchor[b, i, j] = best
        for c in range(classes):
            if not case.tags[b, c]:
                negative[b, c, i, j] = negatives.untagged
            else:
                negative[b, c, i, j] = negatives.unreliable and maps[c] < beta
    return Candidates(anchor, anchor, negative)


@pytest.mark.parametrize(("untagged", "unreliable"), [*TABLE_14, (False, False)])
@pytest.mark.parametrize("classes", [1, 5])
def test_every_row_of_table_14_equals_the_loop(
    classes: int, untagged: bool, unreliable: bool
) -> None:
    config, case = (
        TagNegativesConfig(untagged=untagged, unreliable=unreliable),
        random_case(classes, classes),
    )
    found = chosen(case, config)
    for one, other in zip(found, slow(case, config), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    assert found.anchor_Bhw.ne(IGNORE).any() and found.negative_BChw.any() == (
        untagged or unreliable
    )


def test_the_rows_differ_in_the_negatives_alone_and_add_up() -> None:
    case = random_case()
    first, second, both = (
        chosen(case, TagNegativesConfig(untagged=a, unreliable=b)) for a, b in TABLE_14
    )
    for row in (first, second):
        assert torch.equal(row.anchor_Bhw, both.anchor_Bhw) and torch.equal(
            row.positive_Bhw, both.positive_Bhw
        )
        assert row.negative_BChw.any()
    assert not (first.negative_BChw & second.negative_BChw).any()
    assert torch.equal(first.negative_BChw | second.negative_BChw, both.negative_BChw)
    assert not first.negative_BChw[case.tags].any() and not second.negative_BChw[~case.tags].any()


def test_the_default_is_both_conditions() -> None:
    assert TagNegativesConfig().model_dump() == {"untagged": True, "unreliable": True}


def test_padding_is_never_anything() -> None:
    case = random_case(2)
    outside = ~case.valid[:, 2::4, 2::4]
    assert outside.any() and not outside.all()
    found = chosen(case, TagNegativesConfig())
    assert (found.anchor_Bhw[outside] == IGNORE).all() and (
        found.positive_Bhw[outside] == IGNORE
    ).all()
    assert not (found.negative_BChw & outside.unsqueeze(1)).any()
    nothing = chosen(case._replace(valid=torch.zeros_like(case.valid)), TagNegativesConfig())
    assert (nothing.anchor_Bhw == IGNORE).all() and not nothing.negative_BChw.any()


def test_on_beta_a_pixel_is_neither_anchor_nor_negative() -> None:
    cam = (
        torch.tensor([0.25, 0.5, 0.75]).view(1, 1, 1, 3).repeat_interleave(4, 3).repeat(1, 1, 4, 1)
    )
    found = select_by_tags(
        cam,
        torch.ones(1, 1, dtype=torch.bool),
        torch.ones(1, 4, 12, dtype=torch.bool),
        (1, 3),
        0.5,
        TagNegativesConfig(),
    )
    assert found.anchor_Bhw.flatten().tolist() == [IGNORE, IGNORE, 0]
    assert found.negative_BChw.flatten().tolist() == [True, False, False]


def test_an_anchor_is_the_highest_of_the_tagged_classes_and_no_negative_of_it() -> None:
    case = random_case(3)
    found = chosen(case, TagNegativesConfig())
    b, i, j = found.anchor_Bhw.ne(IGNORE).nonzero(as_tuple=True)
    own = found.anchor_Bhw[b, i, j]
    assert case.tags[b, own].all() and not found.negative_BChw[b, own, i, j].any()
    assert (found.anchor_Bhw[-1] == IGNORE).all() and found.negative_BChw[
        -1, :, 0
    ].all()  # an image without tags


def test_a_permutation_of_the_classes_permutes_the_candidates() -> None:
    case, order = random_case(4), torch.tensor([3, 0, 4, 1, 2])
    table = torch.full((IGNORE + 1,), IGNORE)
    table[order] = torch.arange(5)
    found = chosen(case, TagNegativesConfig())
    renamed = chosen(
        Case(case.cam[:, order], case.tags[:, order], case.valid), TagNegativesConfig()
    )
    assert torch.equal(renamed.anchor_Bhw, table[found.anchor_Bhw])
    assert torch.equal(renamed.negative_BChw, found.negative_BChw[:, order])


@pytest.mark.parametrize(("keys", "queue"), [(7, 40), (60, 40)])
def test_a_class_takes_at_most_keys_new_keys_from_a_step(keys: int, queue: int) -> None:
    case = random_case(5)
    found = chosen(case, TagNegativesConfig())
    offered = found.negative_BChw.sum(dim=(0, 2, 3))
    assert (offered > 60).all()
    contrast = PixelContrast(
        WeakContrastConfig(keys=keys, queue=queue, anchors=8, negatives=4), 5, 6
    )
    embed = torch.randn(4, 6, *SMALL)
    for step in range(1, 4):
        generator = torch.Generator().manual_seed(step)
        result = contrast(embed, embed, found, torch.randn(5, 6), generator, groups=1)
        assert contrast.queue.filled.tolist() == [min(step * min(keys, queue), queue)] * 5
        assert result.scalars["negatives"].tolist() == [min(keys, queue)] * 5
        assert result.loss.isfinite()
