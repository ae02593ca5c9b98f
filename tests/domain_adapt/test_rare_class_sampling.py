from __future__ import annotations

import math
from collections.abc import Callable
from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from harness.fixtures import assert_close, cases
from u2pl.data.demo.scenes import Scenes
from u2pl.data.transforms import TrainSample, TrainTransform
from u2pl.errors import UserError
from u2pl_da.rare_class_sampling import (
    RareClassConfig,
    RareClassStream,
    class_probabilities,
    classes_without_pixels,
)


class Painted(Scenes):
    """Images of 20x20 pixels whose masks are given; counts how often one is decoded."""

    def __init__(self, masks: dict[str, np.ndarray], classes: int) -> None:
        super().__init__("painted")
        self.classes = tuple(f"class {c}" for c in range(classes))
        self.held, self.opened = masks, 0

    def image(self, id: str) -> Image.Image:
        return Image.fromarray(
            np.full((*self.held[id].shape, 3), list(self.held).index(id), np.uint8)
        )

    def mask(self, id: str) -> np.ndarray:
        self.opened += 1
        return self.held[id].copy()

    def counts(self) -> np.ndarray:
        return np.stack(
            [
                np.bincount(mask.ravel(), minlength=256)[: len(self.classes)]
                for mask in self.held.values()
            ]
        )


def _corner(class_id: int, side: int) -> np.ndarray:
    """Class 0 with a square of another class at the lower right."""
    mask = np.zeros((20, 20), np.uint8)
    mask[20 - side :, 20 - side :] = class_id
    return mask


@pytest.fixture
def source() -> Painted:
    masks = {f"plain{i}": _corner(0, 1) for i in range(4)}
    masks |= {
        "much": _corner(1, 10),
        "some": _corner(1, 8),
        "little": _corner(1, 2),
        "tiny": _corner(2, 3),
    }
    return Painted(masks, classes=4)


def _stream(source: Painted, crop: int = 12, seed: int = 0, **config: float) -> RareClassStream:
    transform = TrainTransform(crop, (1.0, 1.0), flip=True)
    chosen = RareClassConfig(**{"temperature": 0.5, "min_pixels": 50, **config})  # type: ignore[arg-type]
    return RareClassStream(
        source, list(source.held), transform, seed, "source", source.counts(), chosen
    )


def _equal(a: TrainSample, b: TrainSample) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_probabilities_match_the_released_ones(shared: Callable[[str], Path]) -> None:
    z = np.load(shared("fixtures/classmix.npz"))
    counts, order = z["in_rcs_counts"].sum(axis=0), z["out_rcs_class_order"]
    assert sorted(order) == list(range(len(counts)))
    for name in cases(z, "cfg_rcs_temp_(.+)"):
        found = class_probabilities(counts, float(z[f"cfg_rcs_temp_{name}"]))
        assert found.dtype == np.float64
        assert_close(found, z[f"out_rcs_prob_{name}"], name=name)
        assert (np.diff(found[order]) <= 0).all(), name


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_probabilities_match_a_slow_loop(temperature: float) -> None:
    counts = [3, 50, 0, 700, 20, 0]
    weights = [exp((1 - count / sum(counts)) / temperature) if count else 0.0 for count in counts]
    found = class_probabilities(np.array(counts), temperature)
    np.testing.assert_allclose(found, [weight / sum(weights) for weight in weights], rtol=1e-12)
    order = np.array([4, 2, 0, 5, 1, 3])
    np.testing.assert_allclose(
        class_probabilities(np.array(counts)[order], temperature), found[order], rtol=1e-12
    )


def test_probabilities_of_extremes_are_finite() -> None:
    assert class_probabilities(np.array([0, 5, 0]), 1e-6).tolist() == [0, 1, 0]
    assert class_probabilities(np.array([1, 10**13]), 1e-6).tolist() == [1, 0]
    assert class_probabilities(np.zeros(3, np.int64), 0.01).tolist() == [0, 0, 0]


def test_classes_are_drawn_as_often_as_they_should(source: Painted) -> None:
    stream = _stream(source)
    drawn = [stream._choose(stream.generator(g))[0] for g in range(4000)]
    share = np.bincount(drawn, minlength=4) / 4000
    np.testing.assert_allclose(share, stream.probability_C, atol=0.03)
    assert share[2] > 3 * share[0] and share[3] == 0


