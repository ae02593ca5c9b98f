"""What a method finds in the labelled images before its first step is kept for equal runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.tiny import Tiny
from u2pl.counting import OnProgress, silently
from u2pl.run.task import Task
from u2pl.run.train import make_task
from u2pl_semi.app import APP


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("U2PL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each time that the labelled images are read."""
    found: list[int] = []
    images = Task.labeled_images

    def counted(self: Task, progress: OnProgress) -> Iterator[tuple[Tensor, Tensor]]:
        found.append(1)
        return images(self, progress)

    monkeypatch.setattr(Task, "labeled_images", counted)
    return found


def prepared(folder: Path, tiny: Tiny, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    """The state of esl before its first step."""
    words = tiny.assignments("esl", **options)
    request = APP.request.of(
        method="esl", preset="light", data=str(folder), labeled="labeled", set=words, seed=seed
    )
    task = make_task(APP, request, silently)
    method = task.build_method()
    task.prepare(method)
    return method.state_dict()


def test_equal_runs_find_the_same_without_looking_again(
    folder: Path, tiny: Tiny, looks: list[int], cache: Path
) -> None:
    first = prepared(folder, tiny)
    again = prepared(folder, tiny)
    assert len(looks) == 1 and len(list(cache.iterdir())) == 1
    assert first["part_prototypes.known"].any()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"method_parts": 3}, {"data_long_side": 20}, {"network_width": 64}],
    ids=lambda change: next(iter(change)),
)
def test_another_run_looks_for_itself(
    change: dict[str, int], folder: Path, tiny: Tiny, looks: list[int]
) -> None:
    prepared(folder, tiny)
    prepared(folder, tiny, **change)
    assert len(looks) == 2


@pytest.mark.parametrize("harm", ["damaged", "other"])
def test_a_file_that_cannot_be_used_counts_as_absent(
    harm: str, folder: Path, tiny: Tiny, looks: list[int], cache: Path
) -> None:
    first = prepared(folder, tiny)
    (file,) = cache.iterdir()
    if harm == "damaged":
        file.write_bytes(file.read_bytes()[:-1])
    else:  # one that was stored under another key
        prepared(folder, tiny, seed=1)
        (other,) = set(cache.iterdir()) - {file}
        other.replace(file)
    before = len(looks)
    again = prepared(folder, tiny)
    assert len(looks) == before + 1
    assert all(torch.equal(first[key], again[key]) for key in first)
