from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness.fixtures import assert_close
from u2pl.pseudo.confidence import confident_pixels, image_confidence


def random_case(seed: int, shape):
    draw = torch.Generator().manual_seed(seed)
    sharpness = torch.linspace(2, 14, shape[0]).view(
        -1, 1, 1, 1
    )  # so that the images are believed differently
    prob = (torch.randn(shape, generator=draw) * sharpness).softmax(dim=1)
    size = (shape[0], *shape[2:])
    return prob, torch.rand(size, generator=draw) < 0.8, torch.rand(size, generator=draw) < 0.3


def slow_confident(prob, valid, border, threshold, per):
    batch, _, height, width = prob.shape
    label, weight, counts = (
        torch.zeros(batch, height, width, dtype=torch.int64),
        torch.zeros(batch, height, width),
        [],
    )
    for b in range(batch):
        confident = seen = 0
        for i, j in np.ndindex(height, width):
            values = prob[b, :, i, j].tolist()
            label[b, i, j] = values.index(max(values))
            seen += valid[b, i, j].item()
            confident += valid[b, i, j].item() and max(values) >= threshold
        counts.append((confident, seen))
    if per == "batch":
        counts = [tuple(map(sum, zip(*counts, strict=True)))] * batch
    share = [confident / max(seen, 1) for confident, seen in counts]
    for b, i, j in np.ndindex(batch, height, width):
        weight[b, i, j] = share[b] if valid[b, i, j] and not border[b, i, j] else 0
    return label, weight, share


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 7, 3), (3, 5, 9, 11), (2, 25, 5, 7)])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.968, 1.0])
@pytest.mark.parametrize("per", ["image", "batch"])
def test_label_weight_and_share_equal_the_loop(shape, threshold, per):
    prob, valid, border = random_case(sum(shape), shape)
    found = confident_pixels(prob, valid, border, threshold, per)
    label, weight, share = slow_confident(prob, valid, border, threshold, per)
    assert found.label_BHW.dtype == torch.int64 and found.weight_BHW.dtype == torch.float32
    assert torch.equal(found.label_BHW, label)
    torch.testing.assert_close(found.weight_BHW, weight)
    assert found.share_B.tolist() == pytest.approx(share)


def test_by_default_each_image_has_its_own_share():
    prob, valid, _ = random_case(0, (3, 5, 9, 11))
    found = confident_pixels(prob, valid)
    assert len(found.share_B.unique()) == 3
    for b in range(3):
        alone = confident_pixels(prob[b : b + 1], valid[b : b + 1], threshold=0.968, per="image")
        assert torch.equal(alone.weight_BHW[0], found.weight_BHW[b])
    assert len(confident_pixels(prob, valid, per="batch").share_B.unique()) == 1


def test_the_threshold_itself_is_confident():
    prob = torch.tensor([0.968, 0.9679, 0.9681, 0.5]).view(1, 1, 1, 4)
    assert (
        confident_pixels(
            torch.cat([prob, 1 - prob], dim=1), torch.ones(1, 1, 4, dtype=torch.bool)
        ).share_B.item()
        == 0.5
    )


def test_rows_of_the_border_are_flagged_once_for_all_their_pixels():
    prob, valid, _ = random_case(1, (3, 5, 9, 11))
    rows = torch.zeros(3, 9, dtype=torch.bool)
    rows[0, :2], rows[1, 6:], rows[2] = True, True, True
    found = confident_pixels(prob, valid, rows)
    whole = confident_pixels(prob, valid, rows.unsqueeze(2).expand(-1, -1, 11))
    plain = confident_pixels(prob, valid)
    assert torch.equal(found.weight_BHW, whole.weight_BHW)
    assert torch.equal(found.share_B, plain.share_B)  # they count
    assert torch.equal(
        found.weight_BHW, torch.where(rows.unsqueeze(2), 0.0, plain.weight_BHW)
    )  # and weigh nothing


@pytest.mark.parametrize("per", ["image", "batch"])
def test_padding_counts_for_nothing(per):
    prob, valid, border = random_case(2, (3, 5, 9, 11))
    plain = confident_pixels(prob, valid, border, per=per)
    sure = torch.where(valid.unsqueeze(1), prob, torch.eye(5)[0].view(1, 5, 1, 1))
    other = confident_pixels(sure, valid, border, per=per)
    assert torch.equal(other.weight_BHW, plain.weight_BHW) and not plain.weight_BHW[~valid].any()


