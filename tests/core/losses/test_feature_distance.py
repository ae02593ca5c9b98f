from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from harness.fixtures import assert_close
from u2pl.losses.feature_distance import feature_distance, majority_label

IGNORE = 255


def blocks(
    seed: int, classes: int, size, side: int = 5, noise: float = 0.2, ignored: float = 0.2
) -> torch.Tensor:
    """Labels in blocks across the cells' borders, with single pixels of other classes and 255."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.tensor([*range(classes), IGNORE])
    odds = torch.tensor([*[(1 - ignored) / classes] * classes, ignored])

    def labels(*shape: int) -> torch.Tensor:
        return values[
            torch.multinomial(odds, int(np.prod(shape)), replacement=True, generator=draw)
        ].view(shape)

    coarse = (
        labels(2, -(-size[0] // side), -(-size[1] // side))
        .repeat_interleave(side, 1)
        .repeat_interleave(side, 2)
    )
    coarse = coarse[:, : size[0], : size[1]]
    return torch.where(
        torch.rand(coarse.shape, generator=draw) < noise, labels(*coarse.shape), coarse
    )


def slow_majority(label: torch.Tensor, factor: int, min_share: float) -> torch.Tensor:
    batch, height, width = label.shape
    out = torch.full((batch, -(-height // factor), -(-width // factor)), IGNORE)
    for b, i, j in np.ndindex(*out.shape):
        cell = (
            label[b, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
            .flatten()
            .tolist()
        )
        counts = Counter(cell + [IGNORE] * (factor**2 - len(cell)))
        winner = min(counts, key=lambda value: (-counts[value], value))
        if counts[winner] / factor**2 >= min_share:
            out[b, i, j] = winner
    return out


@pytest.mark.parametrize("size", [(1, 1), (8, 12), (9, 11), (31, 50)])
@pytest.mark.parametrize("factor", [1, 2, 4, 10])
@pytest.mark.parametrize("min_share", [0.0, 0.3, 0.7, 0.75, 1.0])
def test_majority_equals_the_loop(size, factor, min_share):
    label = blocks(sum(size), 4, size)
    found = majority_label(label, factor, min_share, 4)
    assert found.dtype == torch.int64
    assert torch.equal(found, slow_majority(label, factor, min_share))


def test_the_share_itself_is_enough():
    label = torch.zeros(1, 10, 10, dtype=torch.uint8)
    for other in range(101):
        label.view(-1)[:other] = 1
        for percent in (50, 70, 75, 90, 99, 100):
            expected = (
                0
                if 100 - other >= percent and other <= 50
                else 1
                if other >= percent and other > 50
                else IGNORE
            )
            assert majority_label(label, 10, percent / 100, 2).item() == expected


def test_255_wins_like_a_class_and_padding_is_255():
    label = torch.full((1, 8, 9), 2, dtype=torch.uint8)
    label[0, :4, :3] = IGNORE
    label[0, 4:, :2] = IGNORE
    assert majority_label(label, 4, 0.5, 3).tolist() == [
        [[IGNORE, 2, IGNORE], [2, 2, IGNORE]]
    ]  # 8 of 16 each: the lower value
    assert (
        majority_label(label, 4, 0.25, 3)[0, 0, 0] == IGNORE
    )  # 4 of 16 are class 2, but 12 are nothing


def test_a_permutation_of_the_classes_permutes_the_majority():
    label, order = blocks(1, 5, (40, 40), side=8, noise=0.1), torch.tensor([3, 0, 4, 1, 2])
    table = torch.full((256,), IGNORE)
    table[:5] = order
    found = majority_label(label, 8, 0.6, 5)
    assert len(found.unique()) > 3
    assert torch.equal(majority_label(table[label], 8, 0.6, 5), table[found])


@pytest.mark.parametrize(
    "label", [torch.full((2, 6, 6), IGNORE), torch.zeros(2, 6, 6, dtype=torch.uint8)]
)
def test_images_of_one_value(label):
    assert (majority_label(label, 4, 0.1, 1)[:, 0, 0] == label[0, 0, 0]).all()


def random_case(seed: int, shape, share: float = 0.5):
    draw = torch.Generator().manual_seed(seed)
    feature, reference = (torch.randn(shape, generator=draw) for _ in range(2))
    return feature, reference, torch.rand(shape[0], *shape[2:], generator=draw) < share


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 4), (1, 64, 2, 3)])
@pytest.mark.parametrize("count", [None, 0.5, 7.0])
def test_distance_and_gradient_equal_the_loop(shape, count):
    feature, reference, where = random_case(sum(shape), shape)
    where.view(-1)[0] = True
    value, grad = 0.0, torch.zeros(shape, dtype=torch.float64)
    divisor = where.sum().item() if count is None else count
    for b, i, j in where.nonzero().tolist():
        apart = feature[b, :, i, j].double() - reference[b, :, i, j].double()
        length = sum(x * x for x in apart.tolist()) ** 0.5
        value += length / divisor
        grad[b, :, i, j] = apart / length / divisor
    feature.requires_grad_()
    loss = feature_distance(
        feature, reference, where, None if count is None else torch.tensor(count)
    )
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(feature.grad.double(), grad, rtol=1e-4, atol=1e-7)


def test_equal_features_have_no_distance_and_no_gradient():
    feature, _, where = random_case(1, (2, 3, 4, 2))
    student = feature.clone().requires_grad_()
    loss = feature_distance(student, feature, where)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()


def test_no_position_is_a_finite_connected_zero():
    feature, reference, where = random_case(2, (2, 3, 4, 2))
    feature.requires_grad_()
    loss = feature_distance(feature, reference, torch.zeros_like(where), torch.tensor(0.0))
    loss.backward()
    assert loss.item() == 0 and feature.grad is not None and not feature.grad.any()


def test_other_positions_have_neither_influence_nor_gradient():
    feature, reference, where = random_case(3, (2, 3, 4, 2))
    other = torch.where(where.unsqueeze(1), feature, 1e4).requires_grad_()
    loss = feature_distance(other, reference, where)
    assert loss == feature_distance(feature, reference, where)
    loss.backward()
    outside = ~where.unsqueeze(1).expand_as(feature)
    assert not other.grad[outside].any() and other.grad[~outside].all()


def test_the_distance_is_computed_in_float32():
    feature, reference, where = random_case(4, (2, 64, 4, 2))
    half = feature.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = feature_distance(half, reference, where)
    assert loss.dtype == torch.float32 and loss == feature_distance(half.float(), reference, where)


@pytest.mark.parametrize("positions", [1, 2, 9])
def test_two_processes_have_the_gradient_of_one(twins, positions):
    """Also if a single position counts, so that the average count is one half."""
    feature, reference, _ = random_case(5, (4, 3, 4, 2))
    where = torch.zeros(4, 4, 2, dtype=torch.bool)
    where.view(-1)[:positions] = True  # eight positions an image
    whole = feature.clone().requires_grad_()
    feature_distance(whole, reference, where).backward()
    halves = [slice(0, 2), slice(2, 4)]

    def half(rank: int) -> torch.Tensor:
        mine = feature[halves[rank]].clone().requires_grad_()
        count = twins.total(where[halves[rank]].sum().float()) / 2
        feature_distance(mine, reference[halves[rank]], where[halves[rank]], count).backward()
        return mine.grad / 2

    torch.testing.assert_close(torch.cat(twins.run(half)), whole.grad)


def test_label_distance_and_gradient_match_the_fixture(shared):
    z = np.load(shared("fixtures/classmix.npz"))
    full = torch.tensor(z["in_fd_label"]).squeeze(1)
    classes = int(full[full != IGNORE].max()) + 1
    label = majority_label(full, int(z["cfg_fd_scale"]), float(z["cfg_fd_min_ratio"]), classes)
    assert np.array_equal(label.unsqueeze(1).numpy(), z["out_fd_label_downscaled"])
    where = torch.isin(label, torch.tensor(z["cfg_fd_classes"]))
    assert np.array_equal(where.unsqueeze(1).numpy(), z["out_fd_mask"] == 1)
    feature, reference = (
        torch.tensor(z["in_fd_feature"], requires_grad=True),
        torch.tensor(z["in_fd_feature_imagenet"]),
    )
    loss = float(z["cfg_fd_lambda"]) * feature_distance(feature, reference, where)
    loss.backward()
    assert_close(loss, z["out_fd_loss"])
    assert_close(feature.grad, z["out_fd_grad"])
    assert np.isnan(z["out_fd_loss_emptymask_released"])
    assert feature_distance(feature, reference, torch.zeros_like(where)) == 0
