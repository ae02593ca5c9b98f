"""From a command to a plan: which domains, which classes, which things; and every way in which they cannot fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from u2pl_da.planning import AdaptPlan, AdaptRequest

from u2pl.data.streams import Stream
from u2pl_da.app import APP
from u2pl_da.rare_class_sampling import RareClassStream
from u2pl_da.task import make_plan

Domains = dict[str, Any]
Tiny = Callable[..., list[str]]
Refused = Callable[..., str]


@pytest.fixture
def plan(tiny: Tiny) -> Callable[..., AdaptPlan]:
    """Resolve a tiny request; `train_lr=1` changes an option, `seed`, `preset` and the names of splits are the request's own."""

    def make(
        domains: Domains,
        method: str = "daformer",
        preset: str = "demo",
        splits: dict[str, str] | None = None,
        **changes: Any,
    ) -> Any:
        options = tuple(tiny(method, **changes)[1::2])
        return make_plan(
            APP,
            AdaptRequest(
                method,
                preset,
                options,
                4,
                **{k: str(v) for k, v in domains.items()},
                **(splits or {}),
            ),
        )

    return make


def test_a_plan_says_what_it_trains_and_scores_on(
    domains: Domains, plan: Callable[..., AdaptPlan]
) -> None:
    found = plan(domains)
    assert found.streams == {"source": 7, "target": 7}
    assert (found.name, found.scored.name, found.scored_split, found.scored_as) == (
        "day-to-dusk",
        "dusk",
        "val",
        domains["target"],
    )
    facts = found.facts()
    assert (facts["data"], facts["split"], facts["labeled"], facts["unlabeled"]) == (
        "day to dusk",
        "train to train",
        7,
        7,
    )
    assert facts["data_fingerprint"].split() == found.asked()["fingerprints"]
    assert found.words() == ["--source", domains["source"], "--target", domains["target"]]
    assert plan(domains, "source_only").streams == {"source": 7}
    assert plan(domains, "source_only").facts()["unlabeled"] == 0


def test_named_splits_are_taken_and_repeated(
    domains: Domains, plan: Callable[..., AdaptPlan], tmp_path: Path
) -> None:
    target = shutil.copytree(domains["target"], tmp_path / "dusk")
    (target / "splits" / "few.txt").write_text("4\n5\n")
    (target / "splits" / "test.txt").write_text("0\n")
    splits = {"source_split": "val", "target_split": "few", "score_split": "test"}
    found = plan({"source": domains["source"], "target": target}, splits=splits)
    assert found.streams == {"source": 3, "target": 2}
    assert found.scored.split(found.scored_split) == ["0"]
    assert found.words()[4:] == [
        "--source-split",
        "val",
        "--target-split",
        "few",
        "--score-split",
        "test",
    ]
    assert found.facts()["split"] == "val to few"
    assert {key: found.asked()[key] for key in splits} == splits


def test_without_a_split_every_source_image_with_a_mask_is_taken(
    broken: Domains, plan: Callable[..., AdaptPlan]
) -> None:
    no_mask(broken)
    assert plan(broken).streams == {"source": 6, "target": 7}
    (broken["source"] / "splits" / "val.txt").unlink()  # nothing need be held out of a source
    assert plan(broken).streams == {"source": 9, "target": 7}


