"""From a request to a task: its domains, classes and things; and every way they cannot fit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.tiny import Tiny
from u2pl.counting import silently
from u2pl.data.streams import Stream
from u2pl.errors import UserError
from u2pl.run.recipe import Recipe
from u2pl.run.task import Task
from u2pl.run.train import make_task
from u2pl.training.run_folder import differences
from u2pl_da.app import APP, AdaptRequest
from u2pl_da.rare_class_sampling import RareClassStream

Domains = dict[str, Any]
Refused = Callable[..., str]
Make = Callable[..., Any]


@pytest.fixture
def task(tiny: Tiny) -> Make:
    """The task of a tiny request; `train_lr=1` changes an option, `splits` names splits."""

    def make(
        domains: Domains,
        method: str = "daformer",
        splits: dict[str, str] | None = None,
        **changes: Any,
    ) -> Any:
        options = tiny.assignments(method, **changes)
        named = {key: str(value) for key, value in domains.items()} | (splits or {})
        request = AdaptRequest(method=method, preset="demo", set=options, steps=4, **named)
        return make_task(APP, request, silently)

    return make


def test_rasters_of_other_channels_than_the_photos_are_refused(task: Make, tmp_path: Path) -> None:
    from harness.rasters import write_raster  # skips without the extra

    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for name in "ab":
            Image.new(mode, (32, 32)).save(tmp_path / "photos" / kind / f"{name}.png")
    write_raster(tmp_path / "fields" / "images" / "a.tif", np.ones((4, 64, 64), np.uint8))
    write_raster(tmp_path / "fields" / "masks" / "a.tif", np.zeros((64, 64), np.uint8))
    for name in ("photos", "fields"):
        (tmp_path / name / "classes.txt").write_text("background\nfield\n")
    target = f"geotiff:{tmp_path / 'fields'}?bands=1,2,3,4&tile=16"
    domains = {"source": f"folder:{tmp_path / 'photos'}", "target": target}
    with pytest.raises(UserError, match=r"has 4 channels, and folder:.*photos 3: choose as many"):
        task(domains).begin()


def images(task: Task) -> dict[str, int]:
    """How many images of each part are trained on."""
    return {part.role: len(part.ids) for part in task.streams}


def typed(task: Task) -> list[str]:
    """What is typed to name the data."""
    return task.request.words("preset", "set", "steps")[1:]


def test_a_task_says_what_it_trains_and_scores_on(domains: Domains, task: Make) -> None:
    found = task(domains)
    assert images(found) == {"source": 7, "target": 7}
    assert found.name == "day-to-dusk"
    scored = found.scored
    assert (scored.source.name, scored.split, scored.text) == ("dusk", "val", domains["target"])
    assert len(scored.ids) == 3
    facts = found.facts()
    assert [facts[key] for key in ("data", "split")] == ["day to dusk", "train to train"]
    assert [facts[key] for key in ("labeled", "unlabeled")] == [7, 7]
    prints = [part.source.fingerprint() for part in found.parts]
    assert facts["data_fingerprint"].split() == prints
    assert found.config()["data_fingerprint"] == facts["data_fingerprint"]
    assert typed(found) == ["--source", domains["source"], "--target", domains["target"]]
    alone = task(domains, "source_only")
    assert images(alone) == {"source": 7}
    assert (alone.facts()["labeled"], alone.facts()["unlabeled"]) == (7, 0)


def test_named_splits_are_taken_and_repeated(domains: Domains, task: Make, tmp_path: Path) -> None:
    target = shutil.copytree(domains["target"], tmp_path / "dusk")
    (target / "splits" / "few.txt").write_text("4\n5\n")
    (target / "splits" / "test.txt").write_text("0\n")
    splits = {"source_split": "val", "target_split": "few", "score_split": "test"}
    found = task({"source": domains["source"], "target": target}, splits=splits)
    assert images(found) == {"source": 3, "target": 2}
    assert found.scored.ids == ["0"]
    expected = "--source-split val --target-split few --score-split test"
    assert typed(found)[4:] == expected.split()
    assert found.facts()["split"] == "val to few"
    assert {key: found.config()[key] for key in splits} == splits


def test_without_a_split_every_source_image_with_a_mask_is_taken(
    broken: Domains, task: Make
) -> None:
    no_mask(broken)
    assert images(task(broken)) == {"source": 6, "target": 7}
    (broken["source"] / "splits" / "val.txt").unlink()  # nothing need be held out of a source
    assert images(task(broken)) == {"source": 9, "target": 7}


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
def test_the_source_chooses_the_preset(source: str, preset: str) -> None:
    assert Recipe.of_request(APP, AdaptRequest(source=source)).preset == preset


def test_things_come_from_the_source_or_else_the_target_or_else_the_command(
    broken: Domains, domains: Domains, task: Make
) -> None:
    def things(found: Task) -> Any:
        options: Any = found.recipe.options
        return options.feature_distance.things

    assert things(task(domains)) == (2, 3)
    (broken["source"] / "meta.toml").write_text('things = ["tree"]\n')
    assert things(task(broken)) == (1,)
    assert things(task(broken, **{"method_feature_distance.things": "[0,3]"})) == (0, 3)
    for folder in broken.values():
        (folder / "meta.toml").unlink(missing_ok=True)
    bare = task(broken)
    assert things(bare) == ()
    note = "neither domain says which of its classes are things"
    assert any(note in each for each in bare.notes(None, None))


def test_notes_tell_of_random_features_and_of_what_the_source_never_shows(
    broken: Domains, task: Make
) -> None:
    for folder in broken.values():
        (folder / "classes.txt").write_text("road\ntree\ncar\nperson\nbus\n")
    notes = task(broken).notes(None, None)
    assert any("compares with an encoder of random weights" in note for note in notes)
    assert "no mask of day holds bus: it cannot be learnt" in notes
    shared = replace(task(broken), request=replace(task(broken).request, init="user/net"))
    (note,) = (each for each in shared.notes(None, None) if "feature distance" in each)
    assert note.endswith("compares with the encoder of user/net, instead of ImageNet's")
    off = {"method_feature_distance.weight": 0, "method_rare_classes.enabled": "false"}
    assert task(broken, **off).notes(None, None) == []


def test_black_and_white_masks_of_either_domain_are_refused(broken: Domains, task: Make) -> None:
    for name in ("target", "source"):
        for mask in (broken[name] / "masks").iterdir():
            white = (np.asarray(Image.open(mask)) > 1) * np.uint8(255)
            Image.fromarray(white).save(mask)
        with pytest.raises(UserError, match="hold only 0 and 255, and 255 means ignore"):
            task(broken, "source_only").check_masks()


def test_the_data_set_follows_the_method_and_its_options(domains: Domains, task: Make) -> None:
    assert isinstance(task(domains).dataset().labelled, RareClassStream)
    without = {"method_rare_classes.enabled": "false"}
    for found in (task(domains, "source_only"), task(domains, **without)):
        assert type(found.dataset().labelled) is Stream
    sample = task(domains, "source_only").dataset()[0]
    assert sample.label_l.numel() > 0 == sample.image_t.numel()
    whole = task(domains, data_crop=96, data_scale="[1,1]").dataset()[3]
    # of 80 rows, a tenth at the top and three twentieths at the bottom
    assert whole.border_t.nonzero().flatten().tolist() == [*range(8), *range(68, 80)]


def test_each_domain_has_its_own_long_side(domains: Domains, task: Make) -> None:
    sides = {"data_long_side": 48, "data_target_long_side": 24, "data_scale": "[1,1]"}
    sample = task(domains, **sides).dataset()[0]
    assert int((sample.label_l != 255).sum()) == 48 * 40
    assert int(sample.valid_t.sum()) == 24 * 20


@pytest.fixture
def masked(domains: Domains, tmp_path: Path) -> Domains:
    """A target of which every image but one has a mask."""
    dusk = shutil.copytree(domains["source"], tmp_path / "dusk")
    shutil.copy(Path(domains["target"]) / "images" / "9.png", dusk / "images" / "10.png")
    return {"source": domains["source"], "target": dusk}


def test_labelled_images_of_the_target_join_the_source(masked: Domains, task: Make) -> None:
    few = {"target_labeled": "3"}
    found, plain = task(masked, splits=few), task(masked)
    assert images(found) == {"source": 7, "target labelled": 3, "target": 5}
    labelled = found.target_labeled.ids
    assert not set(labelled) & {*found.target.ids, *found.scored.ids}
    facts = found.facts()
    assert (facts["labeled"], facts["unlabeled"], facts["data"]) == (10, 5, "day to dusk")
    assert facts["split"] == ("train to train, labelled: 3 of train, seed 0, stratified (3 images)")
    assert facts["data_fingerprint"] == plain.facts()["data_fingerprint"]
    assert "target_labeled" in differences(plain.config(), found.config())
    assert typed(found)[-2:] == ["--target-labeled", "3"]
    dataset = found.dataset()
    mixed = dataset.labelled
    drawn = [mixed.streams[which].source.name for which, _ in map(mixed.place, range(8))]
    assert drawn == ["day", "dusk"] * 4
    assert set(mixed.streams[1].ids) == set(labelled)
    assert all((dataset[position].label_l != 255).any() for position in range(8))
    alone = task(masked, "source_only", few)
    assert images(alone) == {"source": 7, "target labelled": 3}
    third = task(masked, splits=few, data_target_share=0.25)
    assert [part.share for part in third.streams] == [0.75, 0.25, 1.0]


def test_labelled_images_are_drawn_from_the_target_split(masked: Domains, task: Make) -> None:
    (masked["target"] / "splits" / "few.txt").write_text("4\n5\n6\n")
    found = task(masked, splits={"target_split": "few", "target_labeled": "1/3"})
    (labelled,) = found.target_labeled.ids
    assert {labelled, *found.target.ids} == {"4", "5", "6"}


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"target_labeled": "8"}, "--target-labeled: labeled 8: dusk has 7 masked images"),
        ({"target_labeled": "1/1"}, "no unlabelled image is left for daformer; label fewer"),
        ({"target_labeled": "val"}, "--target-labeled: labeled val: images of the val split"),
        (
            {"target_labeled": "some", "score_split": "some"},
            "--target-labeled: images that are also scored on: '3' (1)",
        ),
    ],
    ids=["too many", "all", "val", "scored"],
)
def test_labelled_images_of_the_target_that_cannot_be(
    masked: Domains, task: Make, splits: dict[str, str], said: str
) -> None:
    (masked["target"] / "splits" / "some.txt").write_text("3\n")
    (masked["target"] / "images" / "10.png").unlink()
    with pytest.raises(UserError, match=re.escape(said)):
        task(masked, splits=splits).check()


def test_masks_of_the_target_are_not_opened_for_training(broken: Domains, task: Make) -> None:
    (broken["target"] / "masks" / "5.png").write_bytes(b"no image")
    dataset = task(broken).dataset()
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
    "a source without any mask": (bare, [], ["no image has a mask", "the labelled domain"]),
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
    splits = ["--source-split", "day", "--target-split", "dusk"]
    result = command(*train(both, *splits, method="source_only", train_evaluations=1))
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["source_split"], config["target_split"]) == ("day", "dusk")
