"""Two processes with 2 + 2 images each follow one with 4 + 4."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.commands import Launcher, journal, logged_steps, losses
from harness.methods import EveryMethod
from harness.tiny import Options, Tiny, method_of
from u2pl.methods.discovery import method_names

#: Rounding differs between the two, and a pixel whose entropy lies on the threshold may fall on the
#: other side; a wrong mean, a missing key or another draw shows in the first digits.
TOLERANCE = 1e-3

# SGD, since AdamW's first steps are the signs of gradients and so turn the last digit of one near
# zero into a whole step
OPTIONS: Options = {
    "train.batch": 4,
    "train.reference_batch": 4,
    "train.optimizer": "sgd",
    "train.lr": 0.01,
    "train.evaluations": 1,
    "network.dropout": 0,
    "method.warm_start": 0.25,
}
#: An untrained network is nowhere sure of a class, and terms that are small in the papers would not
#: show: with these every pixel counts, in every method that has the option.
LOUD: Options = {
    "method.confidence": 0,
    "method.unsupervised.confidence": 0,
    "method.part_contrast.confidence": 0,
    "method.contrast.delta_p": 0,
    "method.lambda_c": 1,
    "method.mix.probability": 1,
}


def train_both(
    launcher: Launcher,
    package: str,
    data: dict[str, str],
    cases: Mapping[str, tuple[str, list[str]]],
    out: Path,
) -> Path:
    """Folders two/CASE, two/as it is/CASE and one/CASE in `out`.

    Args:
        launcher: starts a process of its own, because `debug_launcher` forks.
        package: of the app.
        data: what of a request names the data.
        cases: method and assignments by name.
        out: a folder.
    """
    job = {"package": package, "data": data, "cases": cases}
    launcher.run(out / "log", Path(__file__).with_name("processes.py"), json.dumps(job), out)
    return out


def both_ranks(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each of two processes has written down."""
    left, right = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert (left["world"], right["world"]) == (2, 2)
    return left, right


class TwoProcesses(EveryMethod):
    """Needs the fixtures `tiny` and `request_data`."""

    #: How many terms the loss of each case has, all of which must show; of a case that is not here
    #: one must.
    terms: ClassVar[Mapping[str, int]] = {}
    #: Cases whose networks have no BatchNorm.
    without_batchnorm: ClassVar[frozenset[str]] = frozenset()
    #: Options on top of `OPTIONS` and `LOUD`, for every method that has them.
    loud: ClassVar[Options] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def runs(
        cls,
        launcher: Launcher,
        tiny: Tiny,
        request_data: dict[str, str],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Path:
        """The folder of `train_both`."""
        usual = {**OPTIONS, **LOUD, **cls.loud}
        names = [*method_names(cls.app.methods), *cls.variants]
        cases = {name: (method_of(name), tiny.assignments(name, usual)) for name in names}
        out = tmp_path_factory.mktemp("processes")
        return train_both(launcher, cls.app.package, request_data, cases, out)

    def test_two_processes_log_what_one_logs(self, name: str, runs: Path) -> None:
        one, two = journal(runs / "one" / name), journal(runs / "two" / name)
        assert len(one) == len(two) > 8
        for left, right in zip(one, two, strict=True):
            assert left.keys() == right.keys()
            for key in left.keys() - {"evaluation"}:
                # None, for not a number, becomes NaN
                ours, theirs = (np.array(line[key], dtype=float) for line in (left, right))
                where = f"step {left['step']}, {key}"
                np.testing.assert_allclose(theirs, ours, rtol=TOLERANCE, atol=3e-4, err_msg=where)

    def test_two_processes_end_with_the_state_of_one(self, name: str, runs: Path) -> None:
        one, two = (
            load_file(runs / world / name / "resume.safetensors") for world in ("one", "two")
        )
        assert one.keys() == two.keys()
        for key, value in one.items():
            size = torch.linalg.vector_norm(value.double()).clamp(min=1e-6)
            difference = torch.linalg.vector_norm(two[key].double() - value.double())
            assert difference / size < TOLERANCE, key
        assert (one.get("method.contrast.queue.filled", torch.ones(1)) > 0).all()

    def test_both_processes_hold_the_same_statistics_and_the_same_state(
        self, name: str, runs: Path
    ) -> None:
        """Bit for bit, with real BatchNorm: of what is trained, and of what follows it."""
        left, right = both_ranks(runs / "two" / "as it is" / name)
        assert left["statistics"] == right["statistics"]
        moved = {*left["statistics"]} & {*left["moved"]}
        for role in ("running_mean", "running_var"):
            has_moved = any(key.endswith(role) for key in moved)
            assert has_moved == (name not in self.without_batchnorm)
        assert left["state"] == right["state"]

    def test_every_term_took_part(self, name: str, runs: Path) -> None:
        entries = logged_steps(runs / "one" / name)
        terms = losses(entries[-1])
        largest = {term: max(entry.get(f"loss/{term}", 0) for entry in entries) for term in terms}
        assert len(terms) == self.terms.get(name, len(terms))
        assert sum(value > 1e-4 for value in largest.values()) >= self.terms.get(name, 1), largest

    def test_both_processes_know_the_score_of_all_images(self, name: str, runs: Path) -> None:
        one = json.loads((runs / "one" / name / "rank0.json").read_text())
        left, right = both_ranks(runs / "two" / name)
        assert one["world"] == 1
        assert left["evaluations"] == right["evaluations"]
        for a, b in zip(one["evaluations"], left["evaluations"], strict=True):
            for role in a.keys() - {"step"}:
                for key in ("miou", "pixel_accuracy"):
                    assert a[role][key] == pytest.approx(b[role][key], abs=0.2)
