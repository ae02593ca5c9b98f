"""What the pages name exists; docs/extending.md's examples run."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import u2pl.data.sources
import u2pl.methods.supervised_loss
import u2pl.networks.decoders
import u2pl.networks.encoders
import u2pl_semi.methods
from harness.pages import FENCE, PAGES, ROOT, blocks, label
from u2pl.data.opening import open_source
from u2pl.errors import UserError
from u2pl.methods.discovery import load_method, method_names
from u2pl.methods.method import Method
from u2pl.networks.encoder import family_of
from u2pl.networks.registry import decoder_file, decoder_names
from u2pl.run.app import APPS, App, find_app
from u2pl.run.presets import recipe_path
from u2pl.run.recipe import resolve
from u2pl.run.run import Run
from u2pl.run.sections import flat_keys
from u2pl.run.train import train
from u2pl_semi.app import APP, SemiRequest

EXTENDING = ROOT / "docs" / "extending.md"

LINK = re.compile(r"\[([^][]*)\]\(([^)\s]+)\)")
#: A path from the repository's root.
PATH = re.compile(r"(?<![\w./-])(?:apps|packages|docs|benchmarks|tests|\.ci)/[\w./-]*\w")
CODE = re.compile(r"(?:packages/core|apps/\w+)/(u2pl\w*(?:/\w+)*)\.py$")
METHOD = re.compile(r"`([A-Z]\w*)\.(?!md`|png`|xml`)([a-z_]\w*)`")
SECTIONS = r"(?:network|data|train|evaluate|method)"
OPTION = re.compile(rf"`(?:--set )?({SECTIONS}(?:\.\w+)+)[^`]*`")
ASSIGNMENT = re.compile(rf"--set '?({SECTIONS}[.\w]+=[^\s`']+)")


@pytest.fixture(params=PAGES, ids=label)
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Text, file and heading of each link that stays in the repository."""
    for text, target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" not in target:
            file, _, heading = target.partition("#")
            yield text, (page.parent / file).resolve() if file else page, heading


