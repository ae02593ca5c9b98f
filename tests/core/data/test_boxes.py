from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from u2pl.data.boxes import (
    MOST,
    FoundBoxes,
    boxes_in_crop,
    component_boxes,
    read_boxes,
    thing_classes,
    write_boxes,
)
from u2pl.data.sources.folder import Folder
from u2pl.data.streams import Stream
from u2pl.data.transforms import Geometry, TrainTransform
from u2pl.errors import UserError
from u2pl.methods.batches import PairBatch, PairedStreams
from u2pl.mixing.masks import inside_boxes

#: The part [10, 30) x [20, 60) of an image, as it is.
AS_IT_IS = Geometry((100, 100), (20, 10), (40, 20), (20.0, 10.0, 60.0, 30.0), False)


def flooded(mask: np.ndarray, classes: Collection[int], least: int = 1) -> list[list[int]]:
    """What `component_boxes` says, by a flood from each first pixel."""
    height, width = mask.shape
    seen, boxes = np.zeros(mask.shape, bool), []
    for first in np.ndindex(mask.shape):
        if seen[first] or mask[first] not in classes:
            continue
        seen[first] = True
        part, waiting = [first], deque([first])
        while waiting:
            row, column = waiting.popleft()
            for r in range(max(row - 1, 0), min(row + 2, height)):
                for c in range(max(column - 1, 0), min(column + 2, width)):
                    if not seen[r, c] and mask[r, c] == mask[first]:
                        seen[r, c] = True
                        part.append((r, c))
                        waiting.append((r, c))
        rows, columns = zip(*part, strict=True)
        if len(part) >= least:
            box = [min(rows), min(columns), max(rows) + 1, max(columns) + 1]
            boxes.append([int(mask[first]), *box])
    return boxes


@pytest.mark.parametrize("values", [[0, 1], [0, 1, 2, 255], [1, 2], [0, 0, 0, 0, 1]])
def test_component_boxes_equal_those_of_a_slow_flood(values: list[int]) -> None:
    rng = np.random.default_rng(len(values))
    kept = total = 0
    for _ in range(60):
        shape = rng.integers(1, 13, 2)
        mask = rng.choice(values, shape).astype(np.uint8)
        if rng.random() < 0.5:  # coarse parts, that touch at edges and corners
            mask = np.kron(mask, np.ones((2, 3), np.uint8))
        for least in (1, 2, 5):
            found = component_boxes(mask, (1, 2), least)
            assert found.tolist() == flooded(mask, (1, 2), least)
            kept, total = kept + len(found), total + len(flooded(mask, (1, 2)))
    assert 0 < kept < total


def test_arms_that_meet_late_are_one_part() -> None:
    comb = np.zeros((9, 15), np.uint8)
    comb[:, ::2] = 1
    assert len(component_boxes(comb, [1])) == 8
    comb[-1] = 1
    assert component_boxes(comb, [1]).tolist() == [[1, 0, 0, 9, 15]]
    diamond = (np.abs(np.mgrid[-6:7, -6:7]).sum(0) == 6).astype(np.uint8)
    assert component_boxes(diamond, [1]).tolist() == [[1, 0, 0, 13, 13]]
    snake = np.zeros((9, 15), np.uint8)
    snake[:, ::2] = snake[0, 1::4] = snake[-1, 3::4] = 1
    for mask in (snake, snake[::-1], snake.T, snake.T[:, ::-1]):
        assert component_boxes(mask, [1]).tolist() == [[1, 0, 0, *mask.shape]]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (3, 4)])
@pytest.mark.parametrize("value", [0, 255])
def test_without_a_part_there_is_no_box(shape: tuple[int, int], value: int) -> None:
    found = component_boxes(np.full(shape, value, np.uint8), [1, 2])
    assert found.shape == (0, 5) and found.dtype == np.int64
    assert component_boxes(np.ones(shape, np.uint8), []).shape == (0, 5)


