from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from u2pl.data.demo.paint import SIZE, Look
from u2pl.data.demo.scenes import Scenes
from u2pl.data.demo.shapes import OUTLINES
from u2pl.data.opening import open_source
from u2pl.data.splits import choose_labeled
from u2pl.errors import UserError


@pytest.fixture(scope="module")
def demo() -> Scenes:
    return Scenes()


def _masks(source: Scenes, split: str) -> np.ndarray:
    return np.stack([source.mask(id) for id in source.split(split)])


def _images(source: Scenes, split: str) -> np.ndarray:
    return np.stack([np.asarray(source.image(id)) for id in source.split(split)])


def test_images_and_masks_have_their_shapes_and_ids(demo: Scenes) -> None:
    assert demo.image("train_0000").mode == "RGB"
    assert _images(demo, "val").shape == (80, SIZE, SIZE, 3)
    masks = _masks(demo, "val")
    assert masks.shape == (80, SIZE, SIZE) and masks.dtype == np.uint8
    assert masks.max() < len(demo.classes) == len(demo.palette)
    assert len(np.unique(demo.palette, axis=0)) == len(demo.palette)


def test_every_process_draws_the_same_in_any_order() -> None:
    code = """
import hashlib, sys
from u2pl.data.demo.scenes import Scenes
source = Scenes()
scenes = {id: source.image(id).tobytes() + source.mask(id).tobytes() for id in sys.argv[1:]}
digest = {id: hashlib.sha256(scene).hexdigest() for id, scene in scenes.items()}
print(source.fingerprint(), sorted(digest.items()))
"""
    ids = ["train_0000", "train_0315", "val_0007"]
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code, *order], capture_output=True, text=True, check=True
        ).stdout
        for order in (ids, ids[::-1])
    )
    assert first == second
    assert len(set(first.split("'")[3::4])) == len(ids)


def test_a_changed_mask_does_not_change_the_source(demo: Scenes) -> None:
    before = demo.mask("train_0001")
    demo.mask("train_0001")[:] = 9
    demo.image("train_0001").paste((0, 0, 0), (0, 0, SIZE, SIZE))
    np.testing.assert_array_equal(demo.mask("train_0001"), before)
    assert np.asarray(demo.image("train_0001")).max() > 0


def test_splits_are_disjoint_and_labeled_is_the_default(demo: Scenes) -> None:
    train, val, labeled = (demo.split(name) for name in ("train", "val", "labeled"))
    assert not set(train) & set(val) and set(labeled) < set(train)
    assert all(demo.has_mask(id) for id in train + val)
    chosen = choose_labeled(demo, None, seed=0)
    assert chosen.labeled == labeled and len(chosen.unlabeled) == 300


@pytest.mark.parametrize("split", ["labeled", "val"])
@pytest.mark.parametrize("objects", [(2, 3), (1, 2)])
def test_every_class_fills_part_of_two_images(objects: tuple[int, int], split: str) -> None:
    masks = _masks(Scenes(objects=objects), split)
    for c in range(7):
        assert ((masks == c).sum(axis=(1, 2)) > 0.02 * SIZE**2).sum() >= 2, c


def test_one_object_an_image_is_one_class_an_image() -> None:
    single = Scenes(objects=(1, 1))
    assert {len(np.unique(mask)) for mask in _masks(single, "val")} == {2}
    assert max(len(np.unique(mask)) for mask in _masks(Scenes(), "val")) == 4


