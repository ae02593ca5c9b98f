from __future__ import annotations

import pytest
import torch

from u2pl import distributed
from u2pl.mixing.mixers import MixConfig, Mixer

IGNORE = 255


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def marked(batch: int = 4, size=(12, 16)):
    """Images, validity and labels whose every pixel tells which image and place it is from."""
    place = torch.arange(size[0] * size[1]).view(1, *size) + 1000 * torch.arange(batch).view(
        -1, 1, 1
    )
    label = (place // 7) % 5
    return (
        place.unsqueeze(1).expand(-1, 3, -1, -1),
        torch.rand(batch, *size, generator=generator(9)) < 0.8,
        label,
        place,
    )


def mixer(kind: str, probability: float = 1.0, classes: int = 5) -> Mixer:
    return Mixer(MixConfig(kind=kind, probability=probability), classes)


@pytest.mark.parametrize("kind", ["cutmix", "classmix", "boxes"])
def test_pixels_come_from_the_same_place_of_the_image_or_its_follower(kind):
    image, valid, label, place = marked()
    mixed = mixer(kind)(generator(), image, valid, label, place)
    for b in range(4):
        partner = (b + 1) % 4
        taken = mixed.image_B3HW[b, 0] == image[partner, 0]
        assert 0 < taken.sum() < taken.numel()
        assert torch.equal(mixed.image_B3HW[b], torch.where(taken, image[partner], image[b]))
        for now, before in zip((mixed.valid_BHW, *mixed.maps), (valid, label, place), strict=True):
            assert torch.equal(now[b], torch.where(taken, before[partner], before[b]))


@pytest.mark.parametrize("kind", ["cutmix", "classmix", "boxes"])
@pytest.mark.parametrize("batch", [4, 3])
def test_the_partner_may_be_that_of_the_reversed_batch(kind, batch):
    image, valid, label, place = marked(batch)
    reversing = Mixer(MixConfig(kind=kind, probability=1.0, partner="reversed"), 5)
    mixed = reversing(generator(), image, valid, label, place)
    for b in range(batch):
        partner = batch - 1 - b
        taken = mixed.maps[1][b] != place[b]
        assert 0 < taken.sum() < taken.numel() or partner == b
        assert torch.equal(mixed.image_B3HW[b], torch.where(taken, image[partner], image[b]))
        for now, before in zip((mixed.valid_BHW, *mixed.maps), (valid, label, place), strict=True):
            assert torch.equal(now[b], torch.where(taken, before[partner], before[b]))


def test_cutmix_takes_one_box_of_the_asked_area():
    image, valid, _, place = marked(size=(40, 48))
    mixed = Mixer(MixConfig(probability=1.0, area=0.3), 5)(generator(), image, valid, place)
    for b in range(4):
        rows, columns = (mixed.maps[0][b] != place[b]).nonzero().unbind(dim=1)
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert len(rows) == height * width
        assert abs(len(rows) / (40 * 48) - 0.3) < 0.03


def test_classmix_takes_whole_classes_of_the_follower():
    image, valid, label, place = marked()
    mixed = mixer("classmix")(generator(), image, valid, label, place)
    for b in range(4):
        taken, theirs = mixed.maps[1][b] != place[b], label[(b + 1) % 4]
        classes = theirs[taken].unique()
        assert len(classes) == 3 and torch.equal(taken, torch.isin(theirs, classes))


@pytest.mark.parametrize("kind", ["cutmix", "classmix", "cutout"])
def test_scores_of_classes_move_like_labels(kind):
    """Methods that mix probabilities instead of labels may use any of the mixes."""
    image, valid, label, _ = marked()
    score = torch.nn.functional.one_hot(label, 5).permute(0, 3, 1, 2).float()
    hard = mixer(kind)(generator(), image, valid, label)
    soft = mixer(kind)(generator(), image, valid, score)
    assert torch.equal(soft.image_B3HW, hard.image_B3HW) and torch.equal(
        soft.valid_BHW, hard.valid_BHW
    )
    believed = hard.valid_BHW
    assert torch.equal(soft.maps[0].argmax(dim=1)[believed], hard.maps[0][believed])


def test_cutout_erases_one_box():
    image, valid, label, _ = marked(size=(40, 48))
    valid = torch.ones_like(valid)
    mixed = mixer("cutout")(generator(), image, valid, label)
    for b in range(4):
        erased = ~mixed.valid_BHW[b]
        rows, columns = erased.nonzero().unbind(dim=1)
        assert erased.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert abs(erased.float().mean() - 0.5) < 0.05
        assert len(mixed.image_B3HW[b, 0][erased].unique()) == 1
        assert torch.equal(mixed.image_B3HW[b, 0][~erased], image[b, 0][~erased])
        assert (mixed.maps[0][b][erased] == IGNORE).all()
        assert torch.equal(mixed.maps[0][b][~erased], label[b][~erased])


def test_cutout_is_grey_for_floats_too():
    image, valid, _, place = marked()
    floats = torch.rand(4, 3, 12, 16, generator=generator(1))
    as_bytes = mixer("cutout")(generator(), image.to(torch.uint8), valid, place)
    mixed = mixer("cutout")(generator(), floats, valid, place)
    erased = mixed.maps[0] == IGNORE
    grey = mixed.image_B3HW.permute(0, 2, 3, 1)[erased & (place != IGNORE)]
    assert torch.allclose(grey, torch.tensor(127 / 255)) and len(grey)
    assert (as_bytes.image_B3HW.permute(0, 2, 3, 1)[erased & (place != IGNORE)] == 127).all()


def test_cutout_keeps_padding_invalid():
    image, valid, label, _ = marked()
    mixed = mixer("cutout")(generator(), image, valid, label)
    assert not mixed.valid_BHW[~valid].any()


def test_none_leaves_everything():
    image, valid, label, _ = marked()
    mixed = mixer("none")(generator(), image, valid, label)
    assert (
        torch.equal(mixed.image_B3HW, image)
        and torch.equal(mixed.valid_BHW, valid)
        and torch.equal(mixed.maps[0], label)
    )


@pytest.mark.parametrize("kind", ["cutmix", "classmix", "cutout"])
def test_one_coin_decides_for_the_whole_step(kind):
    image, valid, label, _ = marked()
    changed = []
    for seed in range(200):
        rare = mixer(kind, probability=0.3)
        announced, mixed = rare.mixes(generator(seed)), rare(generator(seed), image, valid, label)
        per_image = (mixed.image_B3HW != image).flatten(1).any(dim=1)
        assert per_image.all() or not per_image.any()
        assert announced == per_image[0] == (mixed.image_B3HW is not image)
        changed.append(bool(per_image[0]))
    assert 35 <= sum(changed) <= 90  # 60 +- 6.5


def test_boxes_are_drawn_for_each_image_by_a_coin_of_its_own():
    image, valid, label, _ = marked()
    changed = torch.zeros(4)
    for seed in range(200):
        rare = mixer("boxes", probability=0.3)
        mixed = rare(generator(seed), image, valid, label)
        changed += (mixed.image_B3HW != image).flatten(1).any(dim=1)
        assert rare.mixes(generator(seed))
    assert (changed >= 35).all() and (changed <= 90).all()  # 60 +- 6.5 each


@pytest.mark.parametrize("kind", ["cutmix", "classmix", "cutout"])
def test_inputs_are_not_changed_in_place(kind):
    image, valid, label, _ = marked()
    before = image.clone(), valid.clone(), label.clone()
    mixer(kind)(generator(), image, valid, label)
    for now, then in zip((image, valid, label), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("kind", ["cutmix", "classmix"])
def test_one_image_is_mixed_with_itself(kind):
    image, valid, label, _ = marked(batch=1)
    mixed = mixer(kind)(generator(), image, valid, label)
    assert torch.equal(mixed.image_B3HW, image) and torch.equal(mixed.maps[0], label)


@pytest.mark.parametrize("partner", ["next", "reversed"])
@pytest.mark.parametrize("kind", ["cutmix", "classmix", "cutout", "boxes"])
def test_two_processes_mix_like_one(kind, partner, twins, monkeypatch):
    image, valid, label, place = marked()
    config = MixConfig(kind=kind, probability=1.0, partner=partner)
    whole = Mixer(config, 5)(generator(3), image, valid, label, place)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", twins.rank)
    monkeypatch.setattr(distributed, "gather", twins.gather)

    def half(rank: int):
        mine = slice(2 * rank, 2 * rank + 2)
        own = image[mine], valid[mine], label[mine], place[mine]
        return Mixer(config, 5)(generator(3), *own)

    first, second = twins.run(half)
    assert torch.equal(torch.cat([first.image_B3HW, second.image_B3HW]), whole.image_B3HW)
    assert torch.equal(torch.cat([first.valid_BHW, second.valid_BHW]), whole.valid_BHW)
    for a, b, both in zip(first.maps, second.maps, whole.maps, strict=True):
        assert torch.equal(torch.cat([a, b]), both)
