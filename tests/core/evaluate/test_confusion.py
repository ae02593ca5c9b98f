from __future__ import annotations

import numpy as np
import pytest
import torch

from u2pl.errors import UserError
from u2pl.evaluate.confusion import Confusion, Score, subset_mious


@pytest.fixture
def fixture(shared):
    return np.load(shared("fixtures/miou.npz"))


def of(pred, label, num_classes: int) -> Confusion:
    confusion = Confusion(num_classes)
    confusion.update(torch.as_tensor(pred), torch.as_tensor(label))
    return confusion


def slow_matrix(pred, label, num_classes: int) -> list[list[int]]:
    matrix = [[0] * num_classes for _ in range(num_classes)]
    for truth, said in zip(label.flatten().tolist(), pred.flatten().tolist(), strict=True):
        if truth != 255:
            matrix[truth][said] += 1
    return matrix


def random_pair(seed: int, num_classes: int = 6, occurring: int = 5):
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, occurring, (2, 9, 11), generator=draw, dtype=torch.uint8)
    label[torch.rand(label.shape, generator=draw) < 0.2] = 255
    return torch.randint(0, num_classes, label.shape, generator=draw), label


@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_the_slow_loop(seed):
    pred, label = random_pair(seed)
    assert of(pred, label, 6).matrix.tolist() == slow_matrix(pred, label, 6)


def test_scores_equal_the_slow_loop():
    pred, label = random_pair(0)
    score, seen = of(pred, label, 6).scores(), label != 255
    expected = []
    for c in range(5):
        both, either = (
            ((pred == c) & (label == c)).sum(),
            (((pred == c) | (label == c)) & seen).sum(),
        )
        expected.append(100 * float(both) / float(either))
    assert score.per_class_iou == [*(pytest.approx(iou) for iou in expected), None]
    assert score.miou == pytest.approx(sum(expected) / 5)
    assert score.pixel_accuracy == pytest.approx(100 * float((pred == label)[seen].float().mean()))


def test_fixture_afa(fixture):
    classes = int(fixture["cfg_num_classes"])
    confusion = of(fixture["in_pred"], fixture["in_gt"], classes)
    score = confusion.scores()
    np.testing.assert_array_equal(confusion.matrix.numpy(), fixture["out_confusion_afa"])
    assert score.miou / 100 == pytest.approx(float(fixture["out_miou_afa"]), abs=1e-5)
    assert score.pixel_accuracy / 100 == pytest.approx(
        float(fixture["out_pixel_acc_afa"]), abs=1e-5
    )
    # None: predicted without ever being true (0 in AFA), or nowhere (NaN)
    occurs, expected = fixture["out_target"] > 0, np.nan_to_num(fixture["out_iou_afa"])
    assert [iou is not None for iou in score.per_class_iou] == occurs.tolist()
    np.testing.assert_allclose(
        np.array(score.per_class_iou, float)[occurs] / 100, expected[occurs], rtol=0, atol=1e-5
    )
    assert not expected[~occurs].any()


def test_fixture_u2pl_counts_absent_classes_as_zero(fixture):
    """U2PL's mean is over all classes: ours times the share of classes that occur equals theirs."""
    classes = int(fixture["cfg_num_classes"])
    confusion = of(fixture["in_pred"], fixture["in_gt"], classes)
    matrix, score = confusion.matrix, confusion.scores()
    np.testing.assert_array_equal(matrix.diagonal().numpy(), fixture["out_intersection"])
    np.testing.assert_array_equal(matrix.sum(1).numpy(), fixture["out_target"])
    np.testing.assert_array_equal(
        (matrix.sum(0) + matrix.sum(1) - matrix.diagonal()).numpy(), fixture["out_union"]
    )
    counted = np.array([iou or 0.0 for iou in score.per_class_iou]) / 100
    np.testing.assert_allclose(counted, fixture["out_iou_u2pl"], rtol=0, atol=1e-5)
    occurring = sum(iou is not None for iou in score.per_class_iou)
    assert score.miou / 100 * occurring / classes == pytest.approx(
        float(fixture["out_miou_u2pl"]), abs=1e-5
    )


def test_streaming_equals_one_batch():
    pred, label = random_pair(1)
    streamed = Confusion(6)
    for one_pred, one_label in zip(pred, label, strict=True):
        streamed.update(one_pred, one_label)
    assert torch.equal(streamed.matrix, of(pred, label, 6).matrix)


def test_permuted_classes_permute_the_scores():
    pred, label = random_pair(2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    renamed = torch.where(label == 255, 255, order[label.long().clamp(max=5)])
    score, permuted = of(pred, label, 6).scores(), of(order[pred], renamed, 6).scores()
    assert permuted.miou == pytest.approx(score.miou)
    assert [permuted.per_class_iou[i] for i in order.tolist()] == score.per_class_iou


def test_ignored_pixels_do_not_count():
    pred, label = random_pair(3)
    other = torch.where(label == 255, (pred + 1) % 6, pred)
    assert torch.equal(of(pred, label, 6).matrix, of(other, label, 6).matrix)


def test_only_ignored_pixels_cannot_be_scored():
    with pytest.raises(UserError, match="no labelled pixel"):
        of(torch.zeros(2, 3), torch.full((2, 3), 255), 4).scores()


def test_counts_by_class_are_what_iou_is_made_of():
    pred, label = random_pair(4)
    hit, truth, predicted = of(pred, label, 6).by_class().tolist()
    seen = label != 255
    for c in range(6):
        assert hit[c] == int(((pred == c) & (label == c)).sum())
        assert truth[c] == int((label == c).sum())
        assert predicted[c] == int(((pred == c) & seen).sum())


def test_subsets_average_what_occurs_of_them():
    score = Score([80.0, 60.0, None, 10.0], 50.0, 90.0)
    subsets = {"most": ("sky", "sea", "sun"), "one": ("sand",), "none": ("sun",)}
    assert subset_mious(score, ("sky", "sea", "sun", "sand"), subsets) == {
        "most": 70.0,
        "one": 10.0,
        "none": None,
    }
    assert subset_mious(score, ("sky", "sea", "sun", "sand"), {}) == {}


def test_a_subset_of_all_classes_has_the_miou():
    score = of(*random_pair(5), 6).scores()
    names = tuple("abcdef")
    assert subset_mious(score, names, {"all": names})["all"] == pytest.approx(score.miou)