def test_colour_alone_tells_little(demo: Scenes) -> None:
    """Colour histograms of the classes, from all training masks, find no object.

    Priors are equal; chance is 0.05.
    """

    def colour(split: str) -> np.ndarray:
        return (_images(demo, split).astype(int) // 32) @ (64, 8, 1)

    num_classes = len(demo.classes)
    seen = np.stack(
        [
            np.bincount(colour("train")[_masks(demo, "train") == c], minlength=512)
            for c in range(num_classes)
        ]
    )
    guess = (seen / seen.sum(1, keepdims=True)).argmax(0)[colour("val")]
    truth = _masks(demo, "val")
    iou = [
        ((guess == c) & (truth == c)).sum() / ((guess == c) | (truth == c)).sum()
        for c in range(num_classes)
    ]
    assert max(iou[1:]) < 0.1


def test_another_look_keeps_the_masks_and_changes_the_pixels(demo: Scenes) -> None:
    dusk = Scenes("demo-target", Look(hue=(0.5, 0.7), value=(0.05, 0.6), period=(6, 8), noise=0.05))
    np.testing.assert_array_equal(_masks(dusk, "labeled"), _masks(demo, "labeled"))
    assert _images(dusk, "labeled").mean() < 0.7 * _images(demo, "labeled").mean()
    with pytest.raises(dataclasses.FrozenInstanceError):
        dusk.look.noise = 0.1  # type: ignore[misc]


def test_source_and_target_are_a_domain_apart_and_share_the_classes(demo: Scenes) -> None:
    day, dusk = open_source("demo-source"), open_source("demo-target")
    assert isinstance(day, Scenes) and isinstance(dusk, Scenes)
    assert day.classes == dusk.classes == demo.classes and day.things == demo.classes[1:]
    assert not np.array_equal(_masks(day, "labeled"), _masks(dusk, "labeled"))
    for source in (day, dusk):
        masks = _masks(source, "labeled")
        assert all(((masks == c).sum(axis=(1, 2)) > 0.02 * SIZE**2).sum() >= 2 for c in range(7))
    bright, dark = _images(day, "labeled") / 255, _images(dusk, "labeled") / 255
    assert bright.mean() > 1.5 * dark.mean() and bright.std() > 1.5 * dark.std()
    warmth = [images[..., 0].mean() / images[..., 2].mean() for images in (bright, dark)]
    assert warmth[0] > 1.1 > 0.9 > warmth[1]


def test_the_scenes_for_tags_show_one_or_two_classes_and_are_others(demo: Scenes) -> None:
    tagged = open_source("demo-tags")
    assert isinstance(tagged, Scenes) and tagged.classes == demo.classes
    shown = [
        set(np.unique(mask).tolist()) - {0}
        for split in ("train", "val")
        for mask in _masks(tagged, split)
    ]
    assert {len(classes) for classes in shown} == {1, 2}
    assert all(sum(c in classes for classes in shown) > 40 for c in range(1, 7))
    assert (
        not np.array_equal(_masks(tagged, "labeled"), _masks(demo, "labeled"))
        and tagged.fingerprint() != demo.fingerprint()
    )


def test_the_demo_is_the_one_it_always_was(demo: Scenes) -> None:
    assert demo.fingerprint() == open_source("demo").fingerprint() == "c6af62880fc5"


def test_fingerprint_follows_what_is_drawn(demo: Scenes) -> None:
    others = [Scenes(seed=1), Scenes(objects=(1, 2)), Scenes(look=Look(noise=0.03))]
    digits = {source.fingerprint() for source in [demo, *others]}
    assert len(digits) == 4 and all(len(d) == 12 and int(d, 16) >= 0 for d in digits)
    assert Scenes(name="other").fingerprint() == demo.fingerprint()
    assert not np.array_equal(_masks(others[0], "labeled"), _masks(demo, "labeled"))


def test_outlines_fit_the_window_they_are_painted_in() -> None:
    y, x = np.mgrid[-1.6:1.6:161j, -1.6:1.6:161j]
    for name, outline in OUTLINES.items():
        inside = outline(x, y) < 0
        assert inside.any(), name
        assert np.maximum(np.abs(x), np.abs(y))[inside].max() <= 1.17, name


def test_unknown_names_are_refused(demo: Scenes) -> None:
    with pytest.raises(UserError, match="demo has no split 'test': it has train, val, labeled"):
        demo.split("test")
    with pytest.raises(UserError, match="demo has no image 'train_0332'"):
        demo.image("train_0332")
    assert not demo.has_mask("train_0332")
