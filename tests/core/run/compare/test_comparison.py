from __future__ import annotations

from pathlib import Path

import pytest

from core.toy.app import APP
from harness.runs import write_run
from u2pl.errors import UserError
from u2pl.run.app import APPS
from u2pl.run.compare.comparison import compare


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A baseline and another method with three seeds; a variant of it that lacks one."""
    for seed in range(3):
        more = 0.01 * seed
        write_run(tmp_path / f"base-{seed}", seed=seed, student=0.5 + more, average=0.52 + more)
        other = {"method": "other", "averaged": "teacher", "seed": seed, "student": 0.6 + more}
        usual = {"method.strength": 0.5}
        write_run(tmp_path / f"a-other-{seed}", average=0.63 + 1.2 * more, options=usual, **other)
        if seed:
            options = {"method.strength": 0.0}
            write_run(tmp_path / f"weak-{seed}", average=None, options=options, **other)
    return tmp_path


def test_students_are_compared_with_students_and_averages_with_averages(runs: Path) -> None:
    found = compare([runs], app=APP)
    assert [variant.name for variant in found.variants] == ["plain", "other", "other, strength=0"]
    assert [(row.variant, row.role, row.network, row.seeds) for row in found.rows] == [
        ("plain", "student", "student", (0, 1, 2)),
        ("other", "student", "student", (0, 1, 2)),
        ("other, strength=0", "student", "student", (1, 2)),
        ("plain", "average", "ema", (0, 1, 2)),
        ("other", "average", "teacher", (0, 1, 2)),
    ]
    reference, student, weak, _, average = found.rows
    assert reference.gain is None and reference.words == "the reference"
    assert student.gain is not None and student.gain.seeds == (0, 1, 2)
    assert student.gain.spread.mean == pytest.approx(student.last.mean - reference.last.mean)
    assert weak.gain is not None and weak.gain.seeds == (1, 2)
    assert average.gain is not None and average.words == "the gain holds"
    assert student.minutes == 1.5 and len(student.per_class) == 3
    gains = [each.mean for each in average.per_class_gain if each]
    assert sum(gains) / 3 == pytest.approx(average.gain.spread.mean)
    assert found.images == 12 and found.classes[1] == "cat"
    assert len(found.flags) == 1 and found.flags[0].startswith("seed 0 of plain is missing in")


def test_any_variant_may_be_the_reference(runs: Path) -> None:
    assert compare([runs], "other, strength=0", APP).reference.name == "other, strength=0"
    assert compare([runs / "a-other-0", runs / "weak-1"], app=APP).reference.name == "other"
    found = compare([runs / "weak-1", runs / "base-1"], "other", APP)  # the method's only variant
    assert found.variants[0].method == "other"
    average = found.rows_of("average")
    assert [row.words for row in average] == ["other has no average"]
    with pytest.raises(
        UserError, match=r"--against othr: .*mean other\?\); there are other; plain"
    ):
        compare([runs], "othr", APP)


def test_variants_without_a_common_seed_say_so(runs: Path) -> None:
    row = compare([runs / "base-0", runs / "weak-1"], app=APP).rows[1]
    assert row.gain is None and row.words == "no seed in common with plain"


def test_one_seed_and_few_images_forbid_large_words(runs: Path, tmp_path: Path) -> None:
    found = compare([runs / "base-0", runs / "a-other-0"], app=APP)
    one, few = found.doubts
    assert one.startswith("every gain is of a single seed") and few.startswith("only 12 images")
    for seed in (0, 1):
        for i in range(21):
            folder = tmp_path / "many" / f"{i}-{seed}"
            write_run(folder, seed=seed, average=None, images=40, options={"method.x": i})
    (many,) = compare([tmp_path / "many"], app=APP).doubts
    assert many.startswith("20 gains are looked at, of which about 1 would seem")


def test_the_app_is_that_of_the_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(APPS, "toy", "core.toy.app")
    assert compare([runs]).app is APP


def test_without_a_finished_run_it_says_why(tmp_path: Path) -> None:
    write_run(tmp_path / "a", finished=False)
    with pytest.raises(UserError, match=r"nothing to compare: left out, not finished: .*a$"):
        compare([tmp_path / "a"], app=APP)
    with pytest.raises(UserError, match="nothing to compare: no folder was given"):
        compare([], app=APP)


def test_a_folder_may_hold_runs_of_other_apps(tmp_path: Path) -> None:
    write_run(tmp_path / "mine")
    write_run(tmp_path / "theirs", app="u2pl-da")
    found = compare([tmp_path], app=APP)
    assert [run.folder.name for run in found.reference.runs] == ["mine"]
    assert found.flags == (f"left out, of another app: {tmp_path / 'theirs'}",)
    with pytest.raises(UserError, match="theirs is a run of u2pl-da, not of u2pl-toy"):
        compare([tmp_path / "mine", tmp_path / "theirs"], app=APP)


def test_runs_scored_on_one_image_gain_nothing(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"base-{seed}", seed=seed, student=0.5, images=1)
        write_run(tmp_path / f"more-{seed}", method="other", seed=seed, student=0.6, images=1)
    found = compare([tmp_path], app=APP)
    gains = [row.gain for row in found.rows if row.gain is not None]
    assert gains and all(gain.over_images is None and not gain.holds for gain in gains)
    assert found.doubts[0].startswith("only one image is scored: ")
    assert ", 1 image\n" in str(found)
