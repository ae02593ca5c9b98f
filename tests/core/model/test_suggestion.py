from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from u2pl.data.opening import open_source
from u2pl.errors import UserError
from u2pl.model.card import Card
from u2pl.model.model import Model
from u2pl.model.suggestion import SEEN, feature, greedy_centres, suggest
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import SegOutput


def slow_centres(
    doubt: Tensor, features: Tensor, known: list[Tensor], count: int
) -> list[tuple[int, float]]:
    """All distances anew for each choice."""
    chosen: list[tuple[int, float]] = []
    for _ in range(count):
        centers = known + [features[index] for index, _ in chosen]
        best = (-1, -1.0)
        for i in range(len(doubt)):
            if i in [index for index, _ in chosen]:
                continue
            near = min([2.0, *(float((features[i] - center).norm()) for center in centers)])
            if float(doubt[i]) * near > best[1]:
                best = (i, float(doubt[i]) * near)
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_greedy_choice_is_that_of_the_slow_reference(seed: int, known: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    point = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    point = nn.functional.normalize(point, dim=1)
    doubt = torch.rand(20, generator=generator, dtype=torch.float64)
    doubt[[3, 8]], point[8] = 1.0, point[3]  # two that are equal
    centers = list(nn.functional.normalize(torch.randn(known, 5, generator=generator).double()))
    found = greedy_centres(doubt, point, centers, 20)
    expected = slow_centres(doubt, point, centers, 20)
    assert [index for index, _ in found] == [index for index, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])
    assert sorted(index for index, _ in found) == list(range(20))


class Colours(nn.Module):
    """Doubtful where an image is dark; its features are its colours."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.tensor(1.0))

    def forward(self, image: Tensor, embed: bool = True) -> SegOutput:
        sure = 9 * image[:, :, ::4, ::4].amax(1, keepdim=True) * self.one
        return SegOutput(torch.cat([sure, -sure], 1), deep=image[:, :, ::4, ::4] + 0.01)


@pytest.fixture
def photos(make_folder: Callable[..., Path]) -> Path:
    """Doubtful and sure reds, a doubtful green and blue; `labelled` is a red."""
    held = {"labelled": [0, 1], "red": None, "sure": None, "green": None, "blue": None}
    root = make_folder(held, "sky\nsea\n")
    colours = {
        "labelled": (60, 0, 0), "red": (50, 0, 0), "sure": (0, 255, 10),
        "green": (0, 40, 0), "blue": (0, 10, 45),
    }  # fmt: skip
    for name, colour in colours.items():
        Image.new("RGB", (8, 6), colour).save(root / "images" / f"{name}.png")
    return root


MODEL = Model(Colours(), Card(network=NetworkConfig(), classes=("sky", "sea")))


def test_doubtful_images_unlike_the_labelled_and_each_other_come_first(photos: Path) -> None:
    source = open_source(str(photos))
    candidates = ["sure", "red", "green", "blue"]
    found = suggest(MODEL, source, candidates, ["labelled"], 4)
    # the sure green comes behind the doubtful red, which looks like the labelled one
    assert [each.id for each in found][:2] == ["green", "blue"]
    assert found == suggest(MODEL, source, candidates[::-1], ["labelled"], 4)
    doubts = {id: MODEL.predict(photos / "images" / f"{id}.png").mean_doubt for id in candidates}
    for each in found:
        assert each.doubt == pytest.approx(doubts[each.id])
        assert each.score == pytest.approx(each.doubt * each.distance)
    assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)


def test_masks_are_never_opened(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(photos))
    monkeypatch.setattr(type(source), "mask", lambda *_: pytest.fail("a mask was opened"))
    assert len(suggest(MODEL, source, ["red"], ["labelled"], 1)) == 1


@pytest.mark.parametrize("count", [0, 5])
def test_more_than_there_are_cannot_be_suggested(photos: Path, count: int) -> None:
    with pytest.raises(UserError, match=f"--count {count}: photos has 4 images without a label"):
        source = open_source(str(photos))
        suggest(MODEL, source, ["sure", "red", "green", "blue"], ["labelled"], count)


def test_features_have_length_one_and_large_images_are_shrunk() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 3 * SEEN, 3)).astype(np.uint8)
    sizes: list[tuple[int, ...]] = []
    hook = MODEL.network.register_forward_pre_hook(
        lambda _, given: sizes.append(tuple(given[0].shape[-2:]))
    )
    found = feature(MODEL, pixels)
    hook.remove()
    assert float(found.norm()) == pytest.approx(1)
    assert max(sizes[0]) == SEEN
