from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.toy.app import APP, ToyRequest
from u2pl.errors import UserError
from u2pl.evaluate.confusion import Score
from u2pl.run.app import APPS, App, find_app
from u2pl.run.baseline import RECORDED, Baseline, baseline_request, find_baseline
from u2pl.run.run import Run
from u2pl.run.train import train
from u2pl.training.run_folder import read_config

SMALL = {"method": "plain", "preset": "light", "most_images": 4, "cpu": True, "steps": 1}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the baseline."""
    out = tmp_path_factory.mktemp("runs") / "base"
    return train(APP, ToyRequest.of(out=out, **SMALL))


def other(out: Path | None = None, **changes: object) -> ToyRequest:
    """A request for another method with the same data and budget."""
    return ToyRequest.of(**SMALL | {"method": "other", "baseline": True, "out": out} | changes)


def recorded(app: App, tmp_path: Path, run: Run, **changes: object) -> App:
    """The app, with a recorded baseline that is the run but for some changes."""
    config = json.loads((run.folder / "config.json").read_text())
    options = {key: value for key, value in config["options"].items() if key != "method"}
    entry = {
        "method": "plain", "options": options, "networks": run.summary["networks"],
        "device": "a processor", "commit": "c0ffee",
        **{key: config[key] for key in ("data_fingerprint", "split", "seed", "steps")},
    }  # fmt: skip
    (tmp_path / RECORDED).write_text(json.dumps([entry | changes]))
    return replace(app, folder=tmp_path)


def method_folder(plain: Run, tmp_path: Path) -> Path:
    """A run of another method with the baseline's config, alone in its folder."""
    folder = tmp_path / "alone" / "run"
    folder.mkdir(parents=True)
    config = json.loads((plain.folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"method_name": "other"}))
    return folder


def test_a_baseline_that_is_there_is_not_trained_again(plain: Run) -> None:
    assert baseline_request(APP, other(plain.folder.parent / "mine")) is None


def test_networks_are_compared_with_those_of_their_role() -> None:
    """Each role by itself, and with the better network of the baseline."""

    def score(miou: float) -> Score:
        return Score([miou], miou, miou)

    found = Baseline("here", "plain", "ema", {"student": score(50), "ema": score(60)})
    assert (found.miou, found.per_class_iou) == (60, [60])
    ours = {"student": score(48), "teacher": score(67)}
    assert found.like_with_like(ours) == {"student": -2, "teacher": 7}
    assert found.like_with_like({"one": score(55)}) == {"one": 5}
    assert found.like_with_like_words({}) == ""


def test_damaged_neighbours_are_no_fault_of_a_run(plain: Run, tmp_path: Path) -> None:
    folder = method_folder(plain, tmp_path)
    for number, (file, text) in enumerate(
        [
            ("config.json", "[" * 100_000),
            ("config.json", '{"options": []}'),
            ("summary.json", "{"),
            ("summary.json", '{"networks": {"student": {"odd": 1}}}'),
        ]
    ):
        beside = Path(shutil.copytree(plain.folder, folder.parent / f"damaged-{number}"))
        (beside / file).write_text(text)
    assert find_baseline(APP, folder) is None
    shutil.copytree(plain.folder, folder.parent / "whole")
    found = find_baseline(APP, folder)
    assert found is not None and found.where == "whole"
    for name in ("whole", "damaged-2", "damaged-3"):
        shutil.rmtree(folder.parent / name)
    asked = baseline_request(APP, other(folder))
    assert asked is not None and not asked.resume


def test_a_baseline_whose_summary_is_damaged_is_said(plain: Run, tmp_path: Path) -> None:
    base = Path(shutil.copytree(plain.folder, tmp_path / "base"))
    (base / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"base.summary\.json cannot be read.*--resume .*base"):
        baseline_request(APP, other(tmp_path / "mine"))


