"""Compare the methods: a study is a list of (method, seed), each a training run and a results file.

    uv run benchmarks/evidence.py demo
    uv run benchmarks/evidence.py voc-animals-222 --data VOC_ANIMALS --weights WEIGHTS
    uv run benchmarks/evidence.py camvid-dusk --data CAMVID --weights WEIGHTS
    uv run benchmarks/evidence.py voc-animals-tags --data VOC_ANIMALS --weights WEIGHTS
    uv run benchmarks/evidence.py camvid-dusk-gpu --data CAMVID --weights WEIGHTS --jobs 12

WEIGHTS is the file tf_efficientnet_lite0.safetensors. A run whose file exists in results/ is
skipped, and an interrupted one is resumed, so a command can be repeated at any time.
`benchmarks/tables.py` makes docs/results.md from the files. `--print` only prints the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
#: Points of a learning curve that are kept in the results file.
POINTS = 40


@dataclass(frozen=True)
class Study:
    """A comparison in which everything but the variant and the seed is equal."""

    options: tuple[str, ...]
    runs: tuple[tuple[str, int], ...]  # (variant, seed), in the order of execution
    app: str = "semi"
    splits: tuple[str, ...] = ()  # further lists of the scored data to score on
    gpu: bool = False

    @property
    def device(self) -> list[str]:
        """The option that chooses the device."""
        return [] if self.gpu else ["--cpu"]


@dataclass(frozen=True)
class Variant:
    """A method with some options of its own."""

    method: str
    options: tuple[str, ...]
    boxes: bool = False  # with those of the study's detector


#: Pseudo-labels weighted by rank statistics.
WEIGHTED = ("--set", "method.pixel_weight.kind=rank_statistics")


#: Methods of u2pl-semi without a warm start.
COLD = ("suponly", "unimatch", "cps")
#: The folder of a study's detector beside its runs, and its file of boxes; the score from which
#: they are used. So small a detector gives few boxes the papers' 0.85.
DETECTOR, BOXES, SCORE = "detector", "boxes.json", 0.5
#: The methods whose weights are measured.
HOSTS = ("unimatch", "augseg", "u2pl")

#: The two options for few labels, and the contrast switched off.
VIEW, NO_VIEW = (("--set", f"method.strong_view.kind={kind}") for kind in ("photometric", "none"))
WEIGHT, NO_WEIGHT = (
    ("--set", f"method.unsupervised.confidence={value}") for value in ("0.968", "0")
)
NO_CONTRAST = ("--set", "method.lambda_c=0")

#: Runs that are not a method as its preset has it; any other name is a method's.
VARIANTS = {
    # with and without the two options for few labels, whatever the preset says
    "u2plplus-paper": Variant("u2plplus", (*NO_VIEW, *NO_WEIGHT)),
    "u2plplus-both": Variant("u2plplus", (*VIEW, *WEIGHT)),
    "u2plplus-strong-view": Variant("u2plplus", (*VIEW, *NO_WEIGHT)),
    "u2plplus-careful": Variant("u2plplus", (*NO_VIEW, *WEIGHT)),
    "cutmix-paper": Variant("cutmix", NO_VIEW),
    "u2plplus-no-contrast": Variant("u2plplus", NO_CONTRAST),
    "u2plplus-heavy-contrast": Variant("u2plplus", ("--set", "method.lambda_c=1")),
    "u2plplus-both-no-contrast": Variant("u2plplus", (*VIEW, *WEIGHT, *NO_CONTRAST)),
    # a feature's label from the corner of its 4 x 4 pixels
    "u2plplus-both-corner": Variant(
        "u2plplus", (*VIEW, *WEIGHT, "--set", "method.contrast.pixel=released")
    ),
    # the control: only labelled pixels that are classified right become negative keys
    "u2plplus-correct-labeled": Variant(
        "u2plplus", ("--set", "method.contrast.bank=correct_labeled")
    ),
    # pseudo-labels weighted, by prototypes without and with pixels inside boxes
    **{f"{host}-weighted": Variant(host, WEIGHTED) for host in HOSTS},
    **{f"{host}-boxes": Variant(host, WEIGHTED, boxes=True) for host in HOSTS},
    # the released code's teacher, which at first follows the student closely
    "u2plplus-ramp": Variant("u2plplus", ("--set", "method.teacher.ramp=true")),
}


def seeds(count: int, *variants: str) -> tuple[tuple[str, int], ...]:
    """Each variant with the seeds from 0 on, one seed after the other."""
    return tuple((variant, seed) for seed in range(count) for variant in variants)


#: What the studies of drawn scenes compare, most important first; their preset has the strong view.
FIRST = (
    "suponly",
    "u2plplus",
    "u2plplus-no-contrast",
    "u2plplus-paper",
    "u2plplus-both",
    "u2plplus-careful",
)
#: What those of photos compare; their preset has neither.
ON_PHOTOS = (
    "suponly",
    "u2plplus",
    "u2plplus-no-contrast",
    "u2plplus-both",
    "u2plplus-strong-view",
    "u2plplus-careful",
)


#: Every method of the papers, after those of `FIRST`.
OTHERS = ("fixmatch", "unimatch", "augseg", "ael", "esl", "cps", "u2pl", "mean_teacher", "cutmix")


def photos(
    labeled: str, steps: int, warm_start: float, scale: str = "[0.4,1.0]", every: bool = False
) -> Study:
    """128-pixel crops, 4 + 4 images, the pretrained EfficientNet-Lite0.

    With `every`, all methods, and weights of their pseudo-labels.
    """
    options = [
        "--preset", "light", "--labeled", labeled, "--steps", str(steps),
        "--set", "data.crop=128", "--set", f"data.scale={scale}", "--set", "data.workers=1",
        "--set", "train.batch=4", "--set", "train.reference_batch=4", "--set", "train.lr=3e-4",
        "--set", "train.head_lr_factor=5", "--set", "train.evaluations=1",
    ]  # fmt: skip
    runs = [seeds(3, *ON_PHOTOS)]
    if every:
        variants = (f"{host}-{kind}" for kind in ("weighted", "boxes") for host in HOSTS)
        runs += [
            seeds(3, *OTHERS, "u2plplus-correct-labeled"),
            seeds(3, *variants),
            seeds(3, "u2plplus-both-no-contrast"),
        ]
    return Study((*options, f"--warm={warm_start}"), tuple(chain(*runs)))


DEMO = ("--preset", "demo", "--data", "demo")


def adapted(seeds: int) -> tuple[tuple[str, int], ...]:
    """The methods of domain adaptation, and training on the target's labels for comparison."""
    return tuple(
        (method, seed)
        for seed in range(seeds)
        for method in ("source_only", "daformer", "u2plplus", UPPER_BOUND)
    )


