"""What `u2pl-semi detector train`, `predict` and `evaluate` do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from rich.table import Table
from torch import nn
from torchvision.models.detection import FasterRCNN

from u2pl import distributed
from u2pl.cli.console import ConsoleReporter, option_table, standard_output
from u2pl.cli.keeping import keep_results
from u2pl.counting import Counting, silently
from u2pl.data.boxes import FoundBoxes, component_boxes, thing_classes, write_boxes
from u2pl.data.demo.scenes import DEMOS
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.data.splits import choose_labeled
from u2pl.data.streams import Stream
from u2pl.data.transforms import TrainTransform
from u2pl.errors import DiskError, LostError, UserError, out_of_memory
from u2pl.evaluate.inference import predict_probabilities
from u2pl.evaluate.scoring import load_example, read_scored
from u2pl.files import make_folder, write_json
from u2pl.methods.method import MethodConfig
from u2pl.mixing.masks import inside_boxes
from u2pl.model.model import choose_device, load
from u2pl.notation import COLOURS, IGNORE
from u2pl.run.presets import preset_name, recipe_path
from u2pl.run.recipe import begun_options, option_rows, resolve
from u2pl.run.request import default_of
from u2pl.run.resumption import Resumption, find_resumption, resume_command, typed
from u2pl.run.sections import flat_keys
from u2pl.run.train import Reporter, Silent, telling_how_to_go_on
from u2pl.training.claim import Numbered, claimed
from u2pl.training.config import DataConfig, TrainConfig
from u2pl.training.loading import peer_failures
from u2pl.training.loop import Interrupted, Job, Stopped, fit, local_batch, make_accelerator
from u2pl.training.provenance import versions
from u2pl.training.run_folder import (
    SUMMARY,
    check_same,
    forget_unbegun,
    latest_folder,
)
from u2pl.training.threads import choose_threads
from u2pl_semi.detector.network import (
    DetectorCard,
    DetectorConfig,
    build_detector,
    detect,
    is_replaced,
    load_detector,
    save_detector,
)
from u2pl_semi.detector.precision import Precision, class_precisions
from u2pl_semi.detector.training import BoxStream, DetectorTraining
from u2pl_semi.requests import BoxesRequest, DetectorShowRequest, PrecisionRequest, SemiRequest

PROGRAM = "u2pl-semi detector"
#: Shipped recipes of detectors.
RECIPES = Path(__file__).parent / "recipes"
#: Score from which boxes are used (Weighting-PL sec. 4.1, on VOC).
THRESHOLD = 0.85


class ObjectsConfig(BaseModel):
    """What counts as an object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    least: int = Field(
        32, ge=1, description="pixels of the smallest connected part of a mask that is an object"
    )


