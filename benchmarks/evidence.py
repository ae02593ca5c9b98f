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
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from u2pl.errors import UserError
from u2pl.run.app import find_app
from u2pl.run.run import Run
from u2pl.run.sweep.execution import Failure, Interrupted, execute, state_of
from u2pl.run.sweep.plan import Planned, Sweep, plan

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
    set: tuple[str, ...] = ()
    boxes: bool = False  # with those of the study's detector


#: Pseudo-labels weighted by rank statistics.
WEIGHTED = ("method.pixel_weight.kind=rank_statistics",)
#: The folder of a study's detector beside its runs, and its file of boxes; the score from which
#: they are used. So small a detector gives few boxes the papers' 0.85.
DETECTOR, BOXES, SCORE = "detector", "boxes.json", 0.5
#: The methods whose weights are measured.
HOSTS = ("unimatch", "augseg", "u2pl")

#: The two options for few labels, and the contrast switched off.
VIEW, NO_VIEW = (f"method.strong_view.kind={kind}" for kind in ("photometric", "none"))
WEIGHT, NO_WEIGHT = (f"method.unsupervised.confidence={value}" for value in ("0.968", "0"))
NO_CONTRAST = "method.lambda_c=0"

#: Runs that are not a method as its preset has it; any other name is a method's.
VARIANTS = {
    # with and without the two options for few labels, whatever the preset says
    "u2plplus-paper": Variant("u2plplus", (NO_VIEW, NO_WEIGHT)),
    "u2plplus-both": Variant("u2plplus", (VIEW, WEIGHT)),
    "u2plplus-strong-view": Variant("u2plplus", (VIEW, NO_WEIGHT)),
    "u2plplus-careful": Variant("u2plplus", (NO_VIEW, WEIGHT)),
    "cutmix-paper": Variant("cutmix", (NO_VIEW,)),
    "u2plplus-no-contrast": Variant("u2plplus", (NO_CONTRAST,)),
    "u2plplus-heavy-contrast": Variant("u2plplus", ("method.lambda_c=1",)),
    "u2plplus-both-no-contrast": Variant("u2plplus", (VIEW, WEIGHT, NO_CONTRAST)),
    # a feature's label from the corner of its 4 x 4 pixels
    "u2plplus-both-corner": Variant("u2plplus", (VIEW, WEIGHT, "method.contrast.pixel=released")),
    # the control: only labelled pixels that are classified right become negative keys
    "u2plplus-correct-labeled": Variant("u2plplus", ("method.contrast.bank=correct_labeled",)),
    # pseudo-labels weighted, by prototypes without and with pixels inside boxes
    **{f"{host}-weighted": Variant(host, WEIGHTED) for host in HOSTS},
    **{f"{host}-boxes": Variant(host, WEIGHTED, boxes=True) for host in HOSTS},
    # the released code's teacher, which at first follows the student closely
    "u2plplus-ramp": Variant("u2plplus", ("method.teacher.ramp=true",)),
}
#: Between domains: with a few masks of the target, too.
FEW, SOME_MASKS = "-few", "8"


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
OTHERS = (
    *("fixmatch", "unimatch", "unimatch_v2", "augseg", "ael", "esl", "cps"),
    *("u2pl", "mean_teacher", "cutmix"),
)


def photos(
    labeled: str,
    steps: int,
    warm_start: float,
    scale: str = "[0.4,1.0]",
    others: tuple[str, ...] = (),
    every: bool = False,
) -> Study:
    """128-pixel crops, 4 + 4 images, the pretrained EfficientNet-Lite0.

    With `others`, these methods too; with `every`, all of them and weights of their pseudo-labels.
    """
    options = [
        "--preset", "light", "--labeled", labeled, "--steps", str(steps),
        "--set", "data.crop=128", "--set", f"data.scale={scale}", "--set", "data.workers=1",
        "--set", "train.batch=4", "--set", "train.reference_batch=4", "--set", "train.lr=3e-4",
        "--set", "train.head_lr_factor=5", "--set", "train.evaluations=1",
    ]  # fmt: skip
    runs = [seeds(3, *ON_PHOTOS), seeds(3, *others)]
    if every:
        variants = (f"{host}-{kind}" for kind in ("weighted", "boxes") for host in HOSTS)
        runs += [
            seeds(3, *OTHERS, "u2plplus-correct-labeled"),
            seeds(3, *variants),
            seeds(3, "u2plplus-both-no-contrast"),
        ]
    return Study((*options, "--set", f"method.warm_start={warm_start}"), tuple(chain(*runs)))


