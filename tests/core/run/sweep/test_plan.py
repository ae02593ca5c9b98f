from __future__ import annotations

from pathlib import Path

import pytest

from core.toy.app import APP, ToyRequest
from u2pl.errors import UserError
from u2pl.run.sweep.plan import Planned, Sweep, check_beginnings, parse_seeds, plan, read_sweep


def sweep_of(folder: Path, text: str) -> Sweep:
    path = folder / "study.toml"
    path.write_text(text)
    return read_sweep(path, APP)


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ("0-2", (0, 1, 2)),
        ("5", (5,)),
        (3, (3,)),
        ("0, 3,5-6", (0, 3, 5, 6)),
        ([2, 2, "4-5"], (2, 4, 5)),
    ],
)
def test_seeds_are_ranges_and_lists(given: object, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(given) == seeds


@pytest.mark.parametrize(
    "given", ["", "a", "-1", "2-0", "0-99999", "9999999999", [], [1.5], [True], "1..3", -1]
)
def test_what_is_no_seed_is_refused(given: object) -> None:
    with pytest.raises(UserError, match="--seeds: "):
        parse_seeds(given)


def test_a_file_becomes_a_run_for_each_variant_and_seed(tmp_path: Path) -> None:
    sweep = sweep_of(
        tmp_path,
        """
        methods = ["plain", "other"]
        seeds = [0, 4]
        preset = "light"
        most_images = 4
        cpu = true
        set = ["train.lr=0.1", "method.strength=0.7"]

        [[variant]]
        name = "weak"
        method = "other"
        steps = 9
        set = ["method.strength=0"]
        """,
    )
    runs = plan(APP, sweep)
    out = Path("runs") / "study"
    assert [run.folder for run in runs] == [
        out / f"{name}-seed{seed}" for seed in (0, 4) for name in ("plain", "other", "weak")
    ]
    common = {"preset": "light", "most_images": 4, "cpu": True, "seed": 4}
    assert [run.request for run in runs[3:]] == [
        # the option of the other method does not reach this one
        ToyRequest(method="plain", set=["train.lr=0.1"], out=runs[3].folder, **common),
        ToyRequest(
            method="other",
            set=["train.lr=0.1", "method.strength=0.7"],
            out=runs[4].folder,
            **common,
        ),
        ToyRequest(
            method="other",
            steps=9,
            set=["train.lr=0.1", "method.strength=0.7", "method.strength=0"],
            out=runs[5].folder,
            **common,
        ),
    ]
    assert runs[0].command(APP) == (
        "u2pl-toy train plain --preset light --most-images 4 --set train.lr=0.1 --out "
        "runs/study/plain-seed0 --cpu"
    )
    assert "--resume" in runs[0].command(APP, resume=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("methods = ", "study.toml cannot be read as a sweep"),
        ("method = ['plain']", r"there is no 'method' \(did you mean methods\?\)"),
        ("methods = 'plain'", r'write methods as \["suponly", "u2plplus"\], not .plain.'),
        ("set = 'train.lr=1'", r'write set as \["train.lr=1e-3"\], not .train.lr=1.'),
        ("seeds = '0..2'", "seeds: write seeds as 0-2"),
        ("out = 3", "out is a folder in quotes, not 3"),
        ('out = "~nobody-of-this-name/a"', "there is no such user on this machine"),
        ("variant = 'a'", r"write each variant under a line \[\[variant\]\]"),
        ("[[variant]]\nname = 'a'", "variant 1: it needs a line such as method ="),
        ("[[variant]]\nmethod = 'plain'\nsed = 1", "variant 1: there is no 'sed'"),
        ("[[variant]]\nmethod = 'plain'\nname = 'a/b'", "variant 1: the name 'a/b' is that of a"),
        ("[[variant]]\nmethod = 'plain'\nset = [1]", "variant 1: write set as"),
        ("[[variant]]\nmethod = 'plain'\nname = 'a\\u001bb'".replace("'", '"'), "is that of a"),
        ("x = " + "[" * 99_999, "cannot be read as a sweep .it is nested too deep"),
        ("methods = ['plain']\n[[variant]]\nmethod = 'plain'", "another variant 'plain'"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(UserError, match=says) as refused:
        sweep_of(tmp_path, text)
    assert "study.toml" in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.toml cannot be read as a sweep \(No such file"):
        read_sweep(tmp_path / "none.toml", APP)


@pytest.mark.parametrize(
    ("common", "own", "says"),
    [
        ({}, {"method": "plian"}, "no method 'plian'"),
        ({"preset": "lite"}, {"method": "plain"}, "did you mean light"),
        ({"set": ["train.ler=1"]}, {"method": "plain"}, "did you mean train.lr"),
        ({"set": ["method.strength=1"]}, {"method": "plain"}, "method.strength: there is no such"),
        ({}, {"method": "plain", "set": ["train.batch=0"]}, "variant mine: train.batch: "),
        ({"steps": 0}, {"method": "plain"}, "steps: 0 is below"),
        ({"most_images": "few"}, {"method": "plain"}, "most_images: "),
    ],
)
def test_options_that_do_not_work_are_refused_before_anything_starts(
    common: dict[str, object], own: dict[str, object], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        plan(APP, Sweep(common, {"mine": own}, out=Path("a")))


def test_nothing_to_train_and_nowhere_to_put_it_are_refused() -> None:
    with pytest.raises(UserError, match="nothing to train: name methods"):
        plan(APP, Sweep(out=Path("a")))
    with pytest.raises(UserError, match="name a folder for the runs with --out"):
        plan(APP, Sweep(variants={"plain": {"method": "plain"}}))


@pytest.mark.parametrize(
    "text",
    [
        "methods = ['plain']\n[[variant]]\nname = 'again'\nmethod = 'plain'",
        "[[variant]]\nmethod = 'plain'\nset = ['train.lr=0.1']\n"
        "[[variant]]\nname = 'again'\nmethod = 'plain'\nset = ['train.lr=1e-1']",
        "steps = 5\n[[variant]]\nmethod = 'plain'\n"
        "[[variant]]\nname = 'again'\nmethod = 'plain'\nset = ['train.steps=5']",
    ],
)
def test_two_variants_that_train_the_same_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="plain and again are the same run: leave one of them out"):
        plan(APP, sweep_of(tmp_path, text))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": "nowhere"}, "plain: nowhere"),
        ({"init": "nowhere"}, "plain: no trained network at nowhere"),
        ({"track": ["tensorbord"]}, "plain: --track tensorbord: no such tracker"),
    ],
)
def test_what_no_run_could_begin_with_is_refused_before_the_first(
    options: dict[str, object], says: str, tmp_path: Path
) -> None:
    request = ToyRequest.of(method="plain", out=tmp_path / "a", **options)
    with pytest.raises(UserError, match=says):
        check_beginnings(APP, [Planned("plain", request)])
    check_beginnings(APP, [Planned("plain", ToyRequest(method="plain", out=tmp_path / "a"))])