def test_an_image_of_padding_has_no_weight():
    prob, valid, _ = random_case(3, (3, 5, 9, 11))
    valid[1] = False
    found = confident_pixels(prob, valid)
    assert found.share_B[1] == 0 and not found.weight_BHW[1].any() and found.share_B[2] > 0
    nothing = confident_pixels(prob, torch.zeros_like(valid), per="batch")
    assert not nothing.share_B.any() and not nothing.weight_BHW.any()


def test_a_permutation_of_the_classes_permutes_the_label():
    prob, valid, border = random_case(4, (2, 6, 9, 11))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    a, b = confident_pixels(prob, valid, border), confident_pixels(prob[:, order], valid, border)
    assert torch.equal(order[b.label_BHW], a.label_BHW) and torch.equal(a.weight_BHW, b.weight_BHW)


@pytest.mark.parametrize("per", ["image", "batch"])
def test_two_processes_believe_like_one(twins, per):
    prob, valid, border = random_case(5, (4, 5, 9, 11))
    whole = confident_pixels(prob, valid, border, per=per)
    part = [slice(0, 2), slice(2, 4)]
    halves = twins.run(
        lambda rank: confident_pixels(
            prob[part[rank]], valid[part[rank]], border[part[rank]], per=per, gather=twins.gather
        )
    )
    for name in whole._fields:
        assert torch.equal(
            torch.cat([getattr(half, name) for half in halves]), getattr(whole, name)
        )


def test_labels_and_weight_match_the_fixture(shared):
    z = np.load(shared("fixtures/classmix.npz"))
    prob = torch.tensor(z["in_teacher_logits"]).softmax(dim=1)
    batch, _, height, width = prob.shape
    top, bottom = int(z["cfg_ignore_top"]), int(z["cfg_ignore_bottom"])
    rows = torch.arange(height)
    border = ((rows < top) | (rows >= height - bottom)).expand(batch, -1)
    valid = torch.ones(batch, height, width, dtype=torch.bool)
    found = confident_pixels(prob, valid, border, float(z["cfg_pseudo_threshold"]), "batch")
    assert np.array_equal(found.label_BHW.numpy(), z["out_pseudo_label"])
    assert_close(prob.amax(dim=1), z["out_pseudo_prob"])
    assert_close(found.weight_BHW, z["out_pseudo_weight"])


@pytest.mark.parametrize("shape", [(1, 2, 7, 3), (3, 5, 9, 11), (2, 150, 5, 7)])
def test_the_confidence_of_an_image_equals_the_loop(shape):
    prob, valid, _ = random_case(sum(shape), shape)
    prob[0, :, 0, 0] = torch.eye(shape[1])[0]  # certain: 0 log 0 is 0
    found = image_confidence(prob, valid)
    assert found.dtype == torch.float32 and found.shape == (shape[0],)
    for b in range(shape[0]):
        values = []
        for i, j in np.ndindex(*shape[2:]):
            p = prob[b, :, i, j].double().tolist()
            entropy = -sum(x * math.log(x) for x in p if x > 0)
            if valid[b, i, j]:
                values.append((1 - entropy / math.log(shape[1])) * max(p))
        assert found[b].item() == pytest.approx(np.mean(values), rel=1e-4)


def test_an_image_is_sure_of_certain_pixels_and_unsure_of_even_ones():
    valid = torch.ones(2, 3, 4, dtype=torch.bool)
    certain = torch.eye(5)[1].view(1, 5, 1, 1).expand(1, 5, 3, 4)
    found = image_confidence(torch.cat([certain, torch.full((1, 5, 3, 4), 0.2)]), valid)
    assert found.tolist() == pytest.approx([1, 0], abs=1e-6)


def test_padding_has_no_part_in_the_confidence_of_an_image():
    prob, valid, _ = random_case(6, (3, 5, 9, 11))
    valid[1] = False
    spoilt = torch.where(valid.unsqueeze(1), prob, torch.nan)
    found = image_confidence(spoilt, valid)
    assert torch.equal(found, image_confidence(prob, valid))
    assert found[1] == 0 and found[0] > 0


def test_the_confidence_of_images_matches_the_fixture(shared):
    z = np.load(shared("fixtures/unimatch.npz"))
    prob = torch.tensor(z["in_augseg_teacher_logits"]).softmax(dim=1)
    valid = torch.ones_like(prob[:, 0], dtype=torch.bool)
    assert_close(image_confidence(prob, valid), z["out_augseg_confidence"])
