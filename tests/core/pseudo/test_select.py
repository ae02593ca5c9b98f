from __future__ import annotations

import numpy as np
import pytest
import torch

from u2pl.maps import downsample, one_hot
from u2pl.pseudo.partition import lowest_entropy, partition
from u2pl.pseudo.select import (
    SELECTIONS,
    Candidates,
    Thresholds,
    join,
    only_correct,
    rank_limits,
    ranked_below,
    select_labeled,
    select_unlabeled,
)

IGNORE = 255


def random_prob(seed: int, classes: int, size=(2, 3, 5), ties: bool = False):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(size[0], classes, *size[1:], generator=draw) * 2
    return (logits.round() if ties else logits).softmax(dim=1)


def random_label(seed: int, classes: int, size=(2, 3, 5), ignored: float = 0.2):
    draw = torch.Generator().manual_seed(seed + 1000)
    label = torch.randint(0, classes, size, generator=draw, dtype=torch.uint8)
    label[torch.rand(size, generator=draw) < ignored] = IGNORE
    return label


def rank_of(prob: torch.Tensor, b: int, c: int, i: int, j: int) -> int:
    """How many classes are more probable."""
    return sum(float(other) > float(prob[b, c, i, j]) for other in prob[b, :, i, j])


def slow_labeled(prob, label, r_l, delta_p):
    anchor = torch.full(label.shape, IGNORE)
    negative = torch.zeros(prob.shape, dtype=torch.bool)
    for b, i, j in np.ndindex(*label.shape):
        y = int(label[b, i, j])
        if y != IGNORE and prob[b, y, i, j] > delta_p:
            anchor[b, i, j] = y
        for c in range(prob.shape[1]):
            negative[b, c, i, j] = y not in (c, IGNORE) and rank_of(prob, b, c, i, j) < r_l
    return Candidates(anchor, anchor, negative)


def slow_unlabeled(prob, label, reliable, unreliable, r_l, r_h, delta_p):
    anchor = torch.full(label.shape, IGNORE)
    negative = torch.zeros(prob.shape, dtype=torch.bool)
    for b, i, j in np.ndindex(*label.shape):
        y = int(label[b, i, j])
        if reliable[b, i, j] and prob[b, y, i, j] > delta_p:
            anchor[b, i, j] = y
        for c in range(prob.shape[1]):
            negative[b, c, i, j] = (
                bool(unreliable[b, i, j]) and r_l <= rank_of(prob, b, c, i, j) < r_h
            )
    return Candidates(anchor, anchor, negative)


def same(a: Candidates, b: Candidates) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 7, 12, 21, 25])
def test_ranks_equal_the_loop(classes, ties):
    prob = random_prob(classes, classes, size=(2, 3, 3), ties=ties)
    for rank in {0, 1, 2, 3, classes // 2, classes - 1, classes, 20}:
        found = ranked_below(prob, rank)
        assert found.dtype == torch.bool
        for place in np.ndindex(*prob.shape):
            assert found[place].item() == (rank_of(prob, *place) < rank), rank


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (1, (1, 1)),
        (2, (1, 2)),
        (3, (1, 3)),
        (4, (2, 4)),
        (6, (3, 6)),
        (7, (3, 7)),
        (19, (3, 19)),
        (21, (3, 20)),
        (150, (3, 20)),
    ],
)
def test_rank_limits_leave_something_to_contrast(classes, expected):
    assert rank_limits(classes) == expected


def test_rank_limits_follow_what_was_asked_for():
    assert rank_limits(21, 10, 30) == (10, 21)
    assert rank_limits(21, 2, 5) == (2, 5)


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 25])
@pytest.mark.parametrize("delta_p", [0.0, 0.3, 0.9])
def test_labeled_candidates_equal_the_loop(classes, delta_p):
    prob, label = random_prob(classes, classes), random_label(classes, classes)
    r_l, _ = rank_limits(classes)
    assert same(select_labeled(prob, label, r_l, delta_p), slow_labeled(prob, label, r_l, delta_p))


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 25])
@pytest.mark.parametrize("delta_p", [0.0, 0.3, 0.9])
def test_unlabeled_candidates_equal_the_loop(classes, delta_p):
    prob = random_prob(classes, classes)
    draw = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(classes))
    reliable, unreliable = draw < 0.5, draw > 0.7  # the rest is padding
    label, (r_l, r_h) = prob.argmax(dim=1), rank_limits(classes)
    found = select_unlabeled(prob, label, reliable, unreliable, r_l, r_h, delta_p)
    assert same(found, slow_unlabeled(prob, label, reliable, unreliable, r_l, r_h, delta_p))
    assert not found.negative_BChw[reliable.unsqueeze(1).expand_as(prob)].any()
    assert (found.anchor_Bhw[~reliable] == IGNORE).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_still_get_negatives(classes):
    prob, nothing = random_prob(0, classes, size=(2, 9, 9)), torch.zeros(2, 9, 9, dtype=torch.bool)
    r_l, r_h = rank_limits(classes)
    labeled = select_labeled(prob, random_label(0, classes, size=(2, 9, 9)), r_l)
    unlabeled = select_unlabeled(prob, prob.argmax(dim=1), nothing, ~nothing, r_l, r_h)
    for found in (labeled, unlabeled):
        assert found.negative_BChw.sum(dim=(0, 2, 3)).gt(0).all()