DEMO = ("--preset", "demo", "--data", "demo")


def adapted(count: int, few: bool = False) -> tuple[tuple[str, int], ...]:
    """The methods of domain adaptation, and training on the target's labels for comparison.

    With `few`, all of them with some masks of the target, too.
    """
    methods = ("source_only", "daformer", "u2plplus")
    some = tuple(f"{method}{FEW}" for method in methods) if few else ()
    return seeds(count, *methods, UPPER_BOUND) + seeds(count, *some)


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
    # more labels and steps: whether the order of the methods stays
    "voc-animals-222": photos("labeled_222", 800, 0.375, others=("u2pl", "unimatch")),
    "voc-animals-65": photos("labeled_65", 400, 0.5, every=True),
    "voc-animals-31": photos("labeled_31", 400, 0.5),
    "camvid-23": photos("labeled_23", 400, 0.5, scale="[0.5,1.0]"),
    "adapt-demo": Study(("--preset", "demo"), adapted(1), "domain_adapt"),
    "camvid-dusk": Study(
        brief_camvid(*THINGS), adapted(3, few=True), "domain_adapt", ("test_day",)
    ),
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


def planned(name: str, data: str | None, weights: str | None) -> dict[tuple[str, int], Planned]:
    """The runs of a study by variant and seed, in the order of execution.

    Args:
        name: of the study.
        data: its data source, unless it is built in.
        weights: file of the pretrained encoder.
    """
    study, folder = STUDIES[name], run_folder(name)
    common = options_of(study.options)
    if data is not None:
        names = ("source", "target") if study.app == "domain_adapt" else ("data",)
        common |= dict.fromkeys(names, data)
    if data is not None and study.app == "weak":
        common["tags"] = f"{data}/tags.csv"
    if weights is not None or (study.app != "semi" and "network.encoder=mit_b0" in common["set"]):
        common["set"] = [*common["set"], f"network.encoder_weights={weights or 'none'}"]
    common["cpu"] = not study.gpu
    variants = {variant: own_options(variant, common, folder) for variant, _ in study.runs}
    seeds = tuple(dict.fromkeys(seed for _, seed in study.runs))
    runs = plan(find_app(study.app), Sweep(common, variants, seeds, folder))
    found = {(each.variant, each.request.seed): each for each in runs}
    return {each: found[each] for each in study.runs}


