from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from u2pl.data.sources.folder import Folder
from u2pl.data.splits import choose_labeled, draw_stratified
from u2pl.errors import UserError

MakeFolder = Callable[..., Path]


@pytest.fixture
def source(make_folder: MakeFolder) -> Folder:
    """30 masked images of background and cat, of which number 17 has a dog; 10 without; two val."""
    held = (
        {f"m{i:02}": [0, 1, 2] if i == 17 else [0, 1] for i in range(30)}
        | {f"u{i}": None for i in range(10)}
        | {"v0": [0], "v1": [1]}
    )
    train = "\n".join(id for id in held if not id.startswith("v"))
    return Folder(
        make_folder(
            held, train=train, val="v0\nv1\n", two="m01\nm05\n", bare="m01\nu3\n", leak="m01\nv0\n"
        )
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("which", "count"), [("4", 4), ("1/8", 4), ("0.1", 3), ("1/1000", 1), (".5", 15)]
)
def test_numbers_and_fractions_cover_every_class(
    source: Folder, which: str, count: int, seed: int
) -> None:
    split = choose_labeled(source, which, seed)
    assert len(split.labeled) == count
    assert "m17" in split.labeled
    assert set(split.labeled) | set(split.unlabeled) == set(source.split("train"))
    assert not set(split.labeled) & set(split.unlabeled)
    assert (
        split.protocol
        == f"{which} of train, seed {seed}, stratified ({count} image{'s' * (count > 1)})"
    )


def test_a_seed_draws_the_same_whatever_the_order_of_the_list(source: Folder) -> None:
    first = choose_labeled(source, "6", seed=3).labeled
    where, lines = source.lists["train"]
    source.lists["train"] = source.lists["train"]._replace(where=where, lines=lines[::-1])
    assert choose_labeled(source, "6", seed=3).labeled == first
    assert choose_labeled(source, "6", seed=4).labeled != first


def test_without_a_missing_class_the_draw_is_plain(source: Folder) -> None:
    pool = [f"m{i:02}" for i in range(30)]
    order = [pool[i] for i in np.random.default_rng(0).permutation(30)]
    count = order.index("m17") + 1
    assert draw_stratified(source, pool, count, seed=0) == (sorted(order[:count]), [])


def test_only_as_many_masks_are_opened_as_needed(
    source: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    read = source.mask
    monkeypatch.setattr(source, "mask", lambda id: opened.append(id) or read(id))
    pool = [f"m{i:02}" for i in range(30)]
    order = [pool[i] for i in np.random.default_rng(0).permutation(30)]
    draw_stratified(source, pool, 2, seed=0)
    assert opened == order[: max(2, order.index("m17") + 1)]


def test_a_swap_never_loses_a_class(make_folder: MakeFolder) -> None:
    held = {"a": [0], "b": [1], "c": [2], "d": [3], "e": [0], "f": [0, 0]}
    source = Folder(make_folder(held, classes="p\nq\nr\ns\n"))
    for seed in range(20):
        drawn, missing = draw_stratified(source, sorted(held), 4, seed)
        assert missing == []
        assert {0, 1, 2, 3} == {int(c) for id in drawn for c in np.unique(source.mask(id))}


def test_classes_that_cannot_be_covered_are_named(source: Folder, make_folder: MakeFolder) -> None:
    bare = Folder(
        make_folder(
            {f"m{i:02}": [0, 1] for i in range(30)},
            val="v0\n",
            train="\n".join(f"m{i:02}" for i in range(30)),
        )
    )
    (bare.masks.pop("m17"), bare.lists.pop("val"))
    assert (
        choose_labeled(bare, "5", seed=0).protocol
        == "5 of train, seed 0, stratified (5 images, without dog)"
    )


def test_names_files_and_nothing(source: Folder, tmp_path: Path, make_folder: MakeFolder) -> None:
    two = choose_labeled(source, "two", seed=0)
    assert (two.labeled, two.protocol, len(two.unlabeled)) == (["m01", "m05"], "two (2 images)", 38)
    (tmp_path / "my.txt").write_text("m03\nimages/m09.png\n")
    mine = choose_labeled(source, str(tmp_path / "my.txt"), seed=0)
    assert (mine.labeled, mine.protocol) == (["m03", "m09"], "file my.txt (2 images)")
    everything = choose_labeled(source, None, seed=0)
    assert (len(everything.labeled), len(everything.unlabeled)) == (30, 10)
    assert everything.protocol == "all of train with masks (30 images)"
    source.lists["labeled"] = source.lists["two"]
    assert choose_labeled(source, None, seed=0).protocol == "labeled (2 images)"


def test_numbers_are_read_before_names_and_names_before_files(
    source: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.lists["3"] = source.lists["two"]
    (tmp_path / "two").write_text("m09\n")
    monkeypatch.chdir(tmp_path)
    assert len(choose_labeled(source, "3", seed=0).labeled) == 3
    assert choose_labeled(source, "two", seed=0).labeled == ["m01", "m05"]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("0", "has 30 masked images in 'train'; ask for 1 to 30"),
        ("31", "has 30 masked images in 'train'; ask for 1 to 30"),
        ("-2", "ask for 1 to 30"),
        ("0.0", "above 0 and at most 1"),
        ("1.5", "above 0 and at most 1"),
        ("3/2", "above 0 and at most 1"),
        ("1/0", "above 0 and at most 1"),
        (
            "threee",
            "is no number, no fraction, no file and no split of photos, which has bare, leak",
        ),
        ("bare", r"labeled bare: images without mask: 'u3' \(1\)"),
        ("leak", r"labeled leak: images of the val split: 'v0' \(1\)"),
    ],
)
def test_wrong_choices_are_named(source: Folder, which: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_labeled(source, which, seed=0)


def test_no_masks_at_all_is_said(make_folder: MakeFolder) -> None:
    source = Folder(make_folder({"a": None, "b": None}))
    for which in (None, "1", "1/2"):
        with pytest.raises(UserError, match="no image of photos's split 'train' has a mask"):
            choose_labeled(source, which, seed=0)


def test_published_counts_come_out_of_fractions() -> None:
    import math
    from fractions import Fraction

    counts = {
        1464: (92, 183, 366, 732),
        10582: (662, 1323, 2646, 5291),
        2975: (186, 372, 744, 1488),
    }
    for total, published in counts.items():
        assert tuple(math.ceil(Fraction(1, d) * total) for d in (16, 8, 4, 2)) == published


def test_voc_animals_lists_and_fractions(shared: Callable[[str], Path]) -> None:
    source = Folder(shared("data/voc-animals"))
    named = choose_labeled(source, "labeled_65", seed=0)
    assert (len(named.labeled), len(named.unlabeled), named.protocol) == (
        65,
        3131 - 65,
        "labeled_65 (65 images)",
    )
    drawn = choose_labeled(source, "1/100", seed=1)
    assert len(drawn.labeled) == 32
    assert {0, 1, 2, 3, 4, 5, 6} <= {
        int(c) for id in drawn.labeled for c in np.unique(source.mask(id))
    }
