"""What is committed installs the same everywhere, and the command starts fast."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Each app's folder and import package.
APPS = {"semi": "u2pl_semi", "domain_adapt": "u2pl_da", "weak": "u2pl_ws"}
APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
# Written so that neither finds itself here.
REGISTRY_HOST = re.compile(
    r"pypi[.]org|python[h]osted|download[.]pytorch|registry[.]npmjs|registry = \"http"
)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|farm|home|root|Users)\b")


def committed_files() -> list[Path]:
    """What git tracks or would track."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_lock_and_constraints_hold_the_same_pins() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = re.findall(r"(?m)^(\S.*?) \\$", lock)
    assert pins == settings["tool"]["uv"]["constraint-dependencies"], "they differ: run .ci/repin"
    assert "exclude-newer" in settings["tool"]["uv"]


def test_every_pin_has_a_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert re.fullmatch(r"(?:\S+==[^\n]+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)+", lock)


def test_every_direct_dependency_is_pinned() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *settings["project"]["dependencies"],
        *(name for group in settings["dependency-groups"].values() for name in group),
    ]
    pinned = {pin.partition("==")[0] for pin in settings["tool"]["uv"]["constraint-dependencies"]}
    assert {re.split(r"[<>=[]", name)[0] for name in wanted} <= pinned


@pytest.mark.parametrize(
    "pattern", [REGISTRY_HOST, MACHINE_PATH], ids=["registry host", "machine path"]
)
def test_no_committed_file_names_a(pattern: re.Pattern[str]) -> None:
    found = []
    for path in committed_files():
        match = pattern.search(path.read_bytes().decode("utf-8", "ignore"))
        if match:
            found.append(f"{path.relative_to(ROOT)}: {match.group()}")
    assert not found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("url = https://pypi" + ".org/simple", True),
        ("cd /wor" + "k/main", True),
        ("docs/home/x.md", False),
        ("uv sync", False),
    ],
)
def test_the_patterns_find_what_they_should(text: str, found: bool) -> None:
    assert bool(REGISTRY_HOST.search(text) or MACHINE_PATH.search(text)) == found


def test_uv_lock_is_not_committed() -> None:
    assert ROOT / "uv.lock" not in committed_files()


def test_license_is_apache_2() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_text().encode()).hexdigest() == APACHE_2_SHA256


def test_wheel_holds_the_packages_and_every_recipe(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(tmp_path),
    ]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    sources = [
        ROOT / "packages" / "core" / "u2pl",
        *(ROOT / "apps" / app / package for app, package in APPS.items()),
    ]
    wanted = {
        str(path.relative_to(top.parent))
        for top in sources
        for ending in ("py", "toml")
        for path in top.rglob(f"*.{ending}")
    }
    assert wanted <= held
    assert not [
        name for name in held if name.partition("/")[0] in ("tests", "cli.py", "apps", "packages")
    ]


HEAVY = {
    "accelerate",
    "datasets",
    "pandas",
    "segmentation_models_pytorch",
    "timm",
    "torch",
    "torchvision",
}


@pytest.mark.parametrize("package", APPS.values())
def test_help_imports_nothing_heavy(package: str) -> None:
    code = f"""
import sys
from {package}.app import main
sys.argv = ["{package}", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {HEAVY} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


@pytest.mark.parametrize("app", APPS)
def test_cli_runs_by_path_without_an_installation(app: str, tmp_path: Path) -> None:
    # -S leaves out the .pth files, and with them the editable installation; PYTHONPATH brings the
    # libraries back.
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    command = [sys.executable, "-S", str(ROOT / "apps" / app / "cli.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
