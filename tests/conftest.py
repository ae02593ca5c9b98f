"""One thread, no network, a cache of its own, and the way to the files that lie beside the checkout; an app's commands.

The folder of each app has a fixture `app`. What depends on it has module scope: of a session it would be the first app's for all.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# Before torch is imported, and inherited by every subprocess a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [
        *(
            str(ROOT / part)
            for part in ("packages/core", "apps/semi", "apps/domain_adapt", "apps/weak")
        ),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
)

import pytest  # noqa: E402
import torch  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

torch.set_num_threads(1)
pytest.register_assert_rewrite("harness")

from u2pl.cli.app import App  # noqa: E402

from harness.commands import Launcher  # noqa: E402


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
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is counted once and kept is kept for this session only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("U2PL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """`shared("fixtures/rce.npz")` is that file or folder of ../shared; the test is skipped where it is not there."""

    def find(name: str) -> Path:
        path = ROOT.parent / "shared" / name
        if not path.exists():
            pytest.skip(f"../shared/{name} is not here")
        return path

    return find


@pytest.fixture(scope="module")
def command(app: App) -> Callable[..., Any]:
    """Run the app's program in this process; the result has exit_code, stdout and stderr."""
    program = import_module(f"{app.package}.app").program
    return lambda *args: CliRunner().invoke(program, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def refused(command: Callable[..., Any]) -> Callable[..., str]:
    """Run the app's program and expect exit code 2 and one line that starts with "error:"; returns the line."""

    def run(*args: Any) -> str:
        result = command(*args)
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == 2, result.output
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: "), result.stderr
        return lines[0]

    return run


@pytest.fixture(scope="module", params=[1, 2], ids=["1-thread", "2-threads"])
def launcher(request: pytest.FixtureRequest, app: App) -> Iterator[Launcher]:
    """A launcher for each number of threads."""
    made = Launcher(app, request.param)
    yield made
    made.close()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` tries steps however busy the machine is, each once."""
    monkeypatch.setattr("u2pl.doctor.costs.LONGEST_STEP", 1e9)
    monkeypatch.setattr("u2pl.doctor.trial.LONGEST_STEP", 0.0)
