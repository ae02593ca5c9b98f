from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.runs import write_run
from u2pl.evaluate.counts import COUNTS, Counts, load_counts, save_counts
from u2pl.evaluate.statistics import Interval, t_interval
from u2pl.run.compare.finished import read_run
from u2pl.run.compare.gains import Gain, Spread, class_scores, gain, last_scores, paired
from u2pl.run.compare.variants import Variant


def variant(folder: Path, students: dict[int, float], **told: object) -> Variant:
    runs = [
        read_run(write_run(folder / str(seed), seed=seed, student=right, **told))  # type: ignore[arg-type]
        for seed, right in students.items()
    ]
    return Variant(folder.name, tuple(runs))


def test_a_spread_is_mean_and_deviation() -> None:
    spread = Spread.of([1.0, 2.0, 6.0])
    assert spread is not None and spread.words() == "3.00 ± 2.65" and spread.words("+")[0] == "+"
    one = Spread.of([-1.0])
    assert one is not None and math.isnan(one.deviation) and one.words("+") == "-1.00"
    assert Spread.of([]) is None


def test_differences_are_those_of_equal_seeds() -> None:
    assert paired({0: 5.0, 1: 7.0, 3: 9.0}, {3: 4.0, 1: 8.0, 2: 0.0}) == {1: -1.0, 3: 5.0}


def test_a_gain_is_paired_by_seed_and_over_the_same_images(tmp_path: Path) -> None:
    base = variant(tmp_path / "base", {0: 0.5, 1: 0.6, 2: 0.7})
    ours = variant(tmp_path / "ours", {0: 0.55, 1: 0.66, 5: 0.9})
    found = gain(ours, base, "student")
    assert found is not None and found.seeds == (0, 1)
    mine, theirs = last_scores(ours, "student"), last_scores(base, "student")
    differences = [mine[seed] - theirs[seed] for seed in (0, 1)]
    assert found.spread.mean == pytest.approx(sum(differences) / 2)
    assert found.over_seeds == t_interval(differences)
    assert found.over_images is not None
    # paired: far narrower than the interval of either run, as the images are hard for both
    assert found.over_images.low < found.spread.mean < found.over_images.high
    draws = ours.by_seed[0].draws("student")
    assert draws is not None
    assert found.over_images.high - found.over_images.low < (draws.max() - draws.min()) / 2


def test_equal_runs_gain_exactly_nothing(tmp_path: Path) -> None:
    base, same = (variant(tmp_path / name, {0: 0.5, 1: 0.6}) for name in ("a", "b"))
    found = gain(same, base, "average")
    assert found is not None and found.over_images == Interval(0, 0) == found.over_seeds
    assert not found.holds and found.words() == "no difference shown: within the spread over seeds"


def test_the_order_of_the_images_is_no_difference(tmp_path: Path) -> None:
    base, same = (variant(tmp_path / name, {0: 0.5, 1: 0.6}) for name in ("a", "b"))
    for run in same.runs:
        path = run.folder / COUNTS
        ids, networks = load_counts(path)
        turned = {k: Counts(v.confusion, v.images.flip(0)) for k, v in networks.items()}
        save_counts(path, ids[::-1], turned)
    found = gain(same, base, "student")
    assert found is not None and found.over_images == Interval(0, 0)


def test_without_counts_or_a_common_seed_there_is_less_to_say(tmp_path: Path) -> None:
    base = variant(tmp_path / "base", {0: 0.5})
    bare = variant(tmp_path / "bare", {0: 0.5}, counted=False)
    found = gain(bare, base, "student")
    assert found is not None and found.over_images is None and found.over_seeds is None
    assert gain(variant(tmp_path / "later", {1: 0.5}), base, "student") is None
    lone = variant(tmp_path / "lone", {0: 0.5}, average=None)
    assert gain(lone, base, "average") is None and last_scores(lone, "average") == {}


def test_a_class_that_does_not_occur_has_no_score(tmp_path: Path) -> None:
    score = {"per_class_iou": [50.0, None, 10.0], "miou": 30.0, "pixel_accuracy": 60.0}
    folder = write_run(tmp_path / "a", summary={"networks": {"student": score}}, counted=False)
    found = Variant("a", (read_run(folder),))
    assert class_scores(found, "student", 0) == {0: 50.0}
    assert class_scores(found, "student", 1) == {}


UP, DOWN, BOTH = Interval(1, 2), Interval(-2, -1), Interval(-1, 2)


@pytest.mark.parametrize(
    ("mean", "over_seeds", "over_images", "words", "holds"),
    [
        (1.5, UP, UP, "the gain holds", True),
        (1.5, UP, None, "the gain holds", True),
        (-1.5, DOWN, DOWN, "the loss holds", True),
        (1.5, BOTH, UP, "no gain shown: within the spread over seeds", False),
        (-1.5, BOTH, None, "no loss shown: within the spread over seeds", False),
        (1.5, UP, BOTH, "gain over seeds, but within what the choice of images explains", False),
        (1.5, None, None, "one seed says nothing about the spread", False),
        (
            1.5,
            None,
            UP,
            "more than the choice of images explains; one seed says nothing about the spread over "
            "seeds",
            False,
        ),
        (
            1.5,
            None,
            BOTH,
            "no more than the choice of images explains; one seed says nothing about the spread "
            "over seeds",
            False,
        ),
    ],
)
def test_words_say_what_a_gain_shows(
    mean: float, over_seeds: Interval, over_images: Interval, words: str, holds: bool
) -> None:
    found = Gain((0, 1), Spread(mean, 1.0, 2), over_seeds, over_images)
    assert (found.words(), found.holds) == (words, holds)


def test_a_single_image_shows_no_gain_whatever_the_seeds_say() -> None:
    found = Gain((0, 1), Spread(1.5, 0.1, 2), UP, None, images=1)
    assert found.words() == "gain over seeds, but on a single image" and not found.holds
    assert Gain((0, 1), Spread(1.5, 0.1, 2), UP, None, images=2).holds
