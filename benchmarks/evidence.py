"""Measure the methods against each other: a list of (method, seed), one training run each, one file each in results/.

    uv run benchmarks/evidence.py demo
    uv run benchmarks/evidence.py voc-animals-222 --data VOC_ANIMALS --weights tf_efficientnet_lite0.safetensors
    uv run benchmarks/evidence.py camvid-dusk --data CAMVID --weights tf_efficientnet_lite0.safetensors
    uv run benchmarks/evidence.py voc-animals-tags --data VOC_ANIMALS --weights tf_efficientnet_lite0.safetensors
    uv run benchmarks/evidence.py camvid-dusk-gpu --data CAMVID --weights tf_efficientnet_lite0.safetensors --jobs 12

A run whose file exists is left out and one that was cut short goes on where it stood, so the same command can be given again at any time.
`benchmarks/tables.py` turns the files into docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
#: How far a learning curve is thinned for the results file.
POINTS = 40


@dataclass(frozen=True)
class Study:
    """One comparison: everything but the method and the seed is equal."""

    options: tuple[str, ...]
    runs: tuple[tuple[str, int], ...]  # (method, seed), in the order they are run
    app: str = "semi"
    splits: tuple[str, ...] = ()  # further lists of the scored data that the result is scored on
    gpu: bool = False

    @property
    def device(self) -> list[str]:
        """Where its commands run."""
        return [] if self.gpu else ["--cpu"]


def paired(single: tuple[str, ...] = ()) -> tuple[tuple[str, int], ...]:
    """suponly, cutmix and u2plplus with three seeds, and further methods with one."""
    pairs = [(method, seed) for seed in range(3) for method in ("suponly", "cutmix", "u2plplus")]
    return (*pairs, *((method, 0) for method in single))


def voc_animals(labeled: str, steps: int, warm_start: float) -> Study:
    """128-pixel crops, 4 + 4 images, the pretrained EfficientNet-Lite0."""
    options = [
        "--preset", "light", "--labeled", labeled, "--steps", str(steps),
        "--set", "data.crop=128", "--set", "data.scale=[0.4,1.0]", "--set", "data.workers=1",
        "--set", "train.batch=4", "--set", "train.reference_batch=4", "--set", "train.lr=3e-4", "--set", "train.head_lr_factor=5",
        "--set", "train.evaluations=1",
    ]  # fmt: skip
    return Study((*options, f"--warm={warm_start}"), paired(("mean_teacher", "u2pl")))


DEMO = ("--preset", "demo", "--data", "demo")


def adapted(seeds: int) -> tuple[tuple[str, int], ...]:
    """The methods of domain adaptation, and what the labels of the target would give."""
    return tuple(
        (method, seed)
        for seed in range(seeds)
        for method in ("source_only", "daformer", "u2plplus", UPPER_BOUND)
    )


def camvid(steps: int, *options: str) -> tuple[str, ...]:
    """Day to dusk."""
    return (
        "--preset", "light", "--source-split", "train_day", "--target-split", "train_dusk", "--score-split", "test_dusk",
        "--steps", str(steps), "--set", "data.workers=1", "--set", "train.evaluations=1", *options,
    )  # fmt: skip


def brief_camvid(*options: str) -> tuple[str, ...]:
    """160-pixel crops, 4 + 4 images, a narrow DAFormer head; averages that forget the first steps of so short a run."""
    return camvid(
        400, "--set", "network.width=64", "--set", "data.crop=160", "--set", "data.scale=[0.5,1.0]",
        "--set", "train.batch=4", "--set", "train.lr=3e-4",
        "--set", "method.teacher.momentum=0.99", "--set", "method.teacher.ramp=false", *options,
    )  # fmt: skip


def tagged(*options: str) -> tuple[str, ...]:
    """Tags alone: 160-pixel crops that show most of a photo, 4 images."""
    return (
        "--preset", "light", "--steps", "600",
        "--set", "data.crop=160", "--set", "data.scale=[0.45,0.75]", "--set", "data.workers=1", "--set", "network.width=64",
        "--set", "train.batch=4", "--set", "train.reference_batch=4", "--set", "train.lr=3e-4", "--set", "train.evaluations=1",
        "--set", "method.warm_start=0.5", "--set", "evaluate.long_side=224", *options,
    )  # fmt: skip


def weakly(seeds: int, methods: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """The methods of weak supervision."""
    return tuple((method, seed) for seed in range(seeds) for method in methods)


#: source_only trained on the target's own labels.
UPPER_BOUND = "upper_bound"
#: Car, pedestrian, bicyclist and sign are CamVid's things; its folder has no meta.toml to say so.
THINGS = ("--set", "method.feature_distance.things=[6,8,9,10]")

#: As the recipe has it, but for half of its steps, and crops three quarters of a small photo's side.
LONG_TAGS = (
    "--preset", "light", "--steps", "2000", "--set", "data.crop=192", "--set", "data.scale=[0.375,1.5]", "--set", "data.workers=1",
    "--set", "train.evaluations=1", "--set", "evaluate.long_side=256",
)  # fmt: skip

STUDIES = {
    "demo": Study(DEMO, paired(("mean_teacher", "u2pl"))),
    # the released teacher, which follows the student closely at first
    "demo-ramp": Study(
        (*DEMO, "--set", "method.teacher.ramp=true"), (("u2plplus", 0), ("cutmix", 0))
    ),
    # fewer labels: a teacher that is too often wrong to be believed
    "demo-16": Study((*DEMO, "--labeled", "16"), paired()[:3]),
    "voc-animals-222": voc_animals("labeled_222", 800, 0.375),
    "voc-animals-65": voc_animals("labeled_65", 400, 0.5),
    "adapt-demo": Study(("--preset", "demo"), adapted(1), "domain_adapt"),
    "camvid-dusk": Study(brief_camvid(*THINGS), adapted(3), "domain_adapt", ("test_day",)),
    "camvid-dusk-mit": Study(
        brief_camvid(
            "--set", "network.encoder=mit_b0", "--set", "method.feature_distance.weight=0"
        ),
        adapted(1),
        "domain_adapt",
        ("test_day",),
    ),
    # the recipe as it is, but for smaller crops and half of its steps
    "camvid-dusk-gpu": Study(
        camvid(2000, "--set", "data.crop=192", *THINGS),
        adapted(3),
        "domain_adapt",
        ("test_day",),
        gpu=True,
    ),
    "tags-demo": Study(("--preset", "demo"), weakly(1, ("cam", "u2plplus")), "weak"),
    "voc-animals-tags": Study(tagged(), weakly(3, ("cam", "u2plplus")), "weak"),
    "voc-animals-tags-gpu": Study(LONG_TAGS, weakly(3, ("cam", "u2plplus")), "weak", gpu=True),
    # the first row of U2PL+ Tab. 14: parts of an object that its map misses are no negatives
    "voc-animals-tags-untagged": Study(
        tagged("--set", "method.negatives.unreliable=false"), (("u2plplus", 0),), "weak"
    ),
    "voc-animals-tags-mit": Study(
        tagged(
            "--set",
            "network.encoder=mit_b0",
            "--set",
            "method.host=afa",
            "--set",
            "method.affinity.walk_start=0.75",
        ),
        weakly(1, ("afa", "u2plplus")),
        "weak",
    ),
}


def command(
    study: Study, method: str, seed: int, data: str | None, weights: str | None, folder: Path
) -> list[str]:
    """The training command of one run."""
    options = [option for option in study.options if not option.startswith("--warm=")]
    if study.app == "weak":
        return weak_command(study, method, seed, data, weights, folder)
    if study.app == "domain_adapt":
        return adapt_command(study, method, seed, data, weights, folder)
    if method != "suponly":
        options += [
            part
            for option in study.options
            if option.startswith("--warm=")
            for part in ("--set", f"method.warm_start={option[7:]}")
        ]
    if data is not None:
        options += ["--data", data]
    if weights is not None:
        options += ["--set", f"network.encoder_weights={weights}"]
    return [
        "python",
        "apps/semi/cli.py",
        "train",
        method,
        "--seed",
        str(seed),
        *options,
        *study.device,
        *place(folder),
    ]


def adapt_command(
    study: Study, method: str, seed: int, data: str | None, weights: str | None, folder: Path
) -> list[str]:
    """The training command of one adaptation; source_only has neither pseudo-labels nor the options of the methods that have."""
    pairs = list(zip(study.options, study.options[1:], strict=False))
    known = ("method.teacher",) if method in ("source_only", UPPER_BOUND) else ("method.",)
    left_out = {
        i
        for i, (a, b) in enumerate(pairs)
        if a == "--set" and b.startswith("method.") and not b.startswith(known)
    }
    options = [
        option
        for i, option in enumerate(study.options)
        if i not in left_out and i - 1 not in left_out
    ]
    if data is not None:
        options += ["--source", data, "--target", data]
    if method == UPPER_BOUND:
        method = "source_only"
        if data is None:
            options += ["--source", "demo-target"]
        else:
            options[options.index("--source-split") + 1] = options[
                options.index("--target-split") + 1
            ]
    if weights is not None or "network.encoder=mit_b0" in options:
        options += ["--set", f"network.encoder_weights={weights or 'none'}"]
    return [
        "python",
        "apps/domain_adapt/cli.py",
        "train",
        method,
        "--seed",
        str(seed),
        *options,
        *study.device,
        *place(folder),
    ]


def weak_command(
    study: Study, method: str, seed: int, data: str | None, weights: str | None, folder: Path
) -> list[str]:
    """The training command of one run on tags; only u2plplus chooses its host."""
    pairs = enumerate(zip(study.options, study.options[1:], strict=False))
    hosts = {
        i
        for i, (a, b) in pairs
        if a == "--set" and b.startswith("method.host") and method != "u2plplus"
    }
    options = [
        option for i, option in enumerate(study.options) if i not in hosts and i - 1 not in hosts
    ]
    if data is not None:
        options += ["--data", data, "--tags", f"{data}/tags.csv"]
    if weights is not None or "network.encoder=mit_b0" in options:
        options += ["--set", f"network.encoder_weights={weights or 'none'}"]
    return [
        "python",
        "apps/weak/cli.py",
        "train",
        method,
        "--seed",
        str(seed),
        *options,
        *study.device,
        *place(folder),
    ]


def score_maps(study: Study, folder: Path) -> dict[str, Any]:
    """How good the maps and labels were that a run on tags learnt from, on some of its training images."""
    line = [
        sys.executable,
        "apps/weak/cli.py",
        "cams",
        str(folder),
        "--limit",
        "150",
        *study.device,
    ]
    subprocess.run(
        line,
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found: dict[str, Any] = json.loads(
        next((ROOT / folder / "last").glob("cams-*.json")).read_text()
    )
    return found


def place(folder: Path) -> list[str]:
    """Where a run is written; it goes on where one was cut short."""
    return [
        "--out",
        str(folder),
        *(["--resume"] if (ROOT / folder / "resume.safetensors").exists() else []),
    ]


def score(study: Study, folder: Path, split: str) -> dict[str, Any]:
    """The result of a run on another list of the data it was scored on."""
    line = [
        sys.executable,
        f"apps/{study.app}/cli.py",
        "evaluate",
        str(folder),
        "--split",
        split,
        *study.device,
    ]
    subprocess.run(
        line,
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    files = [
        json.loads(path.read_text())
        for path in sorted((ROOT / folder / "last").glob("evaluation-*.json"))
    ]
    return next(found for found in files if found["split"] == split)


def curves(journal: Path) -> dict[str, list[Any]]:
    """What the journal says of the run, thinned: enough to see why a method gains or does not."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    logged = [line for line in lines if "lr" in line]
    kept = logged[:: max(1, len(logged) // POINTS)]
    names = sorted({name for line in kept for name in line} - {"seconds"})
    out: dict[str, list[Any]] = {
        name: [_rounded(line.get(name)) for line in kept] for name in names
    }
    out["evaluations"] = [line["evaluation"] for line in lines if "evaluation" in line]
    return out


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def measure(name: str, method: str, seed: int, data: str | None, weights: str | None) -> None:
    """Train one run to its end and write its file, unless that is there."""
    study, result = STUDIES[name], ROOT / "results" / name / f"{method}-seed{seed}.json"
    if result.exists():
        print(f"{result.relative_to(ROOT)} is there")
        return
    folder = Path("runs") / "evidence" / name / f"{method}-{seed}"
    if (ROOT / folder).exists() and not (ROOT / folder / "resume.safetensors").exists():
        shutil.rmtree(ROOT / folder)  # cut short before there was anything to go on from
    line = command(study, method, seed, data, weights, folder)
    print(" ".join(line), flush=True)
    subprocess.run(
        [sys.executable, *line[1:]],
        cwd=ROOT,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    summary = json.loads((ROOT / folder / "summary.json").read_text())
    result.parent.mkdir(parents=True, exist_ok=True)
    line = [part for part in line if part != "--resume"]
    also = {split: score(study, folder, split) for split in study.splits}
    summary |= {"method": method} | ({"also": also} if also else {})
    summary |= {"maps": score_maps(study, folder)} if study.app == "weak" else {}
    text = (
        json.dumps(
            {
                "command": " ".join(line),
                **summary,
                "curves": curves(ROOT / folder / "journal.jsonl"),
            }
        )
        + "\n"
    )
    result.with_suffix(".part").write_text(text)
    result.with_suffix(".part").rename(result)
    (ROOT / folder / "resume.safetensors").unlink()


def main() -> None:
    """Run a study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", help="data source of the study, where it is not built in")
    parser.add_argument("--weights", help="file of the pretrained encoder")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="only these methods")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="runs at a time, a thread each: for spare cores, or a GPU with room",
    )
    args = parser.parse_args()
    chosen = [
        (method, seed)
        for method, seed in STUDIES[args.study].runs
        if args.only is None or method in args.only
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        for run in [
            pool.submit(measure, args.study, method, seed, args.data, args.weights)
            for method, seed in chosen
        ]:
            run.result()


if __name__ == "__main__":
    main()