def test_rare_is_what_is_rare_among_all_labelled_images(source: Painted) -> None:
    """With images of another domain that show class 2 often and class 3, which is not here."""
    own = source.counts()
    every = own.sum(axis=0) + np.array([0, 0, 5000, 10])
    stream = RareClassStream(
        source, list(source.held), TrainTransform(12, (1.0, 1.0), flip=True), 0, "source", own,
        RareClassConfig(temperature=0.5), every,
    )  # fmt: skip
    weights = [math.exp((1 - every[c] / every.sum()) / 0.5) for c in range(3)]
    expected = [weight / sum(weights) for weight in weights] + [0.0]
    np.testing.assert_allclose(stream.probability_C, expected, rtol=1e-12)


def test_an_image_holds_enough_of_the_class_or_any_where_none_does(source: Painted) -> None:
    stream = _stream(source, temperature=0.01)
    chosen = [stream._choose(stream.generator(g)) for g in range(400)]
    assert {stream.ids[row] for class_id, row in chosen if class_id == 1} == {"much", "some"}
    assert {stream.ids[row] for class_id, row in chosen if class_id == 2} == {"tiny"}
    much = sum(stream.ids[row] == "much" for class_id, row in chosen if class_id == 1)
    assert 0.35 < much / sum(class_id == 1 for class_id, _ in chosen) < 0.65
    assert [stream.id(g) for g in range(400)] == [stream.ids[row] for _, row in chosen]


def test_absent_classes_are_never_drawn_and_named(source: Painted) -> None:
    assert classes_without_pixels(source.classes, source.counts()) == ["class 3"]
    assert _stream(source).probability_C[3] == 0


def test_crops_keep_the_class_they_were_drawn_for(source: Painted) -> None:
    patient, hasty = (_stream(source, temperature=0.01, retries=retries) for retries in (199, 0))
    demands = {"much": 25, "some": 25, "tiny": 4.5}

    def kept(stream: RareClassStream) -> list[bool]:
        found = []
        for g in range(150):
            class_id, row = stream._choose(stream.generator(g))
            if class_id:
                found.append(int((stream[g].label == class_id).sum()) > demands[stream.ids[row]])
        return found

    assert all(kept(patient)) and not all(kept(hasty))


def test_the_demand_is_the_released_one_in_pixels_of_the_crop() -> None:
    """At half the size a square of 10x10 keeps 25 pixels, which is more than 24 but not than 25."""
    for min_pixels, tried in ((48, 1), (50, 7)):
        source = Painted({"a": _corner(1, 10)}, 2)
        transform = TrainTransform(10, (0.5, 0.5), flip=True)
        config = RareClassConfig(temperature=1e-3, min_pixels=min_pixels, retries=6)
        stream = RareClassStream(
            source, ["a"], transform, 0, "source", np.array([[300, 100]]), config
        )
        cuts: list[int] = []
        cut_mask = transform.cut_mask
        transform.cut_mask = lambda mask, geometry: cuts.append(1) or cut_mask(mask, geometry)  # type: ignore  # noqa: B023
        stream[0]
        assert len(cuts) == tried + 1, min_pixels  # and once for the label itself
        assert source.opened == 1


def test_a_sample_depends_on_its_position_alone(source: Painted) -> None:
    forward, backward = _stream(source), _stream(source)
    samples = {g: forward[g] for g in range(40)}
    np.random.seed(1)
    torch.manual_seed(1)
    assert all(_equal(backward[g], samples[g]) for g in reversed(range(40)))
    assert all(int(samples[g].image[0, 0, 0]) == forward.ids.index(forward.id(g)) for g in samples)
    other = _stream(source, seed=1)
    assert [other.id(g) for g in range(40)] != [forward.id(g) for g in range(40)]
    assert not all(
        _equal(samples[g], samples[h])
        for g in samples
        for h in samples
        if g < h and forward.id(g) == forward.id(h)
    )


def test_wrong_settings_and_empty_masks_are_named(source: Painted) -> None:
    for wrong in (
        {"temperature": 0.0},
        {"retries": -1},
        {"crop_ratio": 1.5},
        {"min_pixels": -1},
        {"pixels": 3},
    ):
        with pytest.raises(ValidationError):
            RareClassConfig(**wrong)  # type: ignore[arg-type]
    empty = Painted({"a": np.full((20, 20), 255, np.uint8)}, 2)
    with pytest.raises(UserError, match="painted: the source masks hold no labelled pixel"):
        _stream(empty)
    with pytest.raises(UserError, match="there are no source images in painted"):
        RareClassStream(
            source,
            [],
            TrainTransform(4, (1, 1), False),
            0,
            "source",
            np.zeros((0, 4), np.int64),
            RareClassConfig(),
        )


def test_defaults_are_daformers() -> None:
    assert RareClassConfig().model_dump() == {
        "enabled": True,
        "temperature": 0.01,
        "min_pixels": 3000,
        "crop_ratio": 0.5,
        "retries": 10,
    }
