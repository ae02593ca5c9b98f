"""Every command and every Python block of the pages is run, on tiny data and for two steps.

What is changed in a command, and nothing else:

- `uv run` and `accelerate launch` are left out: programs run in this process. The launcher's own
  parser reads its options.
- `train`, `sweep`, `doctor` and `detector train` are given a small network in front of what the
  page says, which therefore wins, and small crops, `--steps 2` and `--cpu` behind it. Their reports
  are not drawn.
- A sweep that no other command needs is planned (`--dry-run`).
- PATH of a known dataset is a folder of photos.

What cannot be run here is in `NOT_RUN`, with the reason; its options are checked all the same.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import timm
import typer
from accelerate.commands.launch import launch_command_parser
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import u2pl
from harness import small_mit
from harness.labelled import blocks as blocks_of_shapes
from harness.pages import (
    FENCE,
    PAGES,
    PROGRAMS,
    ROOT,
    Command,
    blocks,
    commands,
    commands_in_text,
    label,
    scripts,
)
from harness.tiny import QUEUES, Options, Tiny
from u2pl.api import train as train_in_full
from u2pl.data.opening import schemes
from u2pl.methods.discovery import method_names
from u2pl.networks.encoders import mit
from u2pl.run.app import find_app
from u2pl.run.summary import PICTURES

#: Beginnings of commands that are not run, and why.
NOT_RUN = {
    "pip install": "needs a package index",
    "uv pip install": "needs a package index",
    "uv sync": "needs a package index",
    "uv venv": "makes an environment",
    "uv run pytest": "would run itself",
    "U2PL_TEST_WEIGHTS=FOLDER uv run pytest": "needs released files",
    ".ci/check": "would run itself",
    "uv run --group docs mkdocs serve": "goes on for ever; `.ci/check` builds the site",
    "uv run hf auth login": "needs an account",
    "uv run u2pl-semi push": "needs an account; tests/core/model/test_publish.py has a hub",
    "uv run u2pl-semi train --track": "needs a tracker; tests/core/run/test_tracking.py has one",
    "uv run u2pl-semi train unimatch_v2 --preset foundation --data photos "
    "--set network.encoder_weights": "needs a released file; "
    "tests/core/networks/encoders/test_vit.py makes one",
    "uv run u2pl-semi train unimatch_v2 --preset foundation --data photos "
    "--set network.encoder=vit_base": "takes gigabytes",
    "uv run u2pl-da import": "needs a released file; tests/core/model/test_released.py makes some",
    "uv run u2pl-semi export runs/photos-u2plplus-1 --to shared --onnx": "takes ten seconds; "
    "tests/core/model/test_onnx_file.py does it once",
    "uv run u2pl-semi doctor --data geotiff": "needs the extra geo; tests/semi/test_geotiff.py "
    "has rasters",
    "uv run u2pl-semi train --data geotiff": "needs the extra geo, as above",
    "uv run u2pl-semi predict runs/fields-u2plplus-1": "needs the extra geo, as above",
    "uv run accelerate launch --multi_gpu --num_machines": "needs several machines",
    "uv run --no-sync accelerate launch --multi_gpu --num_machines": "needs several machines",
    "uv run u2pl-semi train --data photos --labeled more.txt": "needs masks drawn by somebody",
    "sbatch": "needs Slurm; the scripts are run without it",
}
#: Pages whose Python is run elsewhere.
PYTHON_ELSEWHERE = {
    "docs/extending.md": "tests/test_docs.py",
    "docs/python.md": "tests/test_python_page.py",
}

NETWORK: Options = {
    "network.encoder": "test_resnet",
    "network.encoder_weights": "none",
    "network.multi_grid": [1, 1, 1],
    "network.width": 16,
    "network.embed_dim": 8,
    **QUEUES,
}
#: What a page does not decide.
BUDGET: Options = {
    "data.crop": 32,
    "data.workers": 0,
    "train.batch": 2,
    "train.evaluations": 1,
}
OPTIONS: dict[str, Options] = {
    "u2pl-semi": {
        **NETWORK,
        "network.decoder": "deeplabv3plus_light",
        "network.output_stride": 16,
        "data.allow_absent_classes": "true",
    },
    "u2pl-da": {**NETWORK, "network.decoder": "daformer", "network.output_stride": 32},
    "u2pl-ws": {**NETWORK, "network.decoder": "segformer", "network.output_stride": 16},
}
#: AFA's affinity needs the attention of a Mix Transformer.
SECTIONS: dict[str, Options] = {"affinity": {"network.encoder": small_mit.NAME}}

#: What the pages have trained before their first command.
BEFORE = (
    "u2pl-semi train u2plplus --data photos --out runs/photos-u2plplus-1",
    "u2pl-da train source_only --source renders --target street --out runs/renders-source_only-1",
    "u2pl-ws train u2plplus --data photos --out runs/demo-tags-u2plplus-1",
    "u2pl-semi sweep --methods suponly,u2plplus --seeds 0-1 --data photos --out runs/first",
    "u2pl-semi export runs/photos-u2plplus-1 --to user/photos",
)
#: More names of these runs.
ALIASES = {
    "demo-u2plplus-1": "photos-u2plplus-1",
    "voc-u2pl-1": "photos-u2plplus-1",
    "two-seeds": "first",
}
CLASSES = ("background", "car", "person")


def paint(root: Path, images: int, masked: int) -> None:
    """A data folder of photos of blocks, the first two val, the next two test; all have tags."""
    rng, lines = np.random.default_rng(images), ["image,classes"]
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True)
    for number in range(images):
        ids = rng.integers(len(CLASSES), size=(2, 2))
        ids[0] = 0, 1 + number % 2
        mask = np.kron(ids, np.ones((20, 22), np.int64)).astype(np.uint8)
        colour = 60 + 60 * mask[..., None] + rng.integers(30, size=(*mask.shape, 3))
        Image.fromarray(colour.astype(np.uint8)).save(root / "images" / f"{number}.png")
        if number < masked:
            Image.fromarray(mask).save(root / "masks" / f"{number}.png")
        lines.append(f"{number},{' '.join(CLASSES[k] for k in np.unique(ids) if k)}")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    (root / "tags.csv").write_text("\n".join(lines))
    (root / "splits" / "val.txt").write_text("0\n1\n")
    (root / "splits" / "test.txt").write_text("2\n3\n")


def write_parquet(root: Path, file: Path) -> None:
    """Some of the photos as a table, in half of which there are a box of a car and of a person."""
    boxes = [
        {"category": name, "bbox": [4.0, top, 20.0, 15.0]}
        for name, top in zip(CLASSES[1:], (2.0, 20.0), strict=True)
    ]
    content = [(root / "images" / f"{number}.png").read_bytes() for number in range(12)]
    columns = {"image": [{"bytes": each, "path": None} for each in content]}
    pyarrow.parquet.write_table(pyarrow.table({**columns, "objects": [boxes, None] * 6}), file)


class Reader:
    """Somebody who types what the pages say."""

    def __init__(self) -> None:
        self.typed: set[tuple[str, ...]] = set()

    def type(self, command: Command, plan: bool = True) -> None:
        """Run a command, unless it was run before; it must succeed."""
        program, words = command.program, command.words
        assert program is not None, command.text
        if words in self.typed:
            return
        self.typed.add(words)
        if command.launcher is not None:
            check_launcher(command)
        arguments = shortened(program, known(command.arguments), plan)
        result = CliRunner().invoke(import_module(f"{PROGRAMS[program]}.app").program, arguments)
        assert result.exit_code == 0, f"{command.text}\n{arguments}\n{result.output}"


def known(arguments: list[str]) -> list[str]:
    """Arguments with folders for the known datasets."""
    found = []
    for word in arguments:
        scheme, colon, path = word.partition(":")
        if colon and path.partition("?")[0] == "PATH":
            assert scheme in schemes(), word
            word = {"gta5": "renders", "cityscapes": "street"}.get(scheme, "photos")
        elif "FINGERPRINT" in word:
            option, equals, pattern = word.rpartition("=")
            (file,) = Path().glob(pattern.replace("FINGERPRINT", "*"))
            word = f"{option}{equals}{file}"
        found.append(word)
    return found


def shortened(program: str, arguments: list[str], plan: bool) -> list[str]:
    """Arguments with a small budget."""
    name, *rest = arguments
    if name == "detector" and rest[0] == "train":
        return [*arguments, *assigned({**BUDGET, "data.crop": 64}), "--steps", "2", "--cpu"]
    if name == "suggest":
        return [*arguments, "--count", "2"]
    if name not in ("train", "sweep", "doctor") or "--resume" in rest:
        return arguments
    app = find_app(program)
    tiny = Tiny(app, OPTIONS[program], sections=SECTIONS)
    named = [word for word in rest if word in method_names(app.methods)]
    small = tiny(named[0] if named else "u2plplus")
    if name == "sweep" or "--method-file" in rest:
        pairs = zip(small[::2], small[1::2], strict=True)
        small = [word for pair in pairs if not pair[1].startswith("method.") for word in pair]
    behind = ["--dry-run"] if name == "sweep" and plan else []
    return [name, *small, *rest, *assigned(BUDGET), "--steps", "2", "--cpu", *behind]


def assigned(options: Options) -> list[str]:
    """Options as words."""
    return [word for key, value in options.items() for word in ("--set", f"{key}={value}")]


def check_launcher(command: Command) -> None:
    """The options of `accelerate launch` exist."""
    assert command.launcher is not None
    file = next(word for word in command.words if word.endswith("cli.py"))
    known = launch_command_parser().parse_args([*command.launcher, file])
    assert known.training_script == file


def check_options(command: Command) -> None:
    """The program knows the command and its options."""
    assert command.program is not None
    found: Any = typer.main.get_command(import_module(f"{PROGRAMS[command.program]}.app").program)
    arguments = command.arguments
    while hasattr(found, "commands"):
        if arguments[0].startswith("-"):
            return
        name, *arguments = arguments
        assert name in found.commands, command.text
        found = found.commands[name]
    found.make_context(name, list(arguments))


def block(page: str, language: str, about: str) -> str:
    """The one code block of a page in which a word occurs."""
    (found,) = (each for each in blocks(ROOT / "docs" / page, language) if about in each)
    return found


def draw_nothing(folder: Path, *_: Any) -> None:
    """One pixel in place of a run's pictures."""
    Image.new("RGB", (1, 1)).save(folder / PICTURES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The folder in which the pages are read: their data, and the runs that they speak of."""
    root, reader = tmp_path_factory.mktemp("world"), Reader()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setitem(mit.VARIANTS, small_mit.NAME, small_mit.VARIANT)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", root / "datasets")
        patch.setattr("u2pl.run.train.write_report", lambda *_: None)
        patch.setattr("u2pl.run.train.draw_pictures", draw_nothing)
        patch.setattr("u2pl.doctor.costs.LONGEST_STEP", 1e9)
        patch.setattr("u2pl.doctor.trial.LONGEST_STEP", 0.0)
        paint(root / "photos", images=52, masked=46)
        paint(root / "street", images=12, masked=4)
        for name in ("renders", "masked"):
            paint(root / name, images=12, masked=12)
        Path("masked/tags.csv").unlink()
        shutil.copytree("photos", "tagged")
        blocks_of_shapes(Path("export"), "coco")
        shutil.make_archive("export", "zip", "export")
        write_parquet(Path("photos"), Path("photos.parquet"))
        Path("holiday").mkdir()
        for place in ("holiday/beach.png", "photo.jpg"):
            shutil.copy("photos/images/0.png", place)
        Path("labeled.txt").write_text("4\n5\n6\n7\n")
        encoder: Any = timm.create_model("test_resnet")
        save_file(encoder.state_dict(), "encoder.safetensors")
        Path("own_labels.py").write_text(block("extending.md", "python", "OwnLabels"))
        Path("contrast.toml").write_text(block("compare.md", "toml", "seeds"))
        for text in BEFORE:
            (command,) = Command.read(text)
            reader.type(command, plan=False)
        for alias, name in ALIASES.items():
            Path("runs", alias).symlink_to(name)
        yield reader


def not_run(command: Command) -> bool:
    return any(command.text.startswith(beginning) for beginning in NOT_RUN)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_a_block_says_its_language(page: Path) -> None:
    known = {"bash", "python", "toml", "csv", "text", "bibtex"}
    found = {each["language"] for each in FENCE.finditer(page.read_text(encoding="utf-8"))}
    assert found <= known


@pytest.mark.parametrize("page", [page for page in PAGES if [*commands(page)]], ids=label)
def test_commands_run(page: Path, world: Reader) -> None:
    for command in commands(page):
        if not_run(command):
            continue
        assert command.program is not None, f"{command.text}: neither run nor in NOT_RUN"
        world.type(command)


@pytest.mark.parametrize(
    "text", [text for page in PAGES for text in blocks(page, "toml")], ids=lambda text: text[:20]
)
def test_toml_is_valid_and_recipes_are_taken(text: str, world: Reader) -> None:
    known = set(tomllib.loads(text))
    if known & {"network", "train"}:
        Path("recipe.toml").write_text(text)
        world.typed.discard(("u2pl-semi", "show", "u2plplus", "--preset", "recipe.toml"))
        (command,) = Command.read("u2pl-semi show u2plplus --preset recipe.toml")
        world.type(command)


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_what_is_not_run_has_options_that_exist(beginning: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = [each for page in PAGES for each in commands(page) if each.text.startswith(beginning)]
    assert found, "no page has such a command"
    for command in found:
        for extra in re.findall(r"--extra (\S+)", command.text):
            assert extra in settings["project"]["optional-dependencies"]
        for group in re.findall(r"--group (\S+)", command.text):
            assert group in settings["dependency-groups"]
        if command.program is not None:
            check_options(command)
        if command.launcher is not None:
            check_launcher(command)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_commands_in_the_text_have_options_that_exist(page: Path) -> None:
    for command in commands_in_text(page):
        if command.program is not None:
            check_options(command)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=label)
def test_python_runs(page: Path, world: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = PYTHON_ELSEWHERE.get(label(page))
    if elsewhere is not None:
        assert page.stem in (ROOT / elsewhere).read_text()
        return

    def train(app: str, method: str, **options: Any) -> Any:
        tiny = Tiny(find_app("u2pl-semi"), {**OPTIONS["u2pl-semi"], **BUDGET})
        small = tiny.assignments(method)
        return train_in_full(
            app, method=method, **options | {"steps": 2, "cpu": True, "set": small}
        )

    monkeypatch.setattr(u2pl, "train", train)
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    assert names


#: What a machine with Slurm has, for the first of two nodes.
STUBS = {
    "scontrol": 'printf "node0\\nnode1\\n"',
    "srun": '"$@"',
    "uv": 'shift; [ "$1" = --no-sync ] && shift; "$@"',
    "u2pl-semi": 'printf "%s\\n" u2pl-semi "$@" >typed',
    ".venv/bin/accelerate": 'printf "%s\\n" accelerate "$@" >typed',
}


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
@pytest.mark.parametrize(
    "script", [script for page in PAGES for script in scripts(page)], ids=["nodes", "one GPU"]
)
def test_scripts_start_what_they_should(script: str, begun: bool, tmp_path: Path) -> None:
    for name, body in STUBS.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(0o755)
    if begun:
        (tmp_path / "runs/photos-slurm").mkdir(parents=True)
        (tmp_path / "runs/photos-slurm/config.json").write_text(json.dumps({}))
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_JOB_ID": "4711",
        "SLURM_NNODES": "2",
        "SLURM_NODEID": "1",
    }
    file = tmp_path / "train.sbatch"
    file.write_text(script)
    subprocess.run(["bash", "-eu", file.name], cwd=tmp_path, env=environment, check=True)

    command = Command("", tuple((tmp_path / "typed").read_text().split()))
    check_options(command)
    assert ("--resume" in command.words) == begun
    assert "runs/photos-slurm" in command.words
    if command.launcher is not None:
        check_launcher(command)
        given = launch_command_parser().parse_args([*command.launcher, "cli.py"])
        assert (given.num_machines, given.num_processes, given.machine_rank) == (2, 8, 1)
        assert (given.main_process_ip, given.main_process_port) == ("node0", 24711)