def test_a_part_may_be_a_pixel_or_the_whole_mask() -> None:
    assert component_boxes(np.full((1, 1), 3, np.uint8), [3]).tolist() == [[3, 0, 0, 1, 1]]
    assert component_boxes(np.full((4, 7), 3, np.uint8), [3], 28).tolist() == [[3, 0, 0, 4, 7]]
    assert not len(component_boxes(np.full((4, 7), 3, np.uint8), [3], 29))
    ends = np.array([[1, 0, 1], [1, 0, 0]], np.uint8)  # no neighbours around the edge
    assert component_boxes(ends, [1]).tolist() == [[1, 0, 0, 2, 1], [1, 0, 2, 1, 3]]


def boxes_of(mask: np.ndarray) -> dict[int, list[int]]:
    """The box around all pixels of each class but 0."""
    found = {}
    for value in np.unique(mask[(mask > 0) & (mask < 255)]).tolist():
        rows, columns = np.nonzero(mask == value)
        found[value] = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    return found


def rectangles(rng: np.random.Generator) -> np.ndarray:
    """A mask of an image of any size, with a rectangle of each class in a quarter of its own."""
    height, width = rng.integers(24, 90, 2)
    mask = np.zeros((height, width), np.uint8)
    for c in (1, 2, 3):
        top, left = (height // 2) * (c // 2), (width // 2) * (c % 2)
        y, x = rng.integers(0, height // 2 - 4), rng.integers(0, width // 2 - 4)
        h, w = rng.integers(1, height // 2 - y + 1), rng.integers(1, width // 2 - x + 1)
        mask[top + y : top + y + h, left + x : left + x + w] = c
    return mask


@pytest.mark.parametrize("long_side", [0, 40])
@pytest.mark.parametrize("scale", [(0.4, 0.9), (1.0, 1.0), (0.6, 2.2)])
def test_boxes_follow_the_pixels_of_the_crop(scale: tuple[float, float], long_side: int) -> None:
    rng = np.random.default_rng(7)
    gaps, shown, absent, mirrored, padded = [], 0, 0, 0, 0
    for _ in range(120):
        mask = rectangles(rng)
        transform = TrainTransform(48, scale, flip=True, long_side=long_side)
        geometry = transform.draw((mask.shape[1], mask.shape[0]), rng)
        boxes = component_boxes(mask, (1, 2, 3))
        found = boxes_in_crop(boxes, geometry)
        assert found.shape == (MOST, 5) and found.dtype == np.int64
        real = found[found[:, 0] >= 0]
        assert (found[len(real) :, 0] == -1).all() and not found[len(real) :, 1:].any()
        assert real[:, 0].tolist() == [c for c in boxes[:, 0] if c in real[:, 0]]
        assert (real[:, 1:3] >= 0).all() and (real[:, 1:3] < real[:, 3:]).all()
        assert (real[:, 3:] <= geometry.size[::-1]).all()  # never on the padding
        expected = boxes_of(transform.cut_mask(mask, geometry))
        own = {c: list(box) for c, *box in real.tolist()}
        for c in (1, 2, 3):
            if c in own and c in expected:
                gaps.append(np.abs(np.subtract(own[c], expected[c])).max())
            elif c in own or c in expected:  # a sliver that rounding shows or hides
                top, left, bottom, right = own.get(c) or expected[c]
                assert min(bottom - top, right - left) <= 1
            absent += c not in own
        shown += len(real)
        mirrored += geometry.mirror
        padded += min(geometry.size) < 48
    assert max(gaps) <= 1
    assert np.mean(gaps) < 0.1  # only where a centre lies on the edge
    assert shown > 100 and absent > 0 and mirrored > 20 and padded > 0


def test_the_box_of_a_blob_is_that_of_its_augmented_pixels() -> None:
    rng, seen = np.random.default_rng(3), 0
    for _ in range(150):
        y, x, radius = rng.integers(20, 60), rng.integers(20, 60), rng.integers(4, 12)
        mask = (np.hypot(*(np.mgrid[:80, :80] - np.array([[[y]], [[x]]]))) <= radius).astype(
            np.uint8
        )
        transform = TrainTransform(60, (0.8, 1.6), flip=True)
        geometry = transform.draw((80, 80), rng)
        c, top, left, bottom, right = component_boxes(mask, [1])[0]
        box = geometry.box
        if not (box[0] < left and right < box[2] and box[1] < top and bottom < box[3]):
            continue
        found = boxes_in_crop(np.array([[c, top, left, bottom, right]]), geometry)[0]
        expected = boxes_of(transform.cut_mask(mask, geometry))[1]
        assert np.abs(found[1:] - expected).max() <= 1
        seen += 1
    assert seen > 30


def test_only_what_the_crop_shows_is_kept_and_in_the_same_order() -> None:
    boxes = np.array(
        [
            [3, 12, 22, 14, 24, 0.9],  # inside
            [1, 0, 0, 10, 100, 0.8],  # ends where the crop begins
            [2, 0, 0, 100, 100, 0.7],  # holds the crop
            [4, 12, 60, 14, 70, 0.7],  # begins where it ends
            [0, 29, 59, 90, 90, 0.6],  # its last pixel
            [5, 15, 30, 15, 40, 0.5],  # empty
        ]
    )
    found = boxes_in_crop(boxes, AS_IT_IS)
    assert found[:4].tolist() == [
        [3, 2, 2, 4, 4],
        [2, 0, 0, 20, 40],
        [0, 19, 39, 20, 40],
        [-1, 0, 0, 0, 0],
    ]
    mirrored = boxes_in_crop(boxes, AS_IT_IS._replace(mirror=True))
    assert mirrored[:3].tolist() == [[3, 2, 36, 4, 38], [2, 0, 0, 20, 40], [0, 19, 0, 20, 1]]
    assert (boxes_in_crop(np.zeros((0, 6)), AS_IT_IS)[:, 0] == -1).all()


def test_the_first_boxes_that_are_seen_are_kept() -> None:
    outside = np.array([[9, 0, 0, 5, 5]] * 10)
    inside = np.array([[c, 10, 20, 11 + c % 7, 21 + c % 9] for c in range(MOST + 5)])
    found = boxes_in_crop(np.concatenate([outside, inside]), AS_IT_IS)
    assert found[:, 0].tolist() == list(range(MOST))


class TestThings:
    """Which classes are countable."""

    @pytest.mark.parametrize(
        ("classes", "meta", "ids"),
        [
            ("background\ncat\ndog\n", "", (1, 2)),
            ("Background\ncat\ndog\n", "", (1, 2)),
            ("background\ncat\ndog\n", 'things = ["dog"]', (2,)),
            ("road\ncar\nperson\n", 'things = ["person", "car"]', (2, 1)),
        ],
    )
    def test_the_source_says_or_all_but_background(
        self, make_folder: Callable[..., Path], classes: str, meta: str, ids: tuple[int, ...]
    ) -> None:
        root = make_folder({"a": [0, 1]}, classes)
        (root / "meta.toml").write_text(meta)
        assert thing_classes(Folder(root)) == ids

    @pytest.mark.parametrize("classes", ["road\ncar\n", "car\nbackground\n"])
    def test_otherwise_it_has_to_be_written_down(
        self, make_folder: Callable[..., Path], classes: str
    ) -> None:
        last = classes.split()[-1]
        with pytest.raises(UserError, match=rf'meta.toml, such as things = \["{last}"\]') as caught:
            thing_classes(Folder(make_folder({"a": [0, 1]}, classes)))
        assert "\n" not in str(caught.value)


ROWS = {
    "a": np.array([[1, 0, 0, 2, 3, 0.5], [2, 1, 1, 4, 6, 0.85], [1, 0, 2, 3, 6, 0.912345]]),
    "b": np.zeros((0, 6)),
    "ünïcode/1": np.array([[2, 0, 0, 1, 1, 0.3], [1, 0, 0, 1, 1, 0.3]]),
}


@pytest.fixture
def source(make_folder: Callable[..., Path]) -> Folder:
    return Folder(make_folder({"a": [0, 1], "b": [1, 2], "c": None}))


@pytest.fixture
def file(source: Folder, tmp_path: Path) -> Path:
    """A file of boxes of the source."""
    path = tmp_path / "boxes.json"
    write_boxes(path, FoundBoxes(source.fingerprint(), source.classes, ROWS))
    return path


def test_boxes_come_back_the_best_first(source: Folder, file: Path) -> None:
    found = read_boxes(file, source)
    assert found.keys() == ROWS.keys()
    assert found["a"].tolist() == [
        [1, 0, 2, 3, 6, 0.9123],
        [2, 1, 1, 4, 6, 0.85],
        [1, 0, 0, 2, 3, 0.5],
    ]
    assert found["b"].shape == (0, 6)
    assert found["ünïcode/1"].tolist() == ROWS["ünïcode/1"].tolist()  # equal scores stay in order
    assert not list(file.parent.glob(".*"))


def test_a_threshold_keeps_boxes_of_that_score_and_above(source: Folder, file: Path) -> None:
    for threshold, number in ((0.0, 3), (0.85, 2), (0.8501, 1), (0.95, 0)):
        found = read_boxes(file, source, threshold)
        assert (len(found["a"]), found["a"].shape[1]) == (number, 6)
        assert found.keys() == ROWS.keys()


def test_boxes_that_were_left_out_are_missed(source: Folder, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    write_boxes(path, FoundBoxes(source.fingerprint(), source.classes, ROWS, threshold=0.3))
    assert read_boxes(path, source, 0.3).keys() == ROWS.keys()
    with pytest.raises(UserError, match=r"from 0.3 on, not from 0.29: .* --threshold 0.29$"):
        read_boxes(path, source, 0.29)


#: What a file says instead of the truth, and words of the complaint.
WRONG: dict[str, tuple[dict[str, Any] | bytes | None, str]] = {
    "missing": (None, "does not exist: make it"),
    "empty": (b"", "is no file of boxes"),
    "not JSON": (b"{", "is no file of boxes"),
    "no text": (b"\xff\xfe\x00", "is no file of boxes"),
    "a list": (b"[]", "is no file of boxes"),
    "null": (b"null", "is no file of boxes"),
    "deep": (b"[" * 100_000, "is no file of boxes"),
    "no format": (b'{"boxes": {}}', "is no file of boxes"),
    "other format": ({"format": "u2pl-boxes-2"}, "boxes.json is of another version: make it again"),
    "other data": ({"fingerprint": "0" * 12}, "was made for other data (fingerprint 000000000000"),
    "other classes": ({"classes": ["background", "cat"]}, "was made for other data"),
    "other order": ({"classes": ["background", "dog", "cat"]}, "was made for other data"),
    "no classes": ({"classes": None}, "is no file of boxes"),
    "boxes in a list": ({"boxes": [[1, 0, 0, 2, 2, 0.5]]}, "is no file of boxes"),
    "no score": ({"boxes": {"a": [[1, 0, 0, 2, 2]]}}, "is no file of boxes"),
    "no score in six boxes": ({"boxes": {"a": [[1, 0, 0, 2, 2]] * 6}}, "is no file of boxes"),
    "two boxes in a row": ({"boxes": {"a": [[1, 0, 0, 2, 2, 0.5] * 2]}}, "is no file of boxes"),
    "one flat box": ({"boxes": {"a": [1, 0, 0, 2, 2, 0.5]}}, "is no file of boxes"),
    "uneven boxes": ({"boxes": {"a": [[1, 0, 0, 2, 2, 0.5], [1]]}}, "is no file of boxes"),
    "words": ({"boxes": {"a": "many"}}, "is no file of boxes"),
    "too large": ({"boxes": {"a": [[1, 0, 0, 2, 10**400, 0.5]]}}, "is no file of boxes"),
    "true": ({"boxes": {"a": [[True, 0, 0, 2, 2, 0.5]]}}, "is no file of boxes"),
    "numbers in quotes": ({"boxes": {"a": [["1", 0, 0, 2, 2, 0.5]]}}, "is no file of boxes"),
    "an image twice": (b'{"boxes": {"a": [], "a": []}}', "it has the key 'a' twice"),
    "NaN": ({"boxes": {"a": [[1, 0, 0, 2, float("nan"), 0.5]]}}, "has a box of 'a' that is none"),
    "infinite": ({"boxes": {"a": [[1, 0, 0, 2, float("inf"), 0.5]]}}, "a box of 'a' that is none"),
    "NaN score": ({"boxes": {"a": [[1, 0, 0, 2, 2, float("nan")]]}}, "a box of 'a' that is none"),
    "class 3": ({"boxes": {"a": [[3, 0, 0, 2, 2, 0.5]]}}, "a box of 'a' that is none"),
    "class -1": ({"boxes": {"a": [[-1, 0, 0, 2, 2, 0.5]]}}, "a box of 'a' that is none"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_named_in_a_line_that_says_what_to_do(
    case: str, source: Folder, file: Path
) -> None:
    content, words = WRONG[case]
    if isinstance(content, dict):
        file.write_text(json.dumps(json.loads(file.read_text()) | content))
    elif content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_boxes(file, source, 0.9)  # above all scores: what is left out is checked too
    text = str(caught.value)
    assert text.startswith(str(file)) and words in text
    assert "detector predict" in text and "\n" not in text
    assert text.count(str(file)) == 1 or case == "missing"


def test_a_folder_is_no_file_of_boxes(source: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no file of boxes .*: make it with u2pl-semi detector"):
        read_boxes(tmp_path, source)


class TestStream:
    """Samples with boxes."""

    @pytest.fixture
    def marked(self, make_folder: Callable[..., Path]) -> tuple[Folder, dict[str, np.ndarray]]:
        """Four images with the boxes of the parts of their masks; the last one has none."""
        source, rng = Folder(make_folder({id: [0] for id in "abcd"})), np.random.default_rng(0)
        boxes = {}
        for id in "abcd":
            mask = np.kron(rng.integers(3, size=(3, 4)), np.ones((12, 13))).astype(np.uint8)
            pixels = np.stack([mask * 100] * 3, axis=-1)
            Image.fromarray(pixels).save(source.images[id])
            Image.fromarray(mask).save(source.masks[id])
            if id != "d":
                boxes[id] = np.pad(component_boxes(mask, (1, 2)).astype(float), ((0, 0), (0, 1)))
        return source, boxes

    @staticmethod
    def stream(source: Folder, boxes: dict[str, np.ndarray] | None, name: str = "any") -> Stream:
        cut = TrainTransform(32, (0.6, 1.6), flip=True)
        return Stream(source, list("abcd"), cut, 0, name, boxes=boxes)

    def test_every_pixel_of_a_thing_is_in_a_box_of_its_own_image(
        self, marked: tuple[Folder, dict[str, np.ndarray]]
    ) -> None:
        stream, without, missed = self.stream(*marked), 0, 0
        for position in range(24):
            sample = stream[position]
            assert sample.boxes.shape == (MOST, 5) and sample.boxes.dtype == torch.int64
            thing = (sample.label == 1) | (sample.label == 2)
            inside = inside_boxes(sample.boxes[None], sample.label[None])[0]
            if stream.id(position) == "d":
                assert (sample.boxes[:, 0] == -1).all()
                without += 1
            else:
                missed += int((thing & ~inside).sum())
                # pixels of the edge may be rounded away
                shifted = inside_boxes(
                    sample.boxes[None] + torch.tensor([0, -1, -1, 1, 1]), sample.label[None]
                )[0]
                assert not (thing & ~shifted).any()
                assert not inside[~thing].any()
        assert without == 6 and missed < 0.005 * 18 * 32**2

    def test_boxes_change_nothing_else(self, marked: tuple[Folder, dict[str, np.ndarray]]) -> None:
        with_boxes, without = self.stream(*marked), self.stream(marked[0], None)
        for position in range(6):
            one, two = with_boxes[position], without[position]
            assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
            assert two.boxes.shape == (0, 5) and two.boxes.dtype == torch.int64

    def test_pairs_hold_the_boxes_of_the_unlabelled_image(
        self, marked: tuple[Folder, dict[str, np.ndarray]]
    ) -> None:
        source, boxes = marked
        labeled, other = self.stream(source, None, "l"), self.stream(source, boxes, "u")
        pairs = PairedStreams(labeled, other)
        batch = default_collate([pairs[position] for position in range(3)])
        assert isinstance(batch, PairBatch) and batch.boxes_u.shape == (3, MOST, 5)
        for position in range(3):
            assert torch.equal(batch.boxes_u[position], other[position].boxes)
        for streams in (
            PairedStreams(labeled, self.stream(source, None, "u")),
            PairedStreams(labeled, None),
        ):
            batch = default_collate([streams[position] for position in range(3)])
            assert batch.boxes_u.shape == (3, 0, 5)
