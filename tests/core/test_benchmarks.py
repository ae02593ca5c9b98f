"""The benchmarks' stages and commands exist: what they time or run is called by name."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from harness.runs import write_run
from u2pl.methods.pixel_contrast import PixelContrast
from u2pl.run.app import App, find_app
from u2pl.run.request import Request

ROOT = Path(__file__).resolve().parents[2]

#: The methods that `step.py` measures by default, of each app.
METHODS = [
    *(("semi", name) for name in ("mean_teacher", "cutmix", "fixmatch", "unimatch")),
    *(("semi", name) for name in ("unimatch_v2", "augseg", "ael", "esl", "cps", "u2pl")),
    ("semi", "u2plplus"),
    *(("semi", f"{name} weighted") for name in ("fixmatch", "unimatch", "augseg", "ael")),
    *(("semi", f"{name} weighted") for name in ("u2pl", "u2plplus")),
    ("domain_adapt", "daformer"),
    ("domain_adapt", "u2plplus"),
    ("weak", "cam"),
    ("weak", "afa"),
    ("weak", "u2plplus"),
]


@pytest.fixture(autouse=True)
def _scripts() -> Iterator[None]:
    """The scripts import each other by name, as they do when one is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


@pytest.fixture
def step() -> ModuleType:
    """The script `step.py`."""
    return import_module("step")


def make_rival(step: ModuleType, app: str, method: str) -> Any:
    """A method as `step.py` sets it up, on images of 32 pixels."""
    defaults = step.APPS[app].defaults(cuda=False)
    small = {"batch": 2, "size": 32, "device": torch.device("cpu"), "seed": 0}
    return step.APPS[app](method, Namespace(**{**defaults, **small, "precision": "float32"}))


def test_these_are_the_methods_that_are_measured(step: ModuleType) -> None:
    measured = {app: rival.defaults(cuda=False)["methods"] for app, rival in step.APPS.items()}
    assert [(app, method) for app, methods in measured.items() for method in methods] == METHODS


@pytest.mark.parametrize(("app", "method"), METHODS)
def test_every_stage_that_is_watched_is_part_of_some_step(
    step: ModuleType, app: str, method: str
) -> None:
    rival = make_rival(step, app, method)
    seen: set[str] = set()
    for progress in rival.phases().values():
        rival.progress = progress
        seen |= rival.stages(1, torch.device("cpu"))["step"].keys()
    assert rival.inside().keys() - seen == set()