@pytest.mark.parametrize(
    ("source", "preset"),
    [
        ("demo-source", "demo"),
        ("demo-target", "demo"),
        ("gta5:/x", "gta5-cityscapes"),
        ("synthia:/x", "synthia-cityscapes"),
        ("/x", "light"),
    ],
)
def test_the_source_chooses_the_preset(
    source: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Chosen(Exception):
        pass

    def stop(app: Any, request: Any, usual: str) -> Any:
        raise Chosen(usual)

    monkeypatch.setattr("u2pl_da.planning.Recipe.of", stop)
    with pytest.raises(Chosen, match=f"^{preset}$"):
        make_plan(APP, AdaptRequest(source=source))


def test_things_come_from_the_source_or_else_the_target_or_else_the_command(
    broken: Domains, domains: Domains, plan: Callable[..., AdaptPlan]
) -> None:
    assert plan(domains).options.feature_distance.things == (2, 3)
    (broken["source"] / "meta.toml").write_text('things = ["tree"]\n')
    assert plan(broken).options.feature_distance.things == (1,)
    assert plan(
        broken, **{"method_feature_distance.things": "[0,3]"}
    ).options.feature_distance.things == (0, 3)
    for folder in broken.values():
        (folder / "meta.toml").unlink(missing_ok=True)
    bare = plan(broken)
    assert bare.options.feature_distance.things == ()
    assert any(
        "neither domain says which of its classes are things" in note for note in bare.notes()
    )


def test_notes_tell_of_random_features_and_of_what_the_source_never_shows(
    broken: Domains, plan: Callable[..., AdaptPlan]
) -> None:
    for folder in broken.values():
        (folder / "classes.txt").write_text("road\ntree\ncar\nperson\nbus\n")
    notes = plan(broken).notes()
    assert any("holds on to an encoder of random numbers" in note for note in notes)
    assert any(note == "no mask of day holds bus: it cannot be learnt" for note in notes)
    quiet = plan(
        broken, **{"method_feature_distance.weight": 0, "method_rare_classes.enabled": "false"}
    )
    assert quiet.notes() == []


def test_the_data_set_follows_the_method_and_its_options(
    domains: Domains, plan: Callable[..., AdaptPlan]
) -> None:
    assert isinstance(plan(domains).build_dataset().source, RareClassStream)
    for found in (
        plan(domains, "source_only"),
        plan(domains, **{"method_rare_classes.enabled": "false"}),
    ):
        assert type(found.build_dataset().source) is Stream
    sample = plan(domains, "source_only").build_dataset()[0]
    assert sample.image_t.numel() == sample.label_l.numel() * 0
    whole = plan(domains, data_crop=96, data_scale="[1,1]").build_dataset()[3]
    rows = (
        whole.border_t.nonzero().flatten()
    )  # of 80, a tenth at the top and three twentieths at the bottom
    assert rows.tolist() == [*range(8), *range(68, 80)]


def test_each_domain_has_its_own_long_side(
    domains: Domains, plan: Callable[..., AdaptPlan]
) -> None:
    sample = plan(
        domains, data_long_side=48, data_target_long_side=24, data_scale="[1,1]"
    ).build_dataset()[0]
    assert (int((sample.label_l != 255).sum()), int(sample.valid_t.sum())) == (48 * 40, 24 * 20)


def test_masks_of_the_target_are_not_opened_for_training(
    broken: Domains, plan: Callable[..., AdaptPlan]
) -> None:
    (broken["target"] / "masks" / "5.png").write_bytes(b"no image")
    dataset = plan(broken).build_dataset()
    assert all((dataset[position].truth_t == 255).all() for position in range(14))


@pytest.fixture
def train(words: Callable[..., list[Any]], tmp_path: Path) -> Callable[..., list[Any]]:
    """The command of a run of two steps in tmp_path/run."""
    return lambda domains, *more, method="daformer", **changes: [
        *words(method, domains, 2, tmp_path / "run", **changes),
        *more,
    ]


def other_classes(domains: Domains) -> None:
    (domains["target"] / "classes.txt").write_text("road\ntree\nperson\ncar\n")
    (domains["target"] / "meta.toml").unlink()


def fewer_classes(domains: Domains) -> None:
    (domains["source"] / "classes.txt").write_text("road\ntree\ncar\n")


def no_mask(domains: Domains) -> None:
    (domains["source"] / "masks" / "6.png").unlink()


def bare(domains: Domains) -> None:
    for file in (domains["source"] / "masks").iterdir():
        file.unlink()


def no_val_mask(domains: Domains) -> None:
    (domains["target"] / "masks" / "1.png").unlink()


def no_val(domains: Domains) -> None:
    (domains["target"] / "splits" / "val.txt").write_text("")


def all_ignored(domains: Domains) -> None:
    for file in (domains["source"] / "masks").iterdir():
        Image.fromarray(np.full((80, 96), 255, np.uint8)).save(file)


def same(domains: Domains) -> None:
    domains["source"] = domains["target"]
    (domains["target"] / "splits" / "some.txt").write_text("0\n1\n")


NOT_FITTING: dict[str, tuple[Callable[[Domains], Any], list[str], list[str]]] = {
    "other classes": (
        other_classes,
        [],
        ["day has 4 classes and dusk 4", "class 2 is 'car' in the one and 'person' in the other"],
    ),
    "fewer classes": (
        fewer_classes,
        [],
        ["day has 3 classes and dusk 4", "the one has more", "the same classes.txt"],
    ),
    "a listed source image without mask": (
        no_mask,
        ["--source-split", "train"],
        ["images without mask: '6'"],
    ),
    "a source without any mask": (bare, [], ["no image has a mask", "the domain that is labelled"]),
    "a scored image without mask": (
        no_val_mask,
        [],
        ["dusk: images without mask: '1'", "score on another split"],
    ),
    "source masks without a label": (all_ignored, [], ["source masks hold no labelled pixel"]),
    "an empty val list": (no_val, [], ["val.txt is empty"]),
    "a scored image that is trained on": (
        same,
        ["--source-split", "some"],
        ["labelled images that are also scored on: '0', '1'"],
    ),
    "no such source split": (
        lambda _: None,
        ["--source-split", "tarin"],
        ["day has no split 'tarin': it has train, val"],
    ),
    "no such target split": (
        lambda _: None,
        ["--target-split", "tset"],
        ["dusk has no split 'tset'"],
    ),
    "no such scored split": (
        lambda _: None,
        ["--score-split", "test"],
        ["dusk has no split 'test'"],
    ),
    "a thing that is no class": (
        lambda _: None,
        ["--set", "method.feature_distance.things=[1,4]"],
        ["method.feature_distance.things names class 4, but there are 4 classes"],
    ),
    "a meta.toml with an unknown name": (
        lambda domains: (domains["target"] / "meta.toml").write_text('things = ["cars"]'),
        [],
        ["meta.toml: things names classes that classes.txt does not have: 'cars'"],
    ),
    "no such source": (
        lambda domains: domains.update(source="nowhere"),
        [],
        ["nowhere has no images/ folder"],
    ),
    "no such scheme": (
        lambda domains: domains.update(target="gat5:/x"),
        [],
        ["unknown data source 'gat5'", "synthia:PATH"],
    ),
    "an option of another method": (
        lambda _: None,
        ["--set", "method.contrast.tau=1"],
        ["method.contrast.tau: there is no such option"],
    ),
}


@pytest.mark.parametrize("case", NOT_FITTING)
def test_domains_that_do_not_fit_are_one_line_and_leave_nothing(
    case: str, refused: Refused, train: Any, broken: Domains, tmp_path: Path
) -> None:
    spoil, options, expected = NOT_FITTING[case]
    spoil(broken)
    line = refused(*train(broken, *options))
    for words in expected:
        assert words in line
    assert not (tmp_path / "run").exists()


def test_a_broken_source_mask_is_named_before_the_run(
    refused: Refused, train: Any, broken: Domains, tmp_path: Path
) -> None:
    Image.fromarray(np.full((80, 96), 4, np.uint8)).save(broken["source"] / "masks" / "5.png")
    line = refused(*train(broken))
    assert "masks/5.png holds ids 4, but there are 4 classes" in line
    assert not (tmp_path / "run").exists()


def test_the_same_folder_serves_twice_when_nothing_is_trained_on_and_scored(
    command: Callable[..., Any], train: Any, domains: Domains, tmp_path: Path
) -> None:
    """Two lists of one folder are two domains as well."""
    folder = shutil.copytree(domains["source"], tmp_path / "both")
    (folder / "splits" / "day.txt").write_text("3\n4\n5\n")
    (folder / "splits" / "dusk.txt").write_text("6\n7\n8\n9\n")
    both = {"source": folder, "target": folder}
    result = command(
        *train(
            both,
            "--source-split",
            "day",
            "--target-split",
            "dusk",
            method="source_only",
            train_evaluations=1,
        )
    )
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["source_split"], config["target_split"]) == ("day", "dusk")
