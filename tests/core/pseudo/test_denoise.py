from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from u2pl.pseudo.denoise import denoise, prototype_weight


def random_case(seed: int, classes: int, width: int, size=(2, 5, 3), scale: float = 1.0):
    draw = torch.Generator().manual_seed(seed)
    embed = torch.randn(size[0], width, *size[1:], generator=draw) * scale
    return (
        embed,
        torch.randn(classes, width, generator=draw) * scale,
        torch.rand(classes, generator=draw) < 0.7,
    )


def slow_weight(
    z: torch.Tensor, prototypes: torch.Tensor, known: list[bool], raw: bool
) -> list[float]:
    """The weights of one pixel."""
    z, rows = z.double(), prototypes.double()
    if not raw:
        z, rows = (
            z / z.norm(),
            [row / row.norm() if k else row for row, k in zip(rows, known, strict=True)],
        )
    nearness = [
        math.exp(-(z - row).norm().item()) if k else 0.0 for row, k in zip(rows, known, strict=True)
    ]
    if not any(known):
        return [1.0] * len(known)
    share = [n / sum(nearness) for n in nearness]
    mean = sum(share) / sum(known)
    return [s if k else mean for s, k in zip(share, known, strict=True)]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(("classes", "width"), [(1, 3), (2, 8), (7, 16), (25, 64)])
@pytest.mark.parametrize("which", ["all", "some", "none"])
def test_weight_equals_the_loop(raw, classes, width, which):
    embed, prototypes, known = random_case(classes, classes, width)
    known = {"all": torch.ones_like(known), "some": known, "none": torch.zeros_like(known)}[which]
    weight = prototype_weight(embed, prototypes, known, raw)
    for b, i, j in np.ndindex(weight.shape[0], *weight.shape[2:]):
        slow = slow_weight(embed[b, :, i, j], prototypes, known.tolist(), raw)
        # without any prototype only the proportions matter
        scale = 1.0 if known.any() else weight[b, 0, i, j].item()
        assert weight[b, :, i, j].tolist() == pytest.approx([scale * s for s in slow], rel=1e-4)


def test_weights_of_known_classes_sum_to_one():
    embed, prototypes, _ = random_case(0, 6, 16)
    known = torch.tensor([True, True, False, True, True, False])
    weight = prototype_weight(embed, prototypes, known)
    torch.testing.assert_close(weight[:, known].sum(dim=1), torch.ones(2, 5, 3))
    torch.testing.assert_close(weight[:, 2], weight[:, known].mean(dim=1))
    torch.testing.assert_close(weight[:, 5], weight[:, 2])


@pytest.mark.parametrize("raw", [False, True])
def test_the_nearest_prototype_weighs_most(raw):
    _, prototypes, _ = random_case(1, 5, 12)
    embed = prototypes.t().reshape(1, 12, 1, 5)
    weight = prototype_weight(embed, prototypes, torch.ones(5, dtype=torch.bool), raw)
    assert weight[0, :, 0].argmax(dim=0).tolist() == [0, 1, 2, 3, 4]


def test_unit_distances_do_not_know_lengths_and_raw_ones_do():
    embed, prototypes, _ = random_case(2, 5, 12)
    known = torch.ones(5, dtype=torch.bool)
    torch.testing.assert_close(
        prototype_weight(embed * 9, prototypes * 3, known),
        prototype_weight(embed, prototypes, known),
    )
    assert (
        prototype_weight(embed * 9, prototypes * 3, known, raw=True)
        - prototype_weight(embed, prototypes, known, raw=True)
    ).abs().max() > 0.1


def test_unknown_prototypes_may_hold_anything():
    embed, prototypes, _ = random_case(3, 4, 8)
    known = torch.tensor([True, False, True, True])
    other = prototypes.clone()
    other[1] = 1e6
    assert torch.equal(
        prototype_weight(embed, other, known), prototype_weight(embed, prototypes, known)
    )


def test_a_permutation_of_the_classes_permutes_the_weights():
    embed, prototypes, known = random_case(4, 7, 12)
    order = torch.tensor([3, 6, 0, 2, 5, 1, 4])
    torch.testing.assert_close(
        prototype_weight(embed, prototypes[order], known[order]),
        prototype_weight(embed, prototypes, known)[:, order],
    )


@pytest.mark.parametrize("raw", [False, True])
def test_autocast_does_not_lower_the_precision(raw):
    embed, prototypes, _ = random_case(5, 7, 64)
    known = torch.ones(7, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = prototype_weight(embed, prototypes, known, raw)
    assert lowered.dtype == torch.float32
    torch.testing.assert_close(lowered, prototype_weight(embed, prototypes, known, raw))


def test_denoised_probabilities_are_the_renormalised_product():
    draw = torch.Generator().manual_seed(6)
    prob = (torch.randn(2, 6, 5, 4, generator=draw) * 4).softmax(dim=1)
    weight = torch.rand(2, 6, 5, 4, generator=draw)
    found = denoise(prob, weight)
    for b, i, j in np.ndindex(2, 5, 4):
        product = [
            p * w
            for p, w in zip(prob[b, :, i, j].tolist(), weight[b, :, i, j].tolist(), strict=True)
        ]
        assert found[b, :, i, j].tolist() == pytest.approx(
            [x / sum(product) for x in product], rel=1e-5, abs=1e-9
        )
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 5, 4))


def test_without_prototypes_the_label_stays():
    embed, prototypes, _ = random_case(7, 6, 8)
    prob = torch.randn(2, 6, 5, 3, generator=torch.Generator().manual_seed(7)).softmax(dim=1)
    weight = prototype_weight(embed, prototypes, torch.zeros(6, dtype=torch.bool))
    assert torch.equal(denoise(prob, weight).argmax(dim=1), prob.argmax(dim=1))
    torch.testing.assert_close(denoise(prob, weight), prob)


def test_a_class_without_prototype_can_still_win():
    """Its weight is the mean of the others, so a sure prediction of it stays."""
    embed, prototypes, _ = random_case(8, 6, 8)
    known = torch.tensor([True, True, True, True, True, False])
    prob = F.one_hot(torch.full((2, 5, 3), 5), 6).permute(0, 3, 1, 2) * 0.9 + 0.1 / 6
    assert (denoise(prob, prototype_weight(embed, prototypes, known)).argmax(dim=1) == 5).all()


def test_a_prototype_far_closer_turns_a_wavering_label():
    prototypes = torch.eye(3)
    embed = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    prob = torch.tensor([0.45, 0.40, 0.15]).view(1, 3, 1, 1)
    weight = prototype_weight(embed, prototypes, torch.ones(3, dtype=torch.bool))
    assert prob.argmax(dim=1).item() == 0 and denoise(prob, weight).argmax(dim=1).item() == 1