def headings(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_to_files_and_headings(page: Path) -> None:
    wrong = [str(file) for _, file, _ in links(page) if not file.exists()]
    wrong += [
        f"{file}#{heading}"
        for _, file, heading in links(page)
        if heading and file.suffix == ".md" and file.exists() and heading not in headings(file)
    ]
    assert not wrong


def test_paths_exist(page: Path) -> None:
    made = {first for first, _ in examples()} if page == EXTENDING else set()
    named = set(PATH.findall(page.read_text(encoding="utf-8")))
    assert not [path for path in named - made if not (ROOT / path).exists()]


def module_of(file: Path) -> ModuleType:
    match = CODE.search(file.as_posix())
    assert match is not None, file
    return import_module(match[1].replace("/", "."))


def test_links_to_code_name_what_it_defines(page: Path) -> None:
    wrong = []
    for text, file, _ in links(page):
        names = re.findall(r"`([^`]+)`", text) if CODE.search(file.as_posix()) else []
        wrong += [
            f"{name} in {file}"
            for name in names
            if not file.as_posix().endswith(name) and not defines(module_of(file), name)
        ]
    assert not wrong


def defines(module: ModuleType, name: str) -> bool:
    """Whether a module itself defines `name`; of `Class.method`, the class."""
    first, _, rest = name.partition(".")
    found = getattr(module, first, None)
    return getattr(found, "__module__", module.__name__) == module.__name__ and (
        hasattr(found, rest) if rest else hasattr(module, first)
    )


@cache
def linked_modules() -> tuple[ModuleType, ...]:
    """The modules that some page links to."""
    files = {file for page in PAGES for _, file, _ in links(page)}
    return tuple(module_of(file) for file in files if CODE.search(file.as_posix()))


def test_methods_named_without_a_link_exist(page: Path) -> None:
    named = METHOD.findall(LINK.sub("", page.read_text(encoding="utf-8")))
    wrong = [
        f"{kind}.{name}"
        for kind, name in named
        if not any(hasattr(getattr(module, kind, None), name) for module in linked_modules())
    ]
    assert not wrong


Kind = tuple[App, type[Method[Any]]]


@cache
def kinds() -> tuple[Kind, ...]:
    """Every app's methods."""
    apps = [find_app(name) for name in APPS]
    return tuple((app, kind_of(app, name)) for app in apps for name in method_names(app.methods))


def kind_of(app: App, name: str) -> type[Method[Any]]:
    return load_method(f"{app.package}.methods", app.methods, name)


def unknown_options(page: Path, kinds: Iterable[Kind]) -> set[str]:
    """Options, and groups of options, that a page names and no method has."""
    known: set[str] = set()
    for app, kind in kinds:
        keys = [*flat_keys(app.sections), *flat_keys(kind.Config, "method.")]
        for key, _ in keys:
            known |= {key, *(key[:end] for end, sign in enumerate(key) if sign == ".")}
    named = set(OPTION.findall(page.read_text(encoding="utf-8")))
    return {name for name in named - known if not name.endswith((".txt", ".md", ".py", ".yaml"))}


def refused(page: Path, kinds: Iterable[Kind]) -> list[str]:
    """The `--set` assignments of a page that no method takes."""
    given = set(ASSIGNMENT.findall(page.read_text(encoding="utf-8")))
    return [text for text in given if not any(accepts(*kind, text) for kind in kinds)]


def accepts(app: App, kind: type[Method[Any]], assignment: str) -> bool:
    recipe, sections = recipe_path(app.recipes, "light"), app.sections
    try:
        resolve(recipe, kind.Config, [assignment], sections=sections)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("page", [page for page in PAGES if page != EXTENDING], ids=label)
def test_options_exist_and_take_their_values(page: Path) -> None:
    assert not unknown_options(page, kinds())
    assert not refused(page, kinds())


def test_python_can_be_parsed(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tables", "hardware"])
def test_generated_pages_are_those_of_the_results(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"))
    assert found["PAGE"].read_text() == found["page"](), f"run benchmarks/{name}.py"


def rows(page: Path, head: str) -> list[list[str]]:
    """The cells of the table under a head."""
    text = page.read_text(encoding="utf-8")
    body = text.split(f"| {head} ", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


ENCODERS = ROOT / "docs" / "encoders.md"


@pytest.mark.parametrize("row", rows(ENCODERS, "family"), ids=lambda row: str(row[0]))
def test_encoders_of_the_table_run_at_their_strides(row: list[str]) -> None:
    _, names, strides = row
    smallest, *others = re.findall(r"`(\w+)`", names)
    one_stride = strides.startswith("no effect: ")
    numbers = [int(number) for number in re.findall(r"\d+", strides)]
    for stride in (8, 16, 32):
        if stride not in numbers and not one_stride:
            with pytest.raises(UserError, match=f"output_stride={stride}"):
                family_of(smallest).build(smallest, stride)
            continue
        encoder = family_of(smallest).build(smallest, stride).eval()
        expected = numbers * 4 if one_stride else [min(each, stride) for each in (4, 8, 16, 32)]
        side = 2 * encoder.divisor
        with torch.inference_mode():
            maps = encoder(torch.zeros(1, 3, side, side))
        assert [each.shape[-1] for each in maps] == [-(-side // each) for each in expected]
    assert all(family_of(name) is family_of(smallest) for name in others)


def test_decoders_of_the_table_take_what_it_says() -> None:
    found = rows(ENCODERS, "`network.decoder` | `network.output_stride`,")
    table = {
        name: (strides, tokens)
        for names, strides, tokens in found
        for name in re.findall(r"`(\w+)`", names)
    }
    facts = {name: decoder_file(name).FACTS for name in decoder_names()}
    assert table == {
        name: (", ".join(map(str, own.strides)), "yes" if own.any_stride else "no")
        for name, own in facts.items()
    }


def test_encoders_that_are_said_to_be_refused_are() -> None:
    text = ENCODERS.read_text().split("What takes images of one size only", 1)[1]
    names = re.findall(r"`([a-z]+_\w+)`", text.partition("is refused")[0])
    assert len(names) == 3
    for name in names:
        with pytest.raises(UserError, match="no feature maps"):
            family_of(name).build(name, 32)


# -- the examples ----------------------------------------------------------------------------------

TINY = {
    "network.encoder_weights": "none",
    "network.width": "16",
    "data.crop": "32",
    "data.workers": "0",
    "data.allow_absent_classes": "true",
    "train.batch": "2",
    "train.evaluations": "1",
}


def examples() -> list[tuple[str, str]]:
    """Each example: where it belongs, and its code."""
    pairs = [block.split("\n", 1) for block in blocks(EXTENDING, "python")]
    return [(first.removeprefix("# "), code) for first, code in pairs]


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """The semi-supervised app with all examples in place."""
    folders = {
        "methods": u2pl_semi.methods,
        "sources": u2pl.data.sources,
        "encoders": u2pl.networks.encoders,
        "decoders": u2pl.networks.decoders,
    }
    table = u2pl.methods.supervised_loss
    for name, package in folders.items():
        (tmp_path / name).mkdir()
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
    (tmp_path / "recipes").symlink_to(APP.recipes)
    for first, code in examples():
        path = Path(first)
        if ROOT / path == Path(str(table.__file__)):
            found = dict(vars(table))
            exec(code, found)
            losses: Any = table.SUPERVISED
            for name in found["SUPERVISED"].keys() - losses.keys():
                monkeypatch.setitem(losses, name, found["SUPERVISED"][name])
        else:
            (tmp_path / path.parent.name / path.name).write_text(code, encoding="utf-8")
    return replace(APP, folder=tmp_path)


def two_steps(app: App, method: str, data: str, out: Path, options: dict[str, str]) -> Run:
    words = [f"{key}={value}" for key, value in (TINY | options).items()]
    request = SemiRequest(method=method, data=data, steps=2, set=words, out=out, cpu=True)
    return train(app, request)


def paint(path: Path, mask: np.ndarray) -> None:
    """An image in which each id has a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.stack([20 * mask, 255 - 20 * mask, 40 + 100 * (mask % 2)], axis=-1)
    Image.fromarray(colour.astype(np.uint8)).save(path)


def blocks_of(ids: int, seed: int) -> np.ndarray:
    """A mask of 40 x 36 pixels."""
    cells = np.random.default_rng(seed).integers(ids, size=(3, 3))
    return np.kron(cells, np.ones((16, 16), np.int64))[:36, :40]


def save_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8)).save(path)


def test_the_method_trains_and_its_options_are_known(extended: App, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(8):
        mask = blocks_of(3, number)
        paint(photos / "images" / f"{number}.png", mask)
        if number < 5:
            save_mask(photos / "masks" / f"{number}.png", mask)
    (photos / "classes.txt").write_text("one\ntwo\nthree\n")

    light = {
        "network.decoder": "deeplabv3plus_light",
        "network.encoder": "test_resnet",
        "network.output_stride": "16",
    }
    run = two_steps(extended, "own_labels", str(photos), tmp_path / "run", light)

    kind = (extended, kind_of(extended, "own_labels"))
    assert not unknown_options(EXTENDING, [*kinds(), kind])
    assert not refused(EXTENDING, [*kinds(), kind])
    assert "Confident" in method_names(extended.methods)["own_labels"]
    assert run.summary["network"] == "ema"
    assert run.scores.keys() == {"ema", "student"}
    assert run.summary["options"]["method"]["threshold"] == 0.95
    assert "loss/unsup" in (tmp_path / "run" / "journal.jsonl").read_text()


@pytest.mark.usefixtures("extended")
def test_source_encoder_decoder_and_loss_train_together(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "train", "train", "val", "test")):
        mask = blocks_of(12, number)
        paint(tmp_path / "camvid" / split / f"{number}.png", mask)
        save_mask(tmp_path / "camvid" / f"{split}annot" / f"{number}.png", mask)
    data = f"camvid:{tmp_path / 'camvid'}"
    source = open_source(data)
    assert source.split("val") == ["val/3"]
    assert set(np.unique(source.mask("val/3"))) <= {*range(11), 255}

    own = {
        "network.decoder": "fpn",
        "network.encoder": "regnet_y_400mf",
        "network.output_stride": "32",
        "method.supervised.loss": "dice",
    }
    run = two_steps(APP, "suponly", data, tmp_path / "run", own)

    assert run.summary["data"] == "camvid"
    assert run.model.network.encoder.channels == (48, 104, 208, 440)
    assert run.model.predict(tmp_path / "camvid" / "test" / "4.png").ids.shape == (36, 40)
