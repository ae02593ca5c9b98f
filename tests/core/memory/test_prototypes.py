from __future__ import annotations

import numpy as np
import pytest
import torch

from u2pl import distributed
from u2pl.maps import upsample
from u2pl.memory.prototypes import (
    DenoisingConfig,
    DenoisingPrototypes,
    PrototypeConfig,
    Prototypes,
    class_means,
)
from u2pl.pseudo.denoise import denoise, prototype_weight

IGNORE = 255


def random_case(seed: int, classes: int, width: int, size=(3, 5, 7), present=None):
    draw = torch.Generator().manual_seed(seed)
    embed = torch.randn(size[0], width, *size[1:], generator=draw) + 2
    pool = torch.tensor([*(present if present is not None else range(classes)), IGNORE])
    return embed, pool[torch.randint(0, len(pool), size, generator=draw)]


def slow_means(embed, label, classes):
    sums = [torch.zeros(embed.shape[1], dtype=torch.float64) for _ in range(classes)]
    count = [0] * classes
    for b, i, j in np.ndindex(*label.shape):
        if (y := int(label[b, i, j])) != IGNORE:
            sums[y] += embed[b, :, i, j].double()
            count[y] += 1
    return torch.stack([s / max(n, 1) for s, n in zip(sums, count, strict=True)]), count