def camvid(steps: int, *options: str) -> tuple[str, ...]:
    """Day to dusk."""
    return (
        "--preset", "light", "--source-split", "train_day", "--target-split", "train_dusk",
        "--score-split", "test_dusk", "--steps", str(steps), "--set", "data.workers=1",
        "--set", "train.evaluations=1", *options,
    )  # fmt: skip


def brief_camvid(*options: str) -> tuple[str, ...]:
    """160-pixel crops, 4 + 4 images, a narrow DAFormer head.

    The teacher's momentum suits a short run: its average forgets the first steps.
    """
    return camvid(
        400, "--set", "network.width=64", "--set", "data.crop=160",
        "--set", "data.scale=[0.5,1.0]", "--set", "train.batch=4", "--set", "train.lr=3e-4",
        "--set", "method.teacher.momentum=0.99", "--set", "method.teacher.ramp=false", *options,
    )  # fmt: skip


def tagged(*options: str) -> tuple[str, ...]:
    """Image tags: 160-pixel crops that show most of a photo, 4 images."""
    return (
        "--preset", "light", "--steps", "600",
        "--set", "data.crop=160", "--set", "data.scale=[0.45,0.75]", "--set", "data.workers=1",
        "--set", "network.width=64", "--set", "train.batch=4", "--set", "train.reference_batch=4",
        "--set", "train.lr=3e-4", "--set", "train.evaluations=1",
        "--set", "method.warm_start=0.5", "--set", "evaluate.long_side=224", *options,
    )  # fmt: skip