def test_ignored_labels_are_nothing():
    prob, label = random_prob(1, 5), torch.full((2, 3, 5), IGNORE, dtype=torch.uint8)
    found = select_labeled(prob, label, 3)
    assert (
        (found.anchor_Bhw == IGNORE).all()
        and (found.positive_Bhw == IGNORE).all()
        and not found.negative_BChw.any()
    )


def test_join_appends_images():
    first, second = (select_labeled(random_prob(s, 5), random_label(s, 5), 3) for s in (0, 1))
    both = join(first, second)
    for whole, a, b in zip(both, first, second, strict=True):
        assert torch.equal(whole, torch.cat([a, b]))


def whole_case(seed: int, classes: int):
    """Full-size labels and partition beside quarter-size probabilities."""
    size = (2, 11, 18)
    full = random_prob(seed, classes, size)
    valid = torch.ones(size, dtype=torch.bool)
    valid[:, :, 14:] = False
    part = partition(full, valid, 0.3)
    label_l, label_u = random_label(seed, classes, size), full.argmax(dim=1)
    prob_l, prob_u = random_prob(seed + 1, classes), random_prob(seed + 2, classes)
    return prob_l, downsample(label_l), prob_u, downsample(label_u), part


def centres(map_BHW: torch.Tensor) -> torch.Tensor:
    """Pixels next to the centres of the features of 11 x 18 pixels, or the last ones."""
    return map_BHW[:, [2, 6, 10]][:, :, [2, 6, 10, 14, 17]]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_released_pixels_are_those_of_the_partition_at_feature_size(selection):
    case, limits = whole_case(5, 5), Thresholds(*rank_limits(5), 0.3)
    part = case[-1]
    low = lowest_entropy(part, 0.2)
    rows, columns = [i * 11 // 3 for i in range(3)], [j * 18 // 5 for j in range(5)]
    whole = SELECTIONS[selection](*case, 0.2, limits, lambda x: x, "released")
    reliable = (low if selection == "released" else part.reliable_BHW)[:, rows][:, :, columns]
    expected = slow_unlabeled(
        case[2], case[3], reliable, part.unreliable_BHW[:, rows][:, :, columns], *limits
    )
    assert torch.equal(whole.anchor_Bhw[2:], expected.anchor_Bhw)


@pytest.mark.parametrize("classes", [3, 7, 25])
def test_the_papers_selection(classes):
    case, limits = whole_case(classes, classes), Thresholds(*rank_limits(classes), 0.3)
    prob_l, label_l, prob_u, label_u, part = case
    found = SELECTIONS["paper"](*case, 0.3, limits, lambda x: x)
    reliable, unreliable = centres(part.reliable_BHW), centres(part.unreliable_BHW)
    expected = join(
        slow_labeled(prob_l, label_l, limits.r_l, 0.3),
        slow_unlabeled(prob_u, label_u, reliable, unreliable, *limits),
    )
    assert same(found, expected)


@pytest.mark.parametrize("classes", [3, 7, 25])
def test_the_released_selection(classes):
    case, limits, alpha = whole_case(classes, classes), Thresholds(*rank_limits(classes), 0.3), 0.2
    prob_l, label_l, prob_u, label_u, part = case
    found = SELECTIONS["released"](*case, alpha, limits, lambda x: x)
    low, high = centres(lowest_entropy(part, alpha)), centres(part.unreliable_BHW)
    expected = join(
        slow_labeled(prob_l, label_l, limits.r_l, 0.3),
        slow_unlabeled(prob_u, label_u, low, high, *limits),
    )
    assert torch.equal(found.anchor_Bhw, expected.anchor_Bhw)
    for b, i, j in np.ndindex(*found.anchor_Bhw.shape):
        own = (
            int(label_l[b, i, j])
            if b < 2
            else int(label_u[b - 2, i, j])
            if low[b - 2, i, j]
            else IGNORE
        )
        assert found.positive_Bhw[b, i, j] == own
        for c in range(classes):
            wanted = (
                b >= 2 and int(label_u[b - 2, i, j]) == c and expected.negative_BChw[b, c, i, j]
            )
            assert found.negative_BChw[b, c, i, j] == wanted


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_permutation_of_the_classes_permutes_the_candidates(selection):
    prob_l, label_l, prob_u, label_u, part = whole_case(5, 7)
    limits, order = Thresholds(*rank_limits(7), 0.3), torch.tensor([3, 6, 0, 2, 5, 1, 4])
    table = torch.full((256,), IGNORE)
    table[order] = torch.arange(7)
    plain = SELECTIONS[selection](prob_l, label_l, prob_u, label_u, part, 0.3, limits, lambda x: x)
    renamed = SELECTIONS[selection](
        prob_l[:, order],
        table[label_l.long()],
        prob_u[:, order],
        table[label_u],
        part,
        0.3,
        limits,
        lambda x: x,
    )
    assert torch.equal(renamed.anchor_Bhw, table[plain.anchor_Bhw])
    assert torch.equal(renamed.positive_Bhw, table[plain.positive_Bhw])
    assert torch.equal(renamed.negative_BChw, plain.negative_BChw[:, order])


def test_candidates_match_the_fixture(shared):
    z = np.load(shared("fixtures/contrast.npz"))
    prob, split = torch.tensor(z["in_prob_teacher"]), int(z["cfg_num_labeled"])
    label_l, label_u = torch.tensor(z["in_label_l"]), torch.tensor(z["in_label_u"])
    low, high = (torch.tensor(z[f"in_{name}_mask"]).squeeze(1) == 1 for name in ("low", "high"))
    r_l, r_h, delta_p = (
        int(z["cfg_low_rank"]),
        min(int(z["cfg_high_rank"]), prob.shape[1]),
        float(z["cfg_delta_p"]),
    )
    labeled = select_labeled(prob[:split], torch.where(low[:split], label_l, IGNORE), r_l, delta_p)
    unlabeled = select_unlabeled(
        prob[split:], label_u, low[split:], high[split:], r_l, r_h, delta_p
    )

    def by_class(mask_BChw: torch.Tensor) -> np.ndarray:
        return mask_BChw.transpose(0, 1).numpy()

    anchors = one_hot(join(labeled, unlabeled).anchor_Bhw, prob.shape[1])
    assert np.array_equal(by_class(anchors), z["out_A_anchor_mask"] == 1)
    assert anchors.sum(dim=(0, 2, 3)).tolist() == z["out_A_anchor_count"].tolist()
    assert np.array_equal(
        by_class(unlabeled.negative_BChw), z["out_B_keys_unlabelled_paper_mask"] == 1
    )
    keys = select_labeled(prob[:split], label_l, r_l, delta_p).negative_BChw
    assert np.array_equal(by_class(keys), z["out_B_keys_labelled_paper_mask"] == 1)
    released = unlabeled.negative_BChw & one_hot(label_u, prob.shape[1])
    assert np.array_equal(by_class(released), z["out_B_keys_released_mask"][:, split:] == 1)
    assert not z["out_B_keys_released_mask"][:, :split].any()


@pytest.mark.parametrize("classes", [1, 4, 25])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_only_correct_leaves_keys_of_labelled_pixels_that_are_right(classes, dtype):
    draw = torch.Generator().manual_seed(classes)
    prob, label = random_prob(classes, classes), random_label(classes, classes).to(dtype)
    right = prob.argmax(dim=1)
    label = torch.where(torch.rand(label.shape, generator=draw) < 0.5, right.to(dtype), label)
    both = (4, *label.shape[1:])
    anchor, positive = (torch.randint(0, classes, both, generator=draw) for _ in range(2))
    negative = torch.rand(4, classes, *both[1:], generator=draw) < 0.7
    found = only_correct(Candidates(anchor, positive, negative), prob, label)
    assert torch.equal(found.anchor_Bhw, anchor) and torch.equal(found.positive_Bhw, positive)
    for b, c, i, j in np.ndindex(*negative.shape):
        kept = (
            b < 2
            and rank_of(prob, b, min(int(label[b, i, j]), classes - 1), i, j) == 0
            and label[b, i, j] != IGNORE
        )
        assert found.negative_BChw[b, c, i, j] == (kept and negative[b, c, i, j])
    assert found.negative_BChw.any()
    assert classes == 1 or (found.negative_BChw != negative)[:2].any()