@pytest.mark.parametrize(("classes", "width"), [(1, 1), (2, 5), (7, 16), (25, 8)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_means_equal_the_loop(classes, width, dtype):
    embed, label = random_case(classes, classes, width, present=range(0, classes, 2))
    mean, count = class_means(embed, label.to(dtype), classes)
    expected, expected_count = slow_means(embed, label, classes)
    torch.testing.assert_close(mean.double(), expected, rtol=1e-5, atol=1e-6)
    assert count.tolist() == expected_count


def test_means_of_nothing_are_zero():
    embed, label = random_case(0, 4, 6)
    mean, count = class_means(embed, torch.full_like(label, IGNORE), 4)
    assert not mean.any() and not count.any()


def test_ignored_pixels_do_not_count():
    embed, label = random_case(1, 4, 6)
    other = torch.where((label == IGNORE).unsqueeze(1), torch.tensor(1e4), embed)
    torch.testing.assert_close(class_means(other, label, 4)[0], class_means(embed, label, 4)[0])


def test_a_permutation_of_the_classes_permutes_the_means():
    embed, label = random_case(2, 6, 5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    table = torch.full((256,), IGNORE)
    table[order] = torch.arange(6)
    mean, count = class_means(embed, label, 6)
    renamed, renamed_count = class_means(embed, table[label], 6)
    torch.testing.assert_close(renamed, mean[order])
    assert torch.equal(renamed_count, count[order])


def test_16_bit_embeddings_are_summed_in_float32():
    embed, label = random_case(3, 2, 4, size=(2, 40, 40))
    half = embed.bfloat16()
    mean, count = class_means(half, label, 2)
    expected, expected_count = slow_means(half, label, 2)
    assert mean.dtype == count.dtype == torch.float32 and count.tolist() == expected_count
    torch.testing.assert_close(mean.double(), expected, rtol=1e-5, atol=1e-5)


def test_autocast_does_not_lower_the_precision():
    embed, label = random_case(4, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        lowered, _ = class_means(embed, label, 3)
    assert torch.equal(lowered, class_means(embed, label, 3)[0])


def test_two_processes_have_the_means_of_one(twins, monkeypatch):
    embed, label = random_case(5, 4, 6, size=(4, 5, 7))
    label[:2, 1:] = IGNORE
    whole, whole_count = class_means(embed, label, 4)
    monkeypatch.setattr(distributed, "total", twins.total)
    for mean, count in twins.run(
        lambda rank: class_means(embed[2 * rank : 2 * rank + 2], label[2 * rank : 2 * rank + 2], 4)
    ):
        torch.testing.assert_close(mean, whole)
        assert torch.equal(count, whole_count)


@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.999])
def test_updates_equal_the_loop(momentum):
    classes, width = 5, 4
    prototypes = Prototypes(PrototypeConfig(momentum=momentum), classes, width)
    slow, sightings = (
        [torch.zeros(width, dtype=torch.float64) for _ in range(classes)],
        [0] * classes,
    )
    for step, present in enumerate([[1, 3], [1], [], [0, 1, 3], [3], [0, 1, 3], [1]]):
        embed, label = random_case(step, classes, width, present=present)
        prototypes.update(embed, label)
        means, count = slow_means(embed, label, classes)
        for c in range(classes):
            if count[c]:
                sightings[c] += 1
                m = min(1 - 1 / sightings[c], momentum)
                slow[c] = m * slow[c] + (1 - m) * means[c]
        torch.testing.assert_close(
            prototypes.center.double(), torch.stack(slow), rtol=1e-5, atol=1e-6
        )
        assert prototypes.seen.tolist() == sightings
        assert prototypes.known.tolist() == [n > 0 for n in sightings]
    assert not prototypes.known[2] and not prototypes.center[2].any()


def test_an_absent_class_keeps_its_prototype_bit_for_bit():
    prototypes = Prototypes(PrototypeConfig(), 3, 4)
    prototypes.update(*random_case(0, 3, 4))
    before = prototypes.center.clone()
    prototypes.update(*random_case(1, 3, 4, present=[0, 2]))
    assert torch.equal(prototypes.center[1], before[1])
    assert not torch.equal(prototypes.center[0], before[0])


def test_early_on_a_prototype_is_the_plain_mean_of_the_steps():
    prototypes, means = Prototypes(PrototypeConfig(), 2, 4), []
    for step in range(6):
        embed, label = random_case(step, 2, 4)
        prototypes.update(embed, label)
        means.append(slow_means(embed, label, 2)[0])
    torch.testing.assert_close(
        prototypes.center.double(), torch.stack(means).mean(dim=0), rtol=1e-5, atol=1e-5
    )


def test_prototypes_carry_no_gradient_and_survive_a_checkpoint():
    prototypes, other = Prototypes(PrototypeConfig(), 3, 4), Prototypes(PrototypeConfig(), 3, 4)
    embed, label = random_case(0, 3, 4)
    prototypes.update(embed.requires_grad_(), label)
    assert not prototypes.center.requires_grad
    other.load_state_dict(prototypes.state_dict())
    for module in (prototypes, other):
        module.update(*random_case(1, 3, 4))
    assert torch.equal(other.center, prototypes.center) and torch.equal(other.seen, prototypes.seen)


def test_prototypes_that_correct_nothing_have_no_options_of_it():
    assert set(PrototypeConfig.model_fields) == {"momentum"}
    assert set(DenoisingConfig.model_fields) == {"momentum", "denoise", "raw_distance"}
    plain, correcting = (
        Prototypes(PrototypeConfig(), 3, 4),
        DenoisingPrototypes(DenoisingConfig(), 3, 4),
    )
    assert plain.state_dict().keys() == correcting.state_dict().keys()
    for module in (plain, correcting):
        module.update(*random_case(0, 3, 4))
    assert torch.equal(plain.center, correcting.center)


@pytest.mark.parametrize("raw", [False, True])
def test_denoised_labels_are_those_of_the_parts(raw):
    prototypes = DenoisingPrototypes(DenoisingConfig(raw_distance=raw), 4, 6)
    embed, label = random_case(6, 4, 6, present=[0, 1, 3])
    prototypes.update(embed, label)
    prob = torch.randn(3, 4, 20, 28, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    weight = upsample(prototype_weight(embed, prototypes.center, prototypes.known, raw), (20, 28))
    found = prototypes.denoised_label(prob, embed)
    assert torch.equal(found, denoise(prob, weight).argmax(dim=1))
    assert not torch.equal(found, prob.argmax(dim=1))


def test_labels_are_left_as_they_are_when_told_so():
    prototypes = DenoisingPrototypes(DenoisingConfig(denoise=False), 4, 6)
    embed, label = random_case(7, 4, 6)
    prototypes.update(embed, label)
    prob = torch.randn(3, 4, 20, 28).softmax(dim=1)
    assert torch.equal(prototypes.denoised_label(prob, embed), prob.argmax(dim=1))