def weakly(seeds: int, methods: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """The methods of weak supervision."""
    return tuple((method, seed) for seed in range(seeds) for method in methods)


#: source_only, trained on the target's labels.
UPPER_BOUND = "upper_bound"
#: CamVid's thing classes (car, pedestrian, bicyclist, sign), since its folder has no meta.toml.
THINGS = ("--set", "method.feature_distance.things=[6,8,9,10]")

#: The recipe, with half of its steps, and crops of three quarters of a small photo's side.
LONG_TAGS = (
    "--preset", "light", "--steps", "2000", "--set", "data.crop=192",
    "--set", "data.scale=[0.375,1.5]", "--set", "data.workers=1", "--set", "train.evaluations=1",
    "--set", "evaluate.long_side=256",
)  # fmt: skip

STUDIES = {
    "demo": Study(
        DEMO,
        (
            *seeds(5, *FIRST[:3], "u2plplus-both", "u2plplus-both-no-contrast"),
            *seeds(3, "u2plplus-paper", "cutmix", "u2plplus-both-corner"),
            *seeds(3, "u2plplus-heavy-contrast"),
            *seeds(1, "mean_teacher", "u2pl", "u2plplus-ramp"),
        ),
    ),
    # fewer labels: the teacher is wrong too often
    "demo-16": Study((*DEMO, "--labeled", "16"), seeds(3, *FIRST, "u2plplus-both-no-contrast")),
    "voc-animals-222": photos("labeled_222", 800, 0.375),
    "voc-animals-65": photos("labeled_65", 400, 0.5, every=True),
    "voc-animals-31": photos("labeled_31", 400, 0.5),
    "camvid-23": photos("labeled_23", 400, 0.5, scale="[0.5,1.0]"),
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
    # the recipe, with smaller crops and half of its steps
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
    # row 1 of U2PL+ Tab. 14: object parts that the map misses are not negatives
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
    own = {"semi": semi_options, "domain_adapt": adapt_options, "weak": weak_options}[study.app]
    variant = VARIANTS.get(method, Variant(method, ()))
    method = variant.method
    options = [*own(study, method, data), *variant.options]
    if variant.boxes:
        boxes = folder.parent / DETECTOR / BOXES
        options += ["--set", f"data.boxes={boxes}", "--set", f"data.box_threshold={SCORE}"]
    if weights is not None or (study.app != "semi" and "network.encoder=mit_b0" in options):
        options += ["--set", f"network.encoder_weights={weights or 'none'}"]
    method = "source_only" if method == UPPER_BOUND else method
    line = ["python", f"apps/{study.app}/cli.py", "train", method, "--seed", str(seed)]
    return [*line, *options, *study.device, *place(folder)]


def semi_options(study: Study, method: str, data: str | None) -> list[str]:
    """Options of a semi-supervised run; some methods have no warm start."""
    options = [option for option in study.options if not option.startswith("--warm=")]
    warm = [option[7:] for option in study.options if option.startswith("--warm=")]
    if method not in COLD:
        options += [part for value in warm for part in ("--set", f"method.warm_start={value}")]
    return options + (["--data", data] if data is not None else [])


def adapt_options(study: Study, method: str, data: str | None) -> list[str]:
    """Options of an adaptation; source_only has few of the other methods' options."""
    known = ("method.teacher",) if method in ("source_only", UPPER_BOUND) else ("method.",)
    options = without(
        study.options, lambda value: value.startswith("method.") and not value.startswith(known)
    )
    if data is not None:
        options += ["--source", data, "--target", data]
    if method == UPPER_BOUND and data is None:
        options += ["--source", "demo-target"]
    elif method == UPPER_BOUND:
        target_split = options[options.index("--target-split") + 1]
        options[options.index("--source-split") + 1] = target_split
    return options


def weak_options(study: Study, method: str, data: str | None) -> list[str]:
    """Options of a run on tags; only u2plplus has a host."""
    options = without(
        study.options, lambda value: value.startswith("method.host") and method != "u2plplus"
    )
    return options + (["--data", data, "--tags", f"{data}/tags.csv"] if data is not None else [])


def without(options: tuple[str, ...], dropped: Callable[[str], bool]) -> list[str]:
    """Options without each `--set` whose assignment is to be dropped."""
    pairs = pairwise(options)
    first = {i for i, (name, value) in enumerate(pairs) if name == "--set" and dropped(value)}
    return [option for i, option in enumerate(options) if i not in first and i - 1 not in first]


def place(folder: Path) -> list[str]:
    """The folder of a run; an interrupted run is resumed."""
    resume = ["--resume"] if (ROOT / folder / "resume.safetensors").exists() else []
    return ["--out", str(folder), *resume]


def run(line: list[str], quiet: bool = False) -> None:
    """Run a command on one thread; CalledProcessError if it fails."""
    subprocess.run(
        [sys.executable, *line],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL if quiet else None,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def score_maps(study: Study, folder: Path) -> dict[str, Any]:
    """Scores of the maps and labels that a run on tags learnt from, on some training images."""
    line = ["apps/weak/cli.py", "cams", str(folder), "--limit", "150", *study.device]
    run(line, quiet=True)
    file = next((ROOT / folder / "last").glob("cams-*.json"))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def score(study: Study, folder: Path, split: str) -> dict[str, Any]:
    """The result of a run on another list of the scored data."""
    line = [f"apps/{study.app}/cli.py", "evaluate", str(folder), "--split", split, *study.device]
    run(line, quiet=True)
    files = sorted((ROOT / folder / "last").glob("evaluation-*.json"))
    found: list[dict[str, Any]] = [json.loads(path.read_text()) for path in files]
    return next(each for each in found if each["split"] == split)


def curves(journal: Path) -> dict[str, list[Any]]:
    """Some lines of a journal: enough to see why a method gains or does not."""
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


def detector_commands(name: str, data: str | None, weights: str | None) -> list[list[str]]:
    """Training of a study's detector, its boxes, and how right they and confident pixels are."""
    study, folder = STUDIES[name], run_folder(name, "suponly", 0).parent / DETECTOR
    labeled = study.options[study.options.index("--labeled") + 1]
    line = ["python", "apps/semi/cli.py", "detector"]
    options = ["--data", data or "demo", "--labeled", labeled, "--steps", "1500"]
    options += ["--set", "data.crop=192", "--set", "data.workers=1"]
    if weights is not None:
        options += ["--set", f"network.encoder_weights={weights}"]
    pixels = ["--run", str(run_folder(name, "suponly", 0)), "--threshold", str(SCORE)]
    return [
        [*line, "train", *options, *study.device, *place(folder)],
        [*line, "predict", str(folder), "--out", str(folder / BOXES), *study.device],
        [*line, "evaluate", str(folder), *pixels, "--split", "train", "--limit", "400", "--cpu"],
    ]


def find_boxes(name: str, data: str | None, weights: str | None) -> None:
    """Train the study's detector, unless its boxes exist, and write its file of results."""
    folder = run_folder(name, "suponly", 0).parent / DETECTOR
    if (ROOT / folder / BOXES).exists():
        return
    train(name, "suponly", 0, data, weights)  # its confident pixels are compared
    lines = detector_commands(name, data, weights)
    for line in lines:
        print(" ".join(line), flush=True)
        run(line[1:])
    summary = json.loads((ROOT / folder / "summary.json").read_text())
    (file,) = (ROOT / folder).glob("precision-*-train.json")
    commands = [" ".join(part for part in line if part != "--resume") for line in lines]
    found = {"commands": commands, **summary, "train": json.loads(file.read_text())}
    text = without_places(json.dumps(found), data, weights)
    (ROOT / "results" / name / "detector.json").write_text(text + "\n")


def run_folder(name: str, method: str, seed: int) -> Path:
    """Where a run is written, relative to the repository."""
    return Path("runs") / "evidence" / name / f"{method}-{seed}"


def train(name: str, method: str, seed: int, data: str | None, weights: str | None) -> list[str]:
    """Train one run to its end, unless it has been, and return the command."""
    folder = run_folder(name, method, seed)
    line = command(STUDIES[name], method, seed, data, weights, folder)
    if (ROOT / folder / "summary.json").exists():
        return line
    if (ROOT / folder).exists() and not (ROOT / folder / "resume.safetensors").exists():
        shutil.rmtree(ROOT / folder)  # interrupted before its first checkpoint
    print(" ".join(line), flush=True)
    run(line[1:])
    return line


def measure(name: str, method: str, seed: int, data: str | None, weights: str | None) -> None:
    """Train one run to its end and write its file, unless the file exists."""
    study, result = STUDIES[name], ROOT / "results" / name / f"{method}-seed{seed}.json"
    if result.exists():
        print(f"{result.relative_to(ROOT)} exists")
        return
    if method in VARIANTS and VARIANTS[method].boxes:
        find_boxes(name, data, weights)
    folder = run_folder(name, method, seed)
    line = train(name, method, seed, data, weights)
    summary = json.loads((ROOT / folder / "summary.json").read_text())
    also = {split: score(study, folder, split) for split in study.splits}
    summary |= {"method": method} | ({"also": also} if also else {})
    summary |= {"maps": score_maps(study, folder)} if study.app == "weak" else {}
    whole = " ".join(part for part in line if part != "--resume")
    found = {"command": whole, **summary, "curves": curves(ROOT / folder / "journal.jsonl")}
    result.parent.mkdir(parents=True, exist_ok=True)
    text = without_places(json.dumps(found), data, weights)
    result.with_suffix(".part").write_text(text + "\n")
    result.with_suffix(".part").rename(result)
    (ROOT / folder / "resume.safetensors").unlink(missing_ok=True)


def without_places(text: str, *paths: str | None) -> str:
    """The text with each path shortened to its name: where data lie differs between machines."""
    for path in paths:
        if path is not None:
            text = text.replace(path, Path(path).name)
    return text


def main() -> None:
    """Run a study, or print its commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", help="data source of the study, unless it is built in")
    parser.add_argument("--weights", help="file of the pretrained encoder")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="only these methods")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="parallel runs, one thread each: for spare cores, or a GPU with free memory",
    )
    parser.add_argument("--print", action="store_true", help="print the commands, train nothing")
    args = parser.parse_args()
    runs = [
        (method, seed)
        for method, seed in STUDIES[args.study].runs
        if args.only is None or method in args.only
    ]
    if args.print:
        for method, seed in runs:
            folder = run_folder(args.study, method, seed)
            study = STUDIES[args.study]
            print(" ".join(command(study, method, seed, args.data, args.weights, folder)))
        return
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [
            pool.submit(measure, args.study, method, seed, args.data, args.weights)
            for method, seed in runs
        ]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