def test_steps_of_transformers_are_measured_and_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoders, semi = import_module("encoders"), import_module("step_semi")
    tables = import_module("tables")
    measured = {*encoders.CPU["networks"], *encoders.GPU["networks"]}
    assert measured == tables.TOKENS.keys() and measured <= semi.SemiRival.networks.keys()
    for name in ("vit-s", "vit-s-frozen"):
        config = semi.SemiRival.networks[name]
        assert config.freeze_encoder == ("frozen" in name)
        small = config.model_copy(update={"encoder": "test_vit", "width": 8})
        monkeypatch.setitem(semi.SemiRival.networks, name, small)
    words = "--networks vit-s vit-s-frozen --methods fixmatch --batch 2 --size 32 --repeats 1"
    file = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["encoders.py", *words.split(), "--json", str(file)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    encoders.main()
    figures = json.loads(file.read_text())
    own = [figures[f"fixmatch on {name}"] for name in ("vit-s", "vit-s-frozen")]
    assert own[1]["step_bytes"] < own[0]["step_bytes"]
    assert own[0]["images_per_second"]["median"] > 0
    assert "| fixmatch | DINOv2-S, frozen |" in "\n".join(tables.encoder_speed(file))


def test_a_stage_that_does_not_exist_is_an_error_that_names_it(
    step: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = make_rival(step, "semi", "u2pl")
    wrong = {**rival.inside(), "contrast: selection": (PixelContrast, "select")}
    monkeypatch.setattr(rival, "inside", lambda: wrong)
    with pytest.raises(
        AttributeError, match="stage 'contrast: selection': PixelContrast has no 'select'"
    ):
        rival.stages(1, torch.device("cpu"))


def test_the_commands_of_every_study_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, asked = import_module("evidence"), list[Request]()
    monkeypatch.setattr("u2pl.cli.commands.train", lambda _, request: asked.append(request))
    monkeypatch.setattr("u2pl.run.early.check_early", lambda *_: None)  # DATA is not there
    for name, study in evidence.STUDIES.items():
        program = import_module(f"{find_app(study.app).package}.app").program
        given = (None, None) if "demo" in name else ("DATA", "WEIGHTS.safetensors")
        runs = evidence.planned(name, *given)
        assert list(runs) == list(study.runs)  # each checked as far as it needs no data
        for run in {run.variant: run for run in runs.values()}.values():
            line = evidence.command(study, run)
            result = CliRunner().invoke(program, shlex.split(line)[2:])
            assert result.exit_code == 0, f"{line}: {result.output}"
            assert asked.pop() == run.request


def test_a_study_adds_to_its_variants_what_each_takes() -> None:
    evidence = import_module("evidence")
    runs = evidence.planned("voc-animals-65", "DATA", "W.safetensors")
    warm, boxes = "method.warm_start=0.5", "runs/evidence/voc-animals-65/detector/boxes.json"
    assert warm in runs["u2pl", 0].request.set and warm not in runs["cps", 0].request.set
    assert f"data.boxes={boxes}" in runs["u2pl-boxes", 2].request.set
    assert not any("boxes" in each for each in runs["u2pl-weighted", 0].request.set)
    adapt = evidence.planned("camvid-dusk", "DATA", "W.safetensors")
    assert adapt["upper_bound", 0].request.source_split == "train_dusk"
    assert adapt["daformer", 0].request.source_split == "train_day"
    assert evidence.planned("adapt-demo", None, None)["upper_bound", 0].request.source == (
        "demo-target"
    )
    assert all(run.request.cpu for run in runs.values())
    assert not any(
        run.request.cpu for run in evidence.planned("camvid-dusk-gpu", "D", "W").values()
    )


def test_a_study_writes_what_its_runs_found_and_skips_what_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evidence = import_module("evidence")
    study = evidence.Study(("--preset", "demo"), (("suponly", 0), ("u2plplus", 1)))
    monkeypatch.setitem(evidence.STUDIES, "small", study)
    monkeypatch.chdir(tmp_path)
    trained: list[str] = []

    def execute(app: App, runs: Any, jobs: int, say: Any, done: Any) -> list[Any]:
        for run, state in runs:
            assert state == "new" and jobs == 2
            write_run(run.folder, app=app.name, method=run.request.method, seed=run.request.seed)
            (run.folder / "resume.safetensors").touch()
            trained.append(run.name)
            done(run)
        return []

    monkeypatch.setattr(evidence, "execute", execute)
    given = {"study": "small", "data": None, "weights": None, "only": None, "print": False}
    assert evidence.measure(Namespace(**given, jobs=2)) == 0
    assert evidence.measure(Namespace(**given, jobs=2)) == 0
    assert trained == ["suponly-seed0", "u2plplus-seed1"]
    found = json.loads((tmp_path / "results" / "small" / "u2plplus-seed1.json").read_text())
    assert found["command"] == (
        "python apps/semi/cli.py train u2plplus --preset demo --seed 1 --out "
        "runs/evidence/small/u2plplus-seed1 --cpu"
    )
    assert found["method"] == "u2plplus" and found["curves"]["lr"] == [0.1]
    assert not list((tmp_path / "runs").rglob("resume.safetensors"))


def test_what_is_known_of_a_detector_is_kept_and_is_made_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evidence, ran = import_module("evidence"), list[str]()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evidence, "planned", lambda *_: {("suponly", 0): None})
    monkeypatch.setattr(evidence, "train", lambda *_: [])

    def run(line: list[str], quiet: bool = False) -> None:
        folder = tmp_path / evidence.run_folder("voc-animals-65") / evidence.DETECTOR
        folder.mkdir(parents=True, exist_ok=True)
        name = {"train": "summary.json", "predict": "boxes.json"}.get(
            line[2], "precision-x-train.json"
        )
        (folder / name).write_text('{"labeled": "labeled_65"}')
        ran.append(line[2])

    monkeypatch.setattr(evidence, "run", run)
    for _ in range(2):
        evidence.find_boxes("voc-animals-65", "/data/VOC", None)
    assert ran == ["train", "predict", "evaluate"]
    result = tmp_path / "results" / "voc-animals-65" / "detector.json"
    found = json.loads(result.read_text())
    assert found["labeled"] == "labeled_65" and found["train"] == {"labeled": "labeled_65"}
    assert "--data VOC" in found["commands"][0]
    result.unlink()  # stopped before it was written: the boxes stay
    evidence.find_boxes("voc-animals-65", "/data/VOC", None)
    assert ran[3:] == ["evaluate"] and result.exists()


def test_what_suggested_labels_are_worth_is_paired_by_seed() -> None:
    scores = {"first": (40.0, 42.0), "suggested": (60.0, 61.0), "random": (50.0, 53.0)}
    results = {
        variant: {seed: {"networks": {"student": {"miou": own[seed]}}} for seed in (0, 1)}
        for variant, own in scores.items()
    }
    for run in (run for own in results.values() for run in own.values()):
        run["networks"]["ema"] = {"miou": 7.0}
    lines = import_module("suggestions").table(results)
    assert lines[3] == "| suggested | student | 60.00 | 61.00 | 60.50 ± 0.71 | +9.00 ± 1.41 |"
    assert lines[5] == "| first | average | 7.00 | 7.00 | 7.00 ± 0.00 | +0.00 ± 0.00 |"


def test_suggestions_are_compared_with_as_many_random_labels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suggestions, trained = import_module("suggestions"), list[str]()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suggestions.evidence, "ROOT", tmp_path)
    monkeypatch.setattr(suggestions, "SEEDS", (0, 1))

    def suggest(line: list[str], quiet: bool = False) -> None:
        assert line[:3] == ["apps/semi/cli.py", "suggest", line[2]] and "--with-labeled" in line
        ids = ["known", *(f"{number:05d}" for number in range(suggestions.COUNT))]
        Path(line[line.index("--out") + 1]).write_text("".join(f"{id}\n" for id in ids))

    def train(study: Any, runs: list[Any], jobs: int, done: Any) -> list[Any]:
        (run,) = runs
        variant = run.name.partition("-")[0]
        score = {"first": 0.4, "suggested": 0.6, "random": 0.5}[variant] + 0.01 * run.request.seed
        write_run(run.folder, app="u2pl-semi", method="suponly", student=score)
        trained.append(run.name)
        return []

    monkeypatch.setattr(suggestions.evidence, "run", suggest)
    monkeypatch.setattr(suggestions.evidence, "train", train)

    class Pool:
        def split(self, name: str) -> list[str]:
            assert name == suggestions.POOL
            return ["known", *(f"{number:05d}" for number in range(100))]

    monkeypatch.setattr(suggestions, "open_source", lambda _: Pool())
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["suggestions.py", "--data", "DATA"])
        assert suggestions.main() == 0
    variants = ("first", "suggested", "random")
    assert trained == [f"{name}-seed{seed}" for seed in (0, 1) for name in variants]
    folder = tmp_path / "runs" / "evidence" / suggestions.NAME
    names = ("suggested-0", "random-0", "random-1")
    lists = {name: (folder / f"{name}.txt").read_text().split() for name in names}
    assert all(ids[0] == "known" and len(set(ids)) == 21 for ids in lists.values())
    assert lists["random-0"] != lists["random-1"]
    shown = capsys.readouterr().out
    row, again = [line for line in shown.splitlines() if line.startswith("| random | student")]
    folder = tmp_path / "results" / suggestions.NAME
    assert row == again and row in import_module("tables").suggestion_tables(folder)[2]
    found = json.loads((folder / "random-1.json").read_text())
    assert found["ids"] == lists["random-1"] and "--labeled" in found["command"]