class DetectorSections(BaseModel):
    """Options of a detector's training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: DetectorConfig = Field(default_factory=lambda: DetectorConfig(), description="")
    data: DataConfig = Field(default_factory=lambda: DataConfig(), description="")
    train: TrainConfig = Field(default_factory=lambda: TrainConfig(), description="")
    objects: ObjectsConfig = Field(default_factory=lambda: ObjectsConfig(), description="")


class DetectorRun:
    """A request, its data opened and split; UserError for whatever cannot work.

    Args:
        request: what was asked for.
        begun: the run that goes on; None for a new one.
        counting: told how far opening the data is.
    """

    def __init__(
        self,
        request: SemiRequest,
        begun: Resumption | None = None,
        counting: Counting = silently,
    ) -> None:
        self.request, self.begun = request, begun
        if begun is not None:
            self.preset = begun.config["preset"]
            self.sections, _ = begun_options(
                begun.config, MethodConfig, request.set, DetectorSections
            )
        else:
            usual = "demo" if request.data.partition(":")[0] in DEMOS else "light"
            chosen = request.preset or usual
            extra = {} if request.steps is None else {"train": {"steps": request.steps}}
            path, self.preset = recipe_path(RECIPES, chosen), preset_name(chosen)
            found, _ = resolve(path, MethodConfig, request.set, extra, DetectorSections)
            self.sections = found
        self.source = open_source(request.data, counting)
        if self.source.channels != COLOURS:
            raise UserError(
                f"{request.data} has {self.source.channels} channels, and a detector sees photos: "
                "choose three bands"
            )
        self.split = choose_labeled(self.source, request.labeled, request.seed)
        self.things = thing_classes(self.source)

    @cached_property
    def total(self) -> int:
        """Steps; an epoch is a pass over the labelled images."""
        train = self.sections.train
        return train.steps or max(1, round(train.epochs * len(self.split.labeled) / train.batch))

    @cached_property
    def place(self) -> Path | Numbered:
        """Where the run is, or is to be."""
        place = Numbered(Path("runs"), f"{self.source.name}-detector")
        if self.request.out is not None:
            return self.request.out
        return latest_folder(*place, self.config()) if self.request.resume else place

    def config(self) -> dict[str, object]:
        """What config.json says: equal for equal runs."""
        return {
            "app": PROGRAM,
            "preset": self.preset,
            "data": self.request.data,
            "labeled": self.request.labeled,
            "data_fingerprint": self.source.fingerprint(),
            "split": self.split.protocol,
            "seed": self.request.seed,
            "steps": self.total,
            **({"cpu": True} if self.request.cpu else {}),
            "options": self.sections.model_dump(mode="json"),
        }

    def dataset(self) -> BoxStream:
        """The endless stream of crops with boxes."""
        data = self.sections.data
        cut = TrainTransform(data.crop, data.scale, data.flip, data.long_side)
        labeled = Stream(self.source, self.split.labeled, cut, self.request.seed, "labeled")
        return BoxStream(labeled, self.things, self.sections.objects.least)

    def card(self, scores: dict[str, JsonValue]) -> DetectorCard:
        """What is written beside the weights."""
        return DetectorCard(
            network=self.sections.network,
            classes=self.source.classes,
            things=self.things,
            source=self.request.data,
            labeled=self.request.labeled,
            data=f"{self.source.name} ({self.split.protocol}; fingerprint "
            f"{self.source.fingerprint()})",
            least=self.sections.objects.least,
            long_side=self.sections.data.long_side,
            scores=scores,
            versions=versions(),
        )


def begun_run(request: SemiRequest) -> Resumption | None:
    """The run whose folder was named; UserError if something else was, or it cannot go on."""
    usual = default_of(SemiRequest, "method")
    if not request.resume and request.method != usual:
        raise UserError(
            f"{request.method} is one word too many: detector train takes the folder of a run, "
            "with --resume"
        )
    return find_resumption(PROGRAM, request, [usual])


def show(request: DetectorShowRequest) -> None:
    """Print every option."""
    path = recipe_path(RECIPES, request.preset)
    sections, _ = resolve(path, MethodConfig, request.set or [], None, DetectorSections)
    rows = option_rows(sections.model_dump(mode="json"), flat_keys(DetectorSections))
    standard_output().print(option_table(rows))


@peer_failures()
def train(request: SemiRequest) -> int:
    """Train a detector on the labelled images, and print its precision; returns the exit code."""
    console = standard_output()
    begun = begun_run(request)
    if begun is not None and begun.finished:
        return _finished(begun.folder)
    if begun is not None:
        assert isinstance(begun.request, SemiRequest)
        request = begun.request
    run = DetectorRun(request, begun, ConsoleReporter(console).counting)
    train_config = run.sections.train
    accelerator = make_accelerator(request.cpu, train_config.precision)
    main = accelerator.is_main_process
    reporter = ConsoleReporter(console) if main else Silent()
    choose_threads()
    if local_batch(train_config.batch) == 1 and run.sections.data.crop <= 32:
        # BatchNorm would see one pixel of the encoder's last map
        raise UserError(
            "1 image per process is too few at a crop of 32 pixels: raise train.batch or data.crop"
        )
    torch.manual_seed(request.seed)
    method = DetectorTraining(build_detector(run.sections.network, len(run.things)), run.things)
    scored = masked(run.source, "val") if "val" in run.source.splits() else []
    if scored:
        with reporter.counting("reading the masks to score on") as progress:
            read_scored(run.source, scored, progress)
    config, place = run.config(), run.place
    going_on = request.resume and isinstance(place, Path)
    if isinstance(place, Path) and going_on:
        check_same(place, config if begun is None else begun.as_begun(config))
        if (place / SUMMARY).is_file():
            return _finished(place)
    distributed.barrier()  # every process has read the folders before the first one makes one
    with claimed(place, None if going_on else config) as (folder, note):
        names = ", ".join(run.source.classes[c] for c in run.things)
        reporter.say(
            f"{run.source.name} ({run.split.protocol}): {len(run.split.labeled)} labelled images, "
            f"objects: {names}"
        )
        reporter.say(
            f"detector with preset {run.preset}: {run.total} steps, batch {train_config.batch}, "
            f"seed {request.seed}, on {accelerator.device}"
        )
        reporter.say(f"writing to {folder}")
        if note:
            reporter.say(f"note: {note}")
        return _carry_out(run, method, scored, folder, accelerator, reporter)


def _finished(folder: Path) -> int:
    """Say that a run has nothing left to do."""
    ConsoleReporter(standard_output()).say(f"{folder} is finished: there is nothing to go on with")
    return 0


def _carry_out(
    run: DetectorRun,
    method: DetectorTraining,
    scored: Sequence[str],
    folder: Path,
    accelerator: Accelerator,
    reporter: Reporter,
) -> int:
    """Train in a folder that is claimed, and print the precision; returns the exit code."""
    request, main, console = run.request, accelerator.is_main_process, standard_output()

    def keep(kind: str, network: nn.Module, facts: dict[str, JsonValue]) -> None:
        save_detector(folder / kind, network, run.card({"step": facts["step"]}))

    job = Job(
        method=method,
        dataset=run.dataset(),
        train=run.sections.train,
        data=run.sections.data,
        total=run.total,
        seed=request.seed,
        evaluate=None,
        keep=keep,
    )
    command = resume_command(PROGRAM, folder)
    try:
        with telling_how_to_go_on(command, folder), reporter.training() as progress:
            history = fit(job, folder, accelerator, progress, request.resume)
    except (Stopped, Interrupted) as cut:
        if main:
            reporter.say(str(cut))
        return 128 + cut.signal if isinstance(cut, Stopped) else 130
    except (DiskError, LostError):
        raise
    except (UserError, RuntimeError, MemoryError) as error:
        began_in_vain = isinstance(error, UserError) or out_of_memory(error)
        if began_in_vain and main and not request.resume:
            forget_unbegun(folder)
        raise
    if main:
        scores = {}
        if scored:
            network, card = method.student.eval(), run.card({})
            with reporter.counting("finding boxes") as count:
                found = find_boxes(network, card, run.source, scored, count)
            scores = precisions(found, card, run.source, scored, THRESHOLD)
            console.print(precision_table(scores, run.source, len(scored)))
        summary = {
            **run.config(),
            "seconds": history.seconds,
            "ap50": mean_ap50(scores) if scores else None,
            "classes": {run.source.classes[c]: each._asdict() for c, each in scores.items()},
            "versions": versions(),
        }
        write_json(folder / SUMMARY, summary)
        following = [*typed(PROGRAM), "predict", str(folder)]
        reporter.say(f"next: {shlex.join(following)}")
    distributed.barrier()
    return 0


def predict(request: BoxesRequest) -> None:
    """Find boxes in all images and write them into a file."""
    console = standard_output()
    choose_threads()
    counting = ConsoleReporter(console).counting
    network, card, source = opened(request.detector, request.data, request.cpu, counting)
    splits = [request.split] if request.split else [source.train_split]
    ids = sorted({id for name in splits for id in source.split(name)})
    out = request.out or request.detector / f"boxes-{source.fingerprint()}.json"
    make_folder(out.parent)
    with counting("finding boxes") as count:
        found = find_boxes(network, card, source, ids, count)
    kept = {id: boxes[boxes[:, 5] >= request.threshold] for id, boxes in found.items()}
    write_boxes(out, FoundBoxes(source.fingerprint(), source.classes, kept, request.threshold))
    number, some = sum(map(len, kept.values())), sum(len(boxes) > 0 for boxes in kept.values())
    say = ConsoleReporter(console).say
    say(
        f"{number} boxes of a score of {request.threshold:g} or more in {some} of {len(ids)} images"
    )
    used = sum(int((boxes[:, 5] >= THRESHOLD).sum()) for boxes in kept.values())
    say(f"{used} of them of {THRESHOLD:g} or more, from where train uses them (data.box_threshold)")
    say(f"written to {out}")
    words = [*typed("u2pl-semi"), "train", "fixmatch", "--data", request.data or card.source]
    words += ["--labeled", card.labeled] if card.labeled else []
    words += ["--set", "method.pixel_weight.kind=rank_statistics", "--set", f"data.boxes={out}"]
    say(f"next: {shlex.join(words)}")


def evaluate(request: PrecisionRequest) -> None:
    """Print the precision of each class and, with a run, how right confident pixels are."""
    console = standard_output()
    choose_threads()
    counting = ConsoleReporter(console).counting
    network, card, source = opened(request.detector, request.data, request.cpu, counting)
    ids = masked(source, request.split)
    if not ids:
        advice = source.where_masks_lack("there is nothing to score with")
        raise UserError(f"{source.name}: no image of {request.split} has a mask: {advice}")
    if request.limit:
        ids = [
            ids[int(place)] for place in np.linspace(0, len(ids) - 1, min(request.limit, len(ids)))
        ]
    with counting("finding boxes") as count:
        found = find_boxes(network, card, source, ids, count)
    scores = precisions(found, card, source, ids, request.threshold)
    console.print(precision_table(scores, source, len(ids), request.threshold))
    result: dict[str, Any] = {
        "data": source.name,
        "fingerprint": source.fingerprint(),
        "split": request.split,
        "images": len(ids),
        "threshold": request.threshold,
        "ap50": mean_ap50(scores),
        "classes": {source.classes[c]: each._asdict() for c, each in scores.items()},
    }
    if request.run is not None:
        with counting("labelling pixels") as count:
            shares = agreement(request, found, card, source, ids, count)
        console.print(agreement_table(shares, source, request.confidence))
        result["confidence"] = request.confidence
        result["pixels"] = {source.classes[c]: each for c, each in shares.items()}
    words = f"precision {source.name} {request.split} {len(ids)} images {source.fingerprint()}"
    replaced = is_replaced(request.detector, card)
    keep_results(request.detector, {words: result}, console, replaced)


def opened(
    path: Path, data: str | None, cpu: bool, counting: Counting
) -> tuple[FasterRCNN, DetectorCard, Source]:
    """A detector on its device, its card, and the data; UserError if their classes differ."""
    network, card = load_detector(path)
    source = open_source(data or card.source, counting)
    if source.classes != card.classes:
        raise UserError(
            f"{path} was trained on other classes than {source.name} has: give the data that it "
            "was trained on"
        )
    return network.to(choose_device(cpu)), card, source


def masked(source: Source, split: str) -> list[str]:
    """The images of a split that have masks."""
    return [id for id in source.split(split) if source.has_mask(id)]


def find_boxes(
    network: FasterRCNN, card: DetectorCard, source: Source, ids: Sequence[str], count: Any
) -> dict[str, np.ndarray]:
    """The boxes of each image, float [N, 6]."""
    found = {}
    for done, id in enumerate(ids, 1):
        image = torch.from_numpy(np.array(source.image(id)).transpose(2, 0, 1).copy())
        found[id] = detect(network, card, image).double().numpy()
        count(done, len(ids))
    return found


def precisions(
    found: dict[str, np.ndarray],
    card: DetectorCard,
    source: Source,
    ids: Sequence[str],
    threshold: float,
) -> dict[int, Precision]:
    """Precision of the boxes against those around the parts of the masks."""
    true = [component_boxes(source.mask(id), card.things, card.least) for id in ids]
    return class_precisions([found[id] for id in ids], true, card.things, threshold)


def mean_ap50(scores: dict[int, Precision]) -> float:
    """Mean AP50 of the classes that occur; NaN without one."""
    return _mean(np.array([each.ap50 for each in scores.values()]))


def precision_table(
    scores: dict[int, Precision], source: Source, images: int, threshold: float = THRESHOLD
) -> Table:
    """Precision of each class and their mean."""
    table = Table(
        "class", "objects", "AP50", f"boxes >= {threshold:g}", "right (IoU >= 0.8) %", box=None,
        title=f"{source.name}: boxes of {images} images", title_justify="left",
    )  # fmt: skip
    for c, each in scores.items():
        table.add_row(
            source.classes[c], str(each.true), _number(each.ap50), str(each.found),
            _number(each.right),
        )  # fmt: skip
    table.add_row("mean", "", _number(mean_ap50(scores)), "", "")
    return table


def agreement(
    request: PrecisionRequest,
    found: dict[str, np.ndarray],
    card: DetectorCard,
    source: Source,
    ids: Sequence[str],
    count: Any,
) -> dict[int, dict[str, float]]:
    """How right a network's confident pixels are, by predicted class (Weighting-PL supp. Tab. 1).

    All of them, those inside a box of their class, and the others.
    """
    assert request.run is not None
    device = choose_device(request.cpu)
    model = load(request.run, device)
    if model.classes != source.classes:
        raise UserError(
            f"{request.run} was trained on other classes than {source.name} has: give another --run"
        )
    network = model.network.eval()
    hits, sums = np.zeros((3, len(source.classes))), np.zeros((3, len(source.classes)))
    for done, id in enumerate(ids, 1):
        image, label = load_example(source, id)
        prob = predict_probabilities(network, image.to(device), model.protocol())
        top, predicted = prob.cpu().max(dim=0)
        boxes = found[id][found[id][:, 5] >= request.threshold][:, :5]
        inside = inside_boxes(torch.from_numpy(boxes).round().long()[None], predicted[None])[0]
        sure = (top > request.confidence) & (label != IGNORE)
        for group, where in enumerate((sure, sure & inside, sure & ~inside)):
            right = where & (predicted == label)
            sums[group] += np.bincount(predicted[where], minlength=len(source.classes))
            hits[group] += np.bincount(predicted[right], minlength=len(source.classes))
        count(done, len(ids))
    names = ("all", "in_boxes", "outside")
    return {
        c: {
            name: 100 * hits[group, c] / sums[group, c] if sums[group, c] else float("nan")
            for group, name in enumerate(names)
        }
        | {"in_boxes_share": 100 * sums[1, c] / sums[0, c] if sums[0, c] else float("nan")}
        for c in card.things
    }


def agreement_table(
    shares: dict[int, dict[str, float]], source: Source, confidence: float
) -> Table:
    """Accuracies of confident pixels by class."""
    table = Table(
        "class", "all %", "in a box of the class %", "outside %", "share in a box %", box=None,
        title=f"right among pixels of a probability above {confidence:g}", title_justify="left",
    )  # fmt: skip
    for c, each in shares.items():
        table.add_row(source.classes[c], *(_number(value) for value in each.values()))
    columns = np.array([list(each.values()) for each in shares.values()]).T
    table.add_row("mean", *(_number(_mean(column)) for column in columns))
    return table


def _mean(values: np.ndarray) -> float:
    """Of the values that are known; NaN without one."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"
