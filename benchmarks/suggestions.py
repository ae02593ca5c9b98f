"""Are suggested images better labels than random ones? Of each seed three runs of one method:

first: on few labels; suggested: on these and those that `suggest` chose by the first run;
random: on these and as many that were drawn.

    uv run benchmarks/suggestions.py --data VOC_ANIMALS --weights WEIGHTS

WEIGHTS is the file tf_efficientnet_lite0.safetensors. A run whose file exists in results/ is
skipped, and an interrupted one is resumed, so the command can be repeated at any time.
`--print` only prints the commands of the runs, `--smoke` makes all of it small, to see it work.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import evidence
import numpy as np

from u2pl.data.opening import open_source
from u2pl.errors import UserError
from u2pl.run.app import find_app
from u2pl.run.compare.finished import ROLES, network_of
from u2pl.run.compare.gains import Spread, paired
from u2pl.run.run import Run
from u2pl.run.sweep.execution import Interrupted
from u2pl.run.sweep.plan import Planned, Sweep, plan

#: Named labels of the first run, the list that more are chosen from, since its images have masks,
#: and how many.
LABELED, POOL, COUNT = "labeled_31", "train_fine", 20
#: As the study of these labels in `evidence.py`.
STUDY = evidence.photos(LABELED, 400, 0.5)
METHOD, SEEDS = "suponly", (0, 1, 2)
VARIANTS = ("first", "suggested", "random")
NAME = "voc-animals-suggestions"
#: Makes all of it small, on the built-in demo.
SMOKE = (
    "--set", "train.batch=2", "--set", "data.crop=64", "--set", "network.encoder_weights=none",
    "--set", "network.encoder=test_resnet", "--set", "network.output_stride=16",
)  # fmt: skip


class Comparison:
    """Where everything lies.

    Args:
        data: its data source.
        weights: file of the pretrained encoder.
        smoke: whether all of it is small.
    """

    def __init__(self, data: str, weights: str | None, smoke: bool) -> None:
        self.data, self.weights, self.smoke = data, weights, smoke
        self.name = f"{NAME}-smoke" if smoke else NAME
        self.folder = evidence.run_folder(self.name)
        self.labeled, self.pool, self.count = ("8", "train", 4) if smoke else (LABELED, POOL, COUNT)
        self.seeds = SEEDS[:1] if smoke else SEEDS

    def list_file(self, variant: str, seed: int) -> Path:
        """The ids that a variant has labels of."""
        return self.folder / f"{variant}-{seed}.txt"

    def result_file(self, variant: str, seed: int) -> Path:
        """What is kept of a run, relative to the repository."""
        return Path("results") / self.name / f"{variant}-{seed}.json"

    def planned(self, variant: str, seed: int) -> Planned:
        """A run."""
        common = evidence.options_of(STUDY.options)
        common |= {"data": self.data, "labeled": self.labeled, "cpu": True}
        # labels alone are learnt from: there is no warm start
        common["set"] = [each for each in common["set"] if not each.startswith("method.")]
        if self.weights is not None:
            common["set"] = [*common["set"], f"network.encoder_weights={self.weights}"]
        if self.smoke:
            common |= {"steps": 2, "set": [*common["set"], *SMOKE[1::2]]}
        own = {} if variant == "first" else {"labeled": str(self.list_file(variant, seed))}
        sweep = Sweep(common, {variant: {"method": METHOD, **own}}, (seed,), self.folder)
        (found,) = plan(find_app("semi"), sweep)
        return found

    def choose(self, variant: str, seed: int) -> None:
        """Write the list of a variant, unless it is there."""
        file = self.list_file(variant, seed)
        if variant == "first" or file.exists():
            return
        first = self.planned("first", seed).folder
        file.parent.mkdir(parents=True, exist_ok=True)
        if variant == "suggested":
            line = ["apps/semi/cli.py", "suggest", str(first), "--count", str(self.count)]
            line += ["--split", self.pool, "--with-labeled", "--out", str(file), "--cpu"]
            print(" ".join(["python", *line]), flush=True)
            evidence.run(line)
            return
        source = open_source(self.data)
        suggested = self.list_file("suggested", seed).read_text().splitlines()
        labeled = suggested[: -self.count]
        rest = sorted(set(source.split(self.pool)) - set(labeled))
        drawn = np.random.default_rng(seed).choice(len(rest), self.count, replace=False)
        ids = [*labeled, *(rest[index] for index in sorted(drawn))]
        file.write_text("".join(f"{id}\n" for id in ids))

    def train(self, variant: str, seed: int) -> str | None:
        """Train a run to its end and write its file; returns why it failed, if it did."""
        result = self.result_file(variant, seed)
        if result.exists():
            return None
        self.choose(variant, seed)
        planned = self.planned(variant, seed)
        failures = evidence.train(STUDY, [planned], 1, lambda _: None)
        if failures:
            return f"{failures[0].name} failed: {failures[0].reason}"
        result.parent.mkdir(parents=True, exist_ok=True)
        listed = self.list_file(variant, seed)
        found = {
            "command": evidence.command(STUDY, planned),
            **Run(planned.folder).summary,
            **({} if variant == "first" else {"ids": listed.read_text().splitlines()}),
        }
        text = evidence.without_places(json.dumps(found), self.data, self.weights)
        result.with_suffix(".part").write_text(text + "\n")
        result.with_suffix(".part").rename(result)
        (planned.folder / "resume.safetensors").unlink(missing_ok=True)
        return None


def results(folder: Path) -> dict[str, dict[int, Mapping[str, Any]]]:
    """The files in a folder of results, by variant and seed."""
    return {
        variant: {
            int(file.stem.rpartition("-")[2]): json.loads(file.read_text())
            for file in sorted(folder.glob(f"{variant}-*.json"))
        }
        for variant in VARIANTS
    }


def table(results: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """mIoU of each variant and seed, by network, and paired differences to random labels."""
    seeds = sorted({seed for runs in results.values() for seed in runs})
    heads = ["labels", "network", *(f"seed {seed}" for seed in seeds), "mean", "- random"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for role in ROLES:
        scores = {
            variant: {
                seed: run["networks"][network_of(role, run["networks"])]["miou"]
                for seed, run in runs.items()
            }
            for variant, runs in results.items()
        }
        for variant, own in scores.items():
            cells = [f"{own[seed]:.2f}" if seed in own else "" for seed in seeds]
            mean = Spread.of(list(own.values()))
            gain = Spread.of(list(paired(own, scores["random"]).values()))
            cells.append(mean.words() if mean else "")
            cells.append(gain.words("+") if gain and variant != "random" else "")
            lines.append(f"| {variant} | {role} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="demo", help="data source with these lists")
    parser.add_argument("--weights", help="file of the pretrained encoder")
    parser.add_argument("--print", action="store_true", help="print the commands, train nothing")
    parser.add_argument("--smoke", action="store_true", help="two steps on the demo")
    args = parser.parse_args()
    os.chdir(evidence.ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    comparison = Comparison("demo" if args.smoke else args.data, args.weights, args.smoke)
    order = [(variant, seed) for seed in comparison.seeds for variant in VARIANTS]
    if args.print:
        print("\n".join(evidence.command(STUDY, comparison.planned(*each)) for each in order))
        return 0
    if args.smoke:
        for folder in (comparison.folder, Path("results") / comparison.name):
            shutil.rmtree(folder, ignore_errors=True)
    try:
        for each in order:
            failure = comparison.train(*each)
            if failure is not None:
                print(failure)
                return 1
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interrupted as stopped:
        return int(stopped.code)
    print("\n".join(table(results(Path("results") / comparison.name))))
    if args.smoke:
        shutil.rmtree(Path("results") / comparison.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
