from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from u2pl.data import streams
from u2pl.data.sources.folder import Folder
from u2pl.data.streams import Interleaved, StepSampler, Stream
from u2pl.data.transforms import TrainSample, TrainTransform
from u2pl.errors import UserError

IDS = [f"m{i}" for i in range(7)]


@pytest.fixture
def source(make_folder: Callable[..., Path]) -> Folder:
    return Folder(make_folder({id: [0, 1, 2] for id in IDS}))


def _stream(source: Folder, seed: int = 0, name: str = "labelled", **other: str) -> Stream:
    return Stream(source, IDS, TrainTransform(5, (0.5, 2.0), flip=True), seed, name, **other)


def _equal(a: TrainSample, b: TrainSample) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_every_epoch_is_another_order_of_all_ids(source: Folder) -> None:
    stream = _stream(source)
    epochs = [[stream.id(e * 7 + i) for i in range(7)] for e in range(5)]
    assert all(sorted(epoch) == IDS for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_sample_depends_on_its_position_alone(source: Folder) -> None:
    forward, backward = _stream(source), _stream(source)
    samples = {g: forward[g] for g in range(20)}
    np.random.seed(1)
    torch.manual_seed(1)
    assert all(_equal(backward[g], samples[g]) for g in reversed(range(20)))
    same_image = [samples[g] for g in range(20) if forward.id(g) == "m0"]
    assert not all(_equal(same_image[0], other) for other in same_image[1:])


def test_seed_and_name_change_the_order(source: Folder) -> None:
    def order(**other: object) -> list[str]:
        stream = _stream(source, **other)  # type: ignore[arg-type]
        return [stream.id(g) for g in range(14)]

    assert order() == order()
    assert order() != order(seed=1)
    assert order() != order(name="unlabelled")


@pytest.mark.parametrize("share", [0.5, 0.25, 0.3, 0.9])
def test_two_streams_take_turns_and_neither_skips_a_sample(source: Folder, share: float) -> None:
    first, second = _stream(source), _stream(source, name="other")
    both = Interleaved(first, second, share)
    places = [both.place(g) for g in range(1000)]
    for which in (0, 1):
        assert [place for w, place in places if w == which] == list(range(len(places)))[
            : sum(w == which for w, _ in places)
        ]
    for start in range(0, 1000, 40):  # whatever part of a run is looked at
        drawn = sum(which for which, _ in places[start : start + 40])
        assert abs(drawn - 40 * share) < 1
    assert sum(which for which, _ in places) == pytest.approx(1000 * share)
    which, place = places[11]
    assert _equal(both[11], (first, second)[which][place])


def test_steps_of_two_processes_are_those_of_one() -> None:
    one = list(StepSampler(3, 8, batch=8))
    halves = [list(StepSampler(3, 8, batch=4, rank=rank, world=2)) for rank in range(2)]
    assert one == [a + b for a, b in zip(*halves, strict=True)]
    assert one[0] == list(range(24, 32))
    assert len(StepSampler(3, 8, batch=8)) == 5


def test_resumed_steps_are_those_of_the_uninterrupted_run() -> None:
    assert list(StepSampler(0, 9, 2, 1, 3))[4:] == list(StepSampler(4, 9, 2, 1, 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(source: Folder, workers: int) -> None:
    loader = DataLoader(_stream(source), batch_sampler=StepSampler(2, 6, 3), num_workers=workers)
    plain = _stream(source)
    for step, batch in enumerate(loader, start=2):
        assert isinstance(batch, TrainSample)
        assert batch.image.shape == (3, 3, 5, 5)
        for i in range(3):
            assert _equal(TrainSample(*(field[i] for field in batch)), plain[step * 3 + i])


def test_masks_stay_closed_when_told(source: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    open_stream, closed = _stream(source), _stream(source, masks="never")
    assert (open_stream[0].label != 255).any()
    monkeypatch.setattr(source, "mask", lambda id: pytest.fail("opened"))
    assert (closed[0].label == 255).all()


def test_a_broken_mask_stops_only_a_stream_that_needs_it(
    source: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed, extra = _stream(source), _stream(source, masks="extra")
    assert _equal(needed[3], extra[3])

    def broken(id: str) -> np.ndarray:
        raise UserError("broken")

    monkeypatch.setattr(source, "mask", broken)
    assert (extra[0].label == 255).all()
    with pytest.raises(UserError, match="broken"):
        needed[0]


def test_no_ids_is_said(source: Folder) -> None:
    with pytest.raises(UserError, match="there are no unlabelled images in photos"):
        Stream(source, [], TrainTransform(5, (1.0, 1.0), flip=False), 0, "unlabelled")


def _images(stream: Stream, workers: int, count: int = 14) -> torch.Tensor:
    sampler = StepSampler(0, count, 1)
    loader = DataLoader(stream, batch_sampler=sampler, num_workers=workers)
    return torch.cat([batch.image for batch in loader])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_image_is_shown_instead_of_an_unlabelled_one_that_is_broken(
    source: Folder, workers: int
) -> None:
    whole = _stream(source, masks="extra")
    shown = [whole.id(g) for g in range(15)]
    source.images["m3"].write_bytes(b"no image")
    stream = _stream(source, masks="extra")
    images = _images(stream, workers)
    assert stream.skipped() == ["m3"] and len(images) == 14
    # all others are as they were; the broken ones are cut at their own place from the next image
    for g, image in enumerate(images):
        id = shown[g] if shown[g] != "m3" else shown[g + 1]
        expected = whole.transform(source.image(id), None, whole.generator(g))
        assert torch.equal(image, expected.image)


def test_a_broken_image_with_a_mask_is_an_error(source: Folder) -> None:
    source.images["m3"].write_bytes(b"no image")
    stream = _stream(source)
    with pytest.raises(UserError, match=r"m3\.png cannot be decoded"):
        _images(stream, 0)
    assert stream.skipped() == []


def test_many_broken_images_are_an_error(source: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FEW_BROKEN", 1)
    for id in ("m1", "m3"):
        source.images[id].unlink()
    stream = _stream(source, masks="extra")
    _images(stream, 0)
    with pytest.raises(UserError, match=r"that cannot be read: 'm1', 'm3' \(2\): replace"):
        stream.skipped()
    for id in IDS:
        source.images[id].unlink(missing_ok=True)
    with pytest.raises(UserError, match="does not exist"):  # there is no other
        _images(stream, 0)
