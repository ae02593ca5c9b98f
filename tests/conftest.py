"""One thread, no network, a cache of its own, and the way to the files beside the checkout.

And the commands and methods of an app. The folder of each app has the fixtures `app`, `tiny` and
`request_data`. What depends on them has module scope: of a session it would be the first app's for
all.
"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("packages/core", "apps/semi", "apps/domain_adapt", "apps/weak")

# Before torch is imported, and inherited by every subprocess a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("COLUMNS", None)  # set for the processes that share out the tests
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*(str(ROOT / part) for part in PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
)

import pytest  # noqa: E402
import torch  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

torch.set_num_threads(1)
pytest.register_assert_rewrite("harness")

from torch.utils.data import default_collate  # noqa: E402

from harness.commands import Launcher  # noqa: E402
from harness.contract import TOTAL, WARM_START, Build  # noqa: E402
from harness.tiny import Tiny, method_of  # noqa: E402
from u2pl.counting import silently  # noqa: E402
from u2pl.methods.method import Method  # noqa: E402
from u2pl.run.app import App  # noqa: E402
from u2pl.run.train import make_task  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the tests look that draw what they try."""
    parser.addoption("--fuzz", type=int, metavar="N", help="N mutations of each kind of input")
    parser.addoption("--fuzz-case", metavar="KIND:NUMBER", help="this mutation alone")
    parser.addoption("--kills", type=int, default=3, metavar="N", help="kill a run N times")


#: Files that take a minute or so, the slowest first.
SLOW = (
    *("tests/test_docs_commands.py", "tests/semi/test_processes.py", "tests/semi/test_resume.py"),
    *("tests/core/model/test_onnx_file.py", "tests/test_docs.py", "tests/semi/test_contract.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first: begun last, one would keep a process at work when all others are done."""
    places = {str(ROOT / file): place for place, file in enumerate(SLOW)}
    items.sort(key=lambda item: places.get(str(item.path), len(SLOW)))


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """A connection to another machine fails at once, with its address."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests have no network: {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield


@pytest.fixture(scope="session", autouse=True)
def _started_by_name() -> Iterator[None]:
    """Commands are printed alike, however the tests were started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is counted once and kept is kept for this session only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("U2PL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """`shared("fixtures/rce.npz")` is that file or folder of ../shared.

    A test is skipped if it is not there.
    """

    def find(name: str) -> Path:
        path = ROOT.parent / "shared" / name
        if not path.exists():
            pytest.skip(f"../shared/{name} is not here")
        return path

    return find


@pytest.fixture(scope="module")
def command(app: App) -> Callable[..., Any]:
    """Run the app's program in this process; the result has exit_code, stdout and stderr.

    The first argument may be several words.
    """
    program = import_module(f"{app.package}.app").program

    def run(first: str, *others: Any) -> Any:
        return CliRunner().invoke(program, [*shlex.split(first), *map(str, others)])

    return run


@pytest.fixture(scope="module")
def refused(command: Callable[..., Any]) -> Callable[..., str]:
    """Run the app's program; expect exit code 2 and one line, "error: ...", which is returned."""

    def run(*args: Any) -> str:
        result = command(*args)
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == 2, result.output
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: "), result.stderr
        return lines[0]

    return run


@pytest.fixture(scope="module")
def request_words(request_data: dict[str, str]) -> list[str]:
    """How `request_data` is typed."""
    return [word for name, text in request_data.items() for word in (f"--{name}", text)]


@pytest.fixture(scope="module")
def build(app: App, tiny: Tiny, request_data: dict[str, str]) -> Build:
    """A tiny method, with a warm start of 0.3 if it has one, and a batch of two samples."""

    def make(name: str, seed: int = 0, **changes: Any) -> tuple[Method[Any], Any]:
        request = app.request(
            method=method_of(name),
            preset="demo",
            set=tiny.assignments(name, {"method.warm_start": WARM_START}, **changes),
            steps=TOTAL,
            seed=seed,
            **request_data,
        )
        task = make_task(app, request, silently)
        dataset = task.dataset()
        batch = default_collate([dataset[position] for position in range(2)])
        method = task.build_method()
        task.prepare(method)
        return method.train(), batch

    return make


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """One for the commands of all apps."""
    made = Launcher()
    yield made
    made.close()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` tries steps however busy the machine is, each once."""
    monkeypatch.setattr("u2pl.doctor.costs.LONGEST_STEP", 1e9)
    monkeypatch.setattr("u2pl.doctor.trial.LONGEST_STEP", 0.0)