def test_a_new_baseline_has_the_same_data_and_budget(plain: Run, tmp_path: Path) -> None:
    asked = baseline_request(APP, other(tmp_path / "mine", seed=3))
    assert asked is not None
    assert (asked.method, asked.seed, asked.steps, asked.baseline) == ("plain", 3, 1, False)
    assert asked.out == tmp_path / "demo-plain-1" and not asked.resume


def test_an_unfinished_baseline_is_resumed(plain: Run, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_bytes((plain.folder / "config.json").read_bytes())
    asked = baseline_request(APP, other(tmp_path / "mine"))
    assert asked is not None and asked.out == tmp_path / "begun" and asked.resume


def test_options_of_the_method_alone_are_left_out(tmp_path: Path) -> None:
    words = ["method.strength=0.25", "train.lr=0.5", "method.warm_start=0.5"]
    asked = baseline_request(APP, other(tmp_path / "mine", set=words))
    assert asked is not None
    assert asked.set == ["train.lr=0.5", "method.warm_start=0.5"]


def test_a_finished_run_gets_its_baseline_by_its_folder(tmp_path: Path) -> None:
    """With the options that it was trained with, whatever they were typed like."""
    asked = other(tmp_path / "mine", baseline=False, method="plain", set=["train.lr=0.5"])
    mine = train(APP, asked).folder
    config = read_config(mine)
    config["options"]["method"] = {"strength": 0.25}  # as if the other method had been trained
    (mine / "config.json").write_text(json.dumps(config | {"method_name": "other"}))
    resumed = ToyRequest.of(method=str(mine), resume=True, baseline=True)
    assert find_baseline(APP, mine) is None
    assert train(APP, resumed).folder == mine
    found = find_baseline(APP, mine)
    assert found is not None and found.where == "demo-plain-1"
    options = read_config(tmp_path / "demo-plain-1")["options"]
    assert options["train"]["lr"] == 0.5 and "strength" not in options["method"]
    assert ">over plain<" in (mine / "report.html").read_text()
    assert train(APP, resumed).folder == mine  # which trains nothing
    assert not (tmp_path / "demo-plain-2").exists()


def test_the_baseline_has_no_baseline(plain: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="plain is the baseline itself"):
        baseline_request(APP, other(tmp_path / "mine", method="plain"))
    assert find_baseline(APP, plain.folder) is None


def test_a_recorded_baseline_serves_where_none_was_trained(plain: Run, tmp_path: Path) -> None:
    folder = method_folder(plain, tmp_path)
    assert find_baseline(APP, folder) is None
    found = find_baseline(recorded(APP, tmp_path, plain), folder)
    assert found is not None
    assert found.where == "recorded on a processor" and found.method == "plain"
    assert found.miou == max(score.miou for score in plain.scores.values())


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"steps": 2}, {"data_fingerprint": "0"}, {"options": {"train": {"lr": 9}}}],
)
def test_what_was_recorded_of_something_else_does_not(
    plain: Run, tmp_path: Path, change: dict[str, object]
) -> None:
    app = recorded(APP, tmp_path, plain, **change)
    assert find_baseline(app, method_folder(plain, tmp_path)) is None


def test_nothing_is_recorded_of_runs_that_began_with_a_network(plain: Run, tmp_path: Path) -> None:
    folder, app = method_folder(plain, tmp_path), recorded(APP, tmp_path, plain)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"init": "user/name"}))
    assert find_baseline(app, folder) is None


def test_options_that_are_newer_than_the_record_are_passed_over(plain: Run, tmp_path: Path) -> None:
    config = json.loads((plain.folder / "config.json").read_text())
    kept = {"train": {"lr": config["options"]["train"]["lr"]}}
    app = recorded(APP, tmp_path, plain, options=kept)
    assert find_baseline(app, method_folder(plain, tmp_path)) is not None


def test_what_the_apps_recorded_is_what_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import recorded as script

    sys.modules.pop("recorded")
    for name in APPS:
        app = find_app(name)
        assert (app.folder / RECORDED).read_text(encoding="utf-8") == script.recorded(name)
        assert json.loads(script.recorded(name))
