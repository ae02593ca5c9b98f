from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from u2pl import distributed
from u2pl.data import class_counts as module
from u2pl.data.class_counts import class_counts
from u2pl.data.sources.folder import Folder
from u2pl.errors import UserError

IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("U2PL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(make_folder: Callable[..., Path]) -> Folder:
    return Folder(
        make_folder({"a": [0, 1], "b": [255], "c": [2, 2, 1], "d": [1], "e": [0, 255, 2]})
    )


def _slow(source: Folder, ids: list[str]) -> list[list[int]]:
    return [
        [sum(int(pixel == c) for pixel in source.mask(id).ravel()) for c in range(3)] for id in ids
    ]


def _closed(source: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "mask", lambda id: pytest.fail("opened"))


def test_counts_are_those_of_a_slow_loop(source: Folder) -> None:
    counts = class_counts(source, IDS)
    assert counts.dtype == np.int64 and counts.tolist() == _slow(source, IDS)
    assert class_counts(source, []).shape == (0, 3)


def test_they_are_counted_once_for_each_list(
    source: Folder, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    calls: list[tuple[int, int]] = []
    first = class_counts(source, IDS, lambda done, to_do: calls.append((done, to_do)))
    assert calls == [(i, 5) for i in range(1, 6)]
    other = class_counts(source, IDS[::-1])
    assert other.tolist() == first.tolist()[::-1]
    assert len(list(cache.iterdir())) == 2
    _closed(source, monkeypatch)
    again = class_counts(source, IDS, lambda done, to_do: calls.append((done, to_do)))
    assert np.array_equal(again, first) and len(calls) == 5
    with pytest.raises(pytest.fail.Exception, match="opened"):
        class_counts(source, IDS[:2])


def test_other_data_of_the_same_ids_are_counted_anew(source: Folder) -> None:
    class_counts(source, IDS)
    source.masks["a"].write_bytes(source.masks["c"].read_bytes() + b"longer")
    assert class_counts(source, IDS).tolist() == _slow(source, IDS)


def test_a_damaged_file_is_counted_anew_and_replaced(
    source: Folder, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    counts = class_counts(source, IDS[:1])
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        assert np.array_equal(class_counts(source, IDS[:1]), counts), place
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        assert np.array_equal(class_counts(source, IDS[:1]), counts), length
    _closed(source, monkeypatch)
    assert np.array_equal(class_counts(source, IDS[:1]), counts)


def test_another_lists_file_is_not_believed(source: Folder, cache: Path) -> None:
    class_counts(source, IDS)
    (file,) = cache.iterdir()
    class_counts(source, IDS[::-1])
    (other,) = (found for found in cache.iterdir() if found != file)
    other.write_bytes(file.read_bytes())
    assert class_counts(source, IDS[::-1]).tolist() == _slow(source, IDS[::-1])


def test_an_unwritable_folder_is_no_error(source: Folder, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert (
        class_counts(source, IDS).tolist()
        == class_counts(source, IDS).tolist()
        == _slow(source, IDS)
    )


def test_the_folder_follows_the_environment(
    source: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("U2PL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    class_counts(source, IDS)
    assert len(list((tmp_path / "xdg" / "u2pl").glob("class-counts-*.safetensors"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    class_counts(source, IDS)
    assert len(list((tmp_path / "home" / ".cache" / "u2pl").iterdir())) == 1

    def homeless(path: Path) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert class_counts(source, IDS).tolist() == _slow(source, IDS)


def test_a_broken_mask_is_named(source: Folder, cache: Path) -> None:
    source.masks["c"].write_bytes(b"")
    with pytest.raises(UserError, match=r"c\.png cannot be decoded"):
        class_counts(source, IDS)
    with pytest.raises(UserError, match="image 'z' has no mask"):
        source.images["z"] = source.images["a"]
        class_counts(source, ["z"])
    assert not cache.exists()


class _Processes:
    """Threads in the place of processes: `gather` joins what each of them brings."""

    def __init__(self, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world, self.here, self.meet = world, threading.local(), threading.Barrier(world)
        self.brought: dict[int, torch.Tensor] = {}
        monkeypatch.setattr(distributed, "world_size", lambda: world)
        monkeypatch.setattr(distributed, "rank", lambda: self.here.rank)
        monkeypatch.setattr(distributed, "gather", self.gather)

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        self.brought[self.here.rank] = value
        self.meet.wait(10)
        rows = [self.brought[rank] for rank in range(self.world)]
        assert len({row.shape for row in rows}) == 1
        self.meet.wait(10)
        return torch.cat(rows)

    def run(self, work: Callable[[int], object]) -> list[object]:
        def as_process(rank: int) -> object:
            self.here.rank = rank
            return work(rank)

        with ThreadPoolExecutor(self.world) as pool:
            return list(pool.map(as_process, range(self.world)))


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_the_work(
    source: Folder, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    expected, decoded, lock = _slow(source, IDS), [], threading.Lock()
    pixels = module._pixels

    def counted(source: Folder, id: str) -> np.ndarray:
        with lock:
            decoded.append(id)
        return pixels(source, id)

    monkeypatch.setattr(module, "_pixels", counted)
    processes = _Processes(world, monkeypatch)
    assert all(
        np.array_equal(found, expected)
        for found in processes.run(lambda rank: class_counts(source, IDS))
    )
    assert sorted(decoded) == IDS
    # One process has lost its file: all count again, or the others would wait for it.
    monkeypatch.setattr(
        module,
        "load_cached",
        lambda *_: None if distributed.rank() == 1 else {"counts": torch.tensor(expected)},
    )
    assert all(
        np.array_equal(found, expected)
        for found in processes.run(lambda rank: class_counts(source, IDS))
    )
    assert sorted(decoded) == sorted(IDS * 2)


def test_a_broken_mask_stops_every_process(source: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    source.masks["d"].write_bytes(b"")

    def work(rank: int) -> str:
        with pytest.raises(UserError) as error:
            class_counts(source, IDS)
        return str(error.value)

    errors = _Processes(2, monkeypatch).run(work)
    assert errors[0] == errors[1] and "d.png cannot be decoded" in str(errors[0])


def test_a_mask_that_could_not_be_read_for_a_moment_is_counted_after_all(
    source: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, mask, failed = _slow(source, IDS), source.mask, []

    def once_broken(id: str) -> np.ndarray:
        if id == "b" and not failed:
            failed.append(id)
            raise UserError("broken")
        return mask(id)

    monkeypatch.setattr(source, "mask", once_broken)
    assert class_counts(source, IDS).tolist() == expected and failed