def own_options(name: str, common: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a variant has of its own, the folder being that of the study's runs."""
    if name == UPPER_BOUND:  # the target's list of the same data; of the demo, the other scene
        split = common.get("target_split")
        own = {"source_split": split} if split else {"source": "demo-target"}
        return {"method": "source_only", **own}
    if name.endswith(FEW):
        return {"method": name.removesuffix(FEW), "target_labeled": SOME_MASKS}
    variant = VARIANTS.get(name, Variant(name))
    boxes = [f"data.boxes={folder / DETECTOR / BOXES}", f"data.box_threshold={SCORE}"]
    return {"method": variant.method, "set": [*variant.set, *(boxes if variant.boxes else [])]}


def options_of(words: Iterable[str]) -> dict[str, Any]:
    """Options by name, from what would be typed."""
    found: dict[str, Any] = {"set": []}
    given = iter(words)
    for flag in given:
        name, value = flag.removeprefix("--").replace("-", "_"), next(given)
        if name == "set":
            found["set"].append(value)
        else:
            found[name] = int(value) if name == "steps" else value
    return found


def command(study: Study, planned: Planned) -> str:
    """What to type for a run, without installing anything."""
    return " ".join(["python", f"apps/{study.app}/cli.py", *planned.words(resume=False)])


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
    file = next((folder / "last").glob("cams-*.json"))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def score(study: Study, folder: Path, split: str) -> dict[str, Any]:
    """The result of a run on another list of the scored data."""
    line = [f"apps/{study.app}/cli.py", "evaluate", str(folder), "--split", split, *study.device]
    run(line, quiet=True)
    files = sorted((folder / "last").glob("evaluation-*.json"))
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
    study, folder = STUDIES[name], run_folder(name) / DETECTOR
    labeled = options_of(study.options)["labeled"]
    line = ["python", "apps/semi/cli.py", "detector"]
    options = ["--data", data or "demo", "--labeled", labeled, "--steps", "1500"]
    options += ["--set", "data.crop=192", "--set", "data.workers=1"]
    if weights is not None:
        options += ["--set", f"network.encoder_weights={weights}"]
    pixels = ["--run", str(run_folder(name) / "suponly-seed0"), "--threshold", str(SCORE)]
    resume = ["--resume"] if (folder / "resume.safetensors").exists() else []
    return [
        [*line, "train", *options, *study.device, "--out", str(folder), *resume],
        [*line, "predict", str(folder), "--out", str(folder / BOXES), *study.device],
        [*line, "evaluate", str(folder), *pixels, "--split", "train", "--limit", "400", "--cpu"],
    ]


def find_boxes(name: str, data: str | None, weights: str | None) -> None:
    """Train the study's detector, unless its boxes exist, and write its file of results."""
    folder, result = run_folder(name) / DETECTOR, Path("results") / name / "detector.json"
    if (folder / BOXES).exists() and result.exists():
        return
    # its confident pixels are compared
    suponly = planned(name, data, weights)["suponly", 0]
    if train(STUDIES[name], [suponly], 1, lambda _: None):
        sys.exit(f"{suponly.name} failed, and the boxes are compared with it")
    lines = detector_commands(name, data, weights)
    for line in lines[2:] if (folder / BOXES).exists() else lines:
        print(" ".join(line), flush=True)
        run(line[1:])
    summary = json.loads((folder / "summary.json").read_text())
    (file,) = folder.glob("precision-*-train*.json")
    commands = [" ".join(part for part in line if part != "--resume") for line in lines]
    found = {"commands": commands, **summary, "train": json.loads(file.read_text())}
    text = without_places(json.dumps(found), data, weights)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(text + "\n")


def run_folder(name: str) -> Path:
    """Where the runs of a study are written, relative to the repository."""
    return Path("runs") / "evidence" / name


def result_file(name: str, planned: Planned) -> Path:
    """What is kept of a run, relative to the repository."""
    return Path("results") / name / f"{planned.name}.json"


def train(
    study: Study, runs: Iterable[Planned], jobs: int, done: Callable[[Planned], None]
) -> list[Failure]:
    """Train runs to their end, unless they have been; `done` is called for each of them."""
    app = find_app(study.app)
    states = [(each, state_of(app, each)) for each in runs]
    for each, state in states:
        if state == "finished":
            done(each)
    return execute(app, states, jobs, lambda line: print(line, flush=True), done)


def write_result(name: str, planned: Planned, data: str | None, weights: str | None) -> None:
    """Write the file of a finished run."""
    study, folder, result = STUDIES[name], planned.folder, result_file(name, planned)
    also = {split: score(study, folder, split) for split in study.splits}
    summary = Run(folder).summary | {"method": planned.variant} | ({"also": also} if also else {})
    summary |= {"maps": score_maps(study, folder)} if study.app == "weak" else {}
    found = {
        "command": command(study, planned),
        **summary,
        "curves": curves(folder / "journal.jsonl"),
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    text = without_places(json.dumps(found), data, weights)
    result.with_suffix(".part").write_text(text + "\n")
    result.with_suffix(".part").rename(result)
    (folder / "resume.safetensors").unlink(missing_ok=True)


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
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        sys.exit(measure(args))
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interrupted as stopped:
        sys.exit(stopped.code)


def measure(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit code."""
    name, study, given = args.study, STUDIES[args.study], (args.data, args.weights)
    runs = [
        each
        for each in planned(name, *given).values()
        if args.only is None or each.variant in args.only
    ]
    if args.print:
        print("\n".join(command(study, each) for each in runs))
        return 0
    missing = [each for each in runs if not result_file(name, each).exists()]
    print(f"{len(runs) - len(missing)} of {len(runs)} results exist", flush=True)
    failures: list[Failure] = []
    for boxes, group in groupby(missing, key=lambda each: has_boxes(each.variant)):
        if boxes:
            find_boxes(name, *given)
        failures += train(study, group, args.jobs, lambda each: write_result(name, each, *given))
    for failure in failures:
        print(f"{failure.name} failed: {failure.reason}")
    return 1 if failures else 0


def has_boxes(name: str) -> bool:
    """Whether a variant needs the boxes of the study's detector."""
    return name in VARIANTS and VARIANTS[name].boxes


if __name__ == "__main__":
    main()
