from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.toy.app import APP
from harness.runs import write_run
from u2pl.errors import UserError
from u2pl.run.compare.checks import check_comparable, flags, left_out
from u2pl.run.compare.finished import Finished, Found, read_run
from u2pl.run.compare.variants import find_variants

#: Scores of a network of two classes.
TWO = {"student": {"per_class_iou": [1.0, 2.0], "miou": 1.5, "pixel_accuracy": 2.0}}


def runs_of(folder: Path, *told: dict[str, Any]) -> list[Finished]:
    return [read_run(write_run(folder / f"run-{i}", **each)) for i, each in enumerate(told)]


def flagged(folder: Path, *told: dict[str, Any]) -> list[str]:
    variants, _ = find_variants(APP, runs_of(folder, *told))
    return flags(variants, variants[0])


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"app": "u2pl-da"}, "run-1 is a run of u2pl-da, not of u2pl-toy"),
        (
            {"summary": {"classes": ["a", "b"], "networks": TWO}},
            "the number of classes is 3 there, 2 here",
        ),
        ({"summary": {"classes": ["background", "cat", "cow"]}}, "a class is 'dog' there, 'cow'"),
        (
            {"summary": {"evaluation": "demo test, whole image, single scale"}},
            "they were scored on demo val there, demo test here",
        ),
        (
            {"summary": {"evaluation": "demo val, whole image, single scale, with flip"}},
            "the protocol is whole image, single scale there, whole image, single scale, with flip",
        ),
        (
            {"config": {"data_fingerprint": "ba9876543210"}},
            "the scored data have the fingerprint 0123456789ab there, ba9876543210 here",
        ),
        ({"images": 11}, "scored on other images, 12 there and 11 here, 11 of them in both"),
    ],
)
def test_scores_that_do_not_mean_the_same_are_refused(
    tmp_path: Path, other: dict[str, Any], says: str
) -> None:
    runs = runs_of(tmp_path, {}, other)
    with pytest.raises(UserError) as refused:
        check_comparable("u2pl-toy", runs)
    line = str(refused.value)
    assert says in line and "run-1" in line and "\n" not in line
    assert "run-0" in line or "is a run of" in line


def test_runs_of_several_kinds_end_with_the_command_for_the_most_of_them(tmp_path: Path) -> None:
    """The first run is of another kind, as a demo is beside runs on photos."""
    other = {"summary": {"evaluation": "photos val, whole image, single scale"}}
    with pytest.raises(UserError) as refused:
        check_comparable("u2pl-toy", runs_of(tmp_path, {}, other, {"seed": 1, **other}))
    words = f"of one kind are: u2pl-toy compare {tmp_path / 'run-1'} {tmp_path / 'run-2'}"
    assert str(refused.value).endswith(words)


def test_other_training_data_may_be_compared_on_equal_images(tmp_path: Path) -> None:
    two = [{"config": {"data_fingerprint": f"{first} 0123"}} for first in ("aa", "bb")]
    check_comparable("u2pl-toy", runs_of(tmp_path / "b", *two))
    assert "other training data: aa in plain; bb in `plain, data_fingerprint=bb 0123`" in flagged(
        tmp_path / "c", *two
    )


def test_equal_circumstances_are_not_mentioned(tmp_path: Path) -> None:
    method = {"method": "other", "options": {"method.strength": 1.0}}
    assert flagged(tmp_path, {}, {"seed": 1}, method, {"seed": 1, **method}) == []


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"config": {"split": "few"}}, "other labels: train in plain; few in other"),
        ({"config": {"tags_fingerprint": "x"}}, "other tags: None in plain; x in other"),
        ({"summary": {"labeled": 9}}, "labelled images: 4 in plain; 9 in other"),
        ({"config": {"steps": 40}}, "steps: 20 in plain; 40 in other"),
        ({"options": {"train.batch": 8}}, "train.batch: 2 in plain; 8 in other"),
        ({"options": {"data.crop": 64}}, "data.crop: 32 in plain; 64 in other"),
        ({"options": {"network.encoder": "x"}}, "network.encoder: test_resnet in plain; x in"),
        (
            {"summary": {"encoder_weights": {"name": "w", "sha256": "ab" * 32}}},
            "pretrained weights: none in plain; w (abababab) in other",
        ),
        ({"config": {"init": "u/n"}}, "begun with (--init): none in plain; u/n in other"),
        ({"summary": {"device": "a GPU"}}, "device: a CPU in plain; a GPU in other"),
        ({"summary": {"threads": 2}}, "threads of a process: 1 in plain; 2 in other"),
        ({"summary": {"versions": {"torch": "3"}}}, "version of torch: 2.15.0 in plain; 3 in"),
        ({"summary": {"commit": "fedcba98-dirty"}}, "commit: 0123456 in plain; fedcba9-dirty in"),
        ({"counted": False}, "no intervals over images for other: "),
        ({"seed": 1}, "seed 0 of plain is missing in other: differences are over the seeds that"),
    ],
)
def test_what_else_differs_is_a_line(tmp_path: Path, other: dict[str, Any], says: str) -> None:
    (line,) = flagged(tmp_path, {}, {"method": "other", **other})
    assert line.startswith(says)


def test_lines_stay_short_however_many_runs_there_are(tmp_path: Path) -> None:
    many = [{"options": {"method.x": i}, "seed": s} for i in range(8) for s in (0, 1)]
    odd = {"method": "other", "summary": {"threads": 2}}
    lines = flagged(tmp_path, odd, {**odd, "seed": 1, "summary": {}}, *many)
    assert lines == ["threads of a process: 2 in other (seed 0); 1 in all others"]
    commits = [{"method": "other", "seed": i, "summary": {"commit": str(i)}} for i in range(9)]
    (line,) = flagged(tmp_path / "b", *commits)
    assert line.count("in other") == 4 and line.endswith("5 more values")


def test_labels_that_the_seed_draws_are_mentioned(tmp_path: Path) -> None:
    drawn = [
        {"seed": s, "config": {"split": f"4 of train, seed {s}, stratified (4 images)"}}
        for s in (0, 1)
    ]
    (line,) = flagged(tmp_path, *drawn)
    assert line.startswith("each seed draws its own labelled images")


def test_runs_that_take_no_part_are_counted() -> None:
    paths = [Path(f"run-{i}") for i in range(6)]
    assert left_out(Found([], paths, paths[:1], [])) == [
        "left out, not finished: run-0, run-1, run-2, run-3 and 2 more",
        "left out, not scored for want of masks: run-0",
    ]


def test_a_journal_that_is_damaged_is_flagged_and_the_rest_of_it_counts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with open(folder / "journal.jsonl", "a") as file:
        file.write("{\n")
    variants, _ = find_variants(APP, [read_run(folder)])
    (run,) = variants[0].runs
    assert list(run.curve("student")) == [10, 20]
    (flag,) = flags(variants, variants[0])
    assert flag.startswith(f"{folder / 'journal.jsonl'}: line 4 cannot be read (")
