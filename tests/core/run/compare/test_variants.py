from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from core.toy.app import APP
from harness.runs import write_run
from u2pl.run.compare.finished import Finished, read_run
from u2pl.run.compare.variants import Variant, find_variants, value_words


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """`made(seed=1, ...)` is a run."""

    def make(**told: Any) -> Finished:
        return read_run(write_run(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", **told))

    return make


def names(runs: list[Finished]) -> list[str]:
    return [variant.name for variant in find_variants(APP, runs)[0]]


def test_runs_that_differ_in_the_seed_alone_are_a_variant(made: Any) -> None:
    free = {"data.workers": 4, "train.log_every": 5}
    runs = [made(seed=2), made(seed=0, options=free), made(seed=1, config={"command": "typed"})]
    (variant,), said = find_variants(APP, runs)
    assert isinstance(variant, Variant) and variant.name == variant.method == "plain"
    assert variant.seeds == (0, 1, 2) and said == []
    assert variant.by_seed[2] is runs[0]


def test_methods_are_named_by_themselves_whatever_else_differs(made: Any) -> None:
    runs = [made(), made(method="other", options={"train.lr": 1.0, "method.strength": 0.1})]
    assert names(runs) == ["plain", "other"]


def test_a_run_whose_preset_is_not_known_has_a_name_all_the_same(made: Any) -> None:
    runs = [made(), made(method="other", options={"method.strength": 0.1})]
    del runs[1].config["preset"]
    assert names(runs) == ["plain", "other"]


def test_variants_of_a_method_are_named_by_what_differs_from_its_recipe(made: Any) -> None:
    """The toy's recipe has strength 0.5; no run but one names it."""
    usual = {"method": "other", "options": {"method.strength": 0.5}}
    runs = [made(), made(**usual), made(seed=1, **usual)]
    runs.append(made(method="other", options={"method.strength": 0.0}))
    assert names(runs) == ["plain", "other", "other, strength=0"]
    assert find_variants(APP, runs)[1] == ["unless a name says otherwise, other has strength=0.5"]
    runs = [made(method="other", options={"method.strength": value}) for value in (0.25, 1.0)]
    assert names(runs) == ["other, strength=0.25", "other, strength=1"]
    assert find_variants(APP, runs)[1] == []


def test_what_all_runs_of_a_method_have_otherwise_than_its_recipe_is_said(made: Any) -> None:
    weak = {"method": "other", "options": {"method.strength": 0.0, "train.lr": 1.0}}
    runs = [made(), made(**weak), made(seed=1, **weak)]
    assert names(runs) == ["plain", "other"]
    preset = runs[0].config["preset"]
    said = f"other has strength=0 (0.5): what preset {preset} says in brackets"
    assert find_variants(APP, runs)[1] == [said]


def test_of_what_methods_share_the_most_frequent_value_goes_without_saying(made: Any) -> None:
    runs = [
        made(options={"train.lr": 0.01}),
        made(options={"train.lr": 0.1}),
        made(method="other", options={"train.lr": 0.1}),
    ]
    assert names(runs) == ["plain, lr=0.01", "plain", "other"]


def test_what_was_typed_names_a_variant_before_what_follows_from_it(made: Any) -> None:
    few = {"labeled": "4", "split": "4 of train, seed 0, stratified (4 images)"}
    again = {"labeled": "4", "split": "4 of train, seed 1, stratified (4 images, without cat)"}
    more = {"labeled": "8", "split": "8 of train, seed 0, stratified (8 images)"}
    runs = [made(config=few), made(seed=1, config=again), made(config=more)]
    assert names(runs) == ["plain", "plain, labeled=8"]
    runs = [made(config={"data_fingerprint": "a b"}), made(config={"data_fingerprint": "c b"})]
    assert names(runs) == ["plain", "plain, data_fingerprint=c b"]


def test_names_stay_apart_where_short_ones_would_not(made: Any) -> None:
    options = [{"method.lr": 1.0}, {"method.lr": 2.0, "train.lr": 2.0}, {"train.lr": 3.0}]
    found = names([made(options=each) for each in options])
    assert len(set(found)) == 3 and any("train.lr=" in name for name in found)
    lists = [{"labeled": f"/some/{place}/list.txt"} for place in ("here", "there")]
    assert names([made(config=each) for each in lists])[1] == "plain, labeled=/some/there/list.txt"


def test_pretrained_weights_are_known_by_their_content(made: Any) -> None:
    def weights(place: str, digest: str) -> dict[str, Any]:
        found = {"name": f"{place}/w.safetensors", "sha256": digest * 64}
        return {
            "summary": {"encoder_weights": found},
            "options": {"network.encoder_weights": f"{place}/w.safetensors"},
        }

    runs = [made(**weights("here", "a")), made(seed=1, **weights("there", "a"))]
    assert names(runs) == ["plain"]
    runs.append(made(**weights("here", "b")))
    assert names(runs) == ["plain", "plain, encoder_weights=w.safetensors (bbbbbbbb)"]


def test_of_two_equal_runs_the_newer_one_counts_and_it_is_said(made: Any) -> None:
    old, new = made(), made()
    os.utime(old.folder / "summary.json", (1, 1))
    (variant,), (said,) = find_variants(APP, [new, old])
    assert variant.runs == (new,)
    assert f"{old.folder} is left out: {new.folder} is a newer run of the same" in said


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.1, "0.1"), (2.0, "2"), (True, "true"), (None, "null"), ([1, 2], "[1, 2]"), ("a/b", "a/b")],
)
def test_values_are_written_as_they_are_typed(value: object, words: str) -> None:
    assert value_words(value) == words
    assert value_words("/a/b.txt") == "b.txt" and value_words("/a/b.txt", short=False) == "/a/b.txt"
