from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.toy.app import APP, ToyRequest
from harness.browser import look
from u2pl.cli.commands import doubt_words, gain_words
from u2pl.counting import Counting, OnProgress
from u2pl.data.opening import open_source
from u2pl.data.source import Source
from u2pl.errors import UserError
from u2pl.evaluate.counts import COUNTS, Counts, load_counts, save_counts
from u2pl.evaluate.statistics import FEW, bootstrap_interval
from u2pl.run.moments import MOMENTS, read_moments
from u2pl.run.report import images
from u2pl.run.report.finding import Finding
from u2pl.run.report.images import choice_words
from u2pl.run.report.page import REPORT, write_report
from u2pl.run.run import Run
from u2pl.run.train import train
from u2pl.training.config import TrainConfig

CPU = torch.device("cpu")
#: Images that are trained on and scored: no fewer than a score needs to be trusted.
IMAGES = FEW + 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four steps with two evaluations on the demo."""
    out = tmp_path_factory.mktemp("runs") / "run"
    request = ToyRequest.of(
        method="plain", preset="light", most_images=IMAGES, out=out, cpu=True, steps=4,
        set=["train.evaluations=2", "train.log_every=1"],
    )  # fmt: skip
    return train(APP, request)


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy to change; its model is what costs time."""
    return Run(Path(shutil.copytree(trained.folder, tmp_path / "runs" / "one")))


def as_method(run: Run, name: str, folder: str = "") -> Run:
    """The run as if another method had made it, in a folder beside if one is named."""
    if folder:
        run = Run(Path(shutil.copytree(run.folder, run.folder.parent / folder)))
    for file, key in (("config.json", "method_name"), ("summary.json", "method")):
        change(run.folder / file, key, name)
    return run


def change(path: Path, key: str, value: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.text, self.tags, self.ids = "", set(), []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        if tag == "img":
            self.images.append(found)
        if "id" in found:
            self.ids.append(found["id"])

    def handle_data(self, data: str) -> None:
        self.text += data


def page(run: Run) -> Page:
    return Page(write_report(APP, run.folder, CPU).read_text(encoding="utf-8"))


def test_training_ends_with_a_report_that_needs_no_other_file(trained: Run) -> None:
    path = trained.folder / REPORT
    html = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 5e6
    assert not re.search(r"https?://|src=\"(?!data:)|url\(|@import", html)
    found = Page(html)
    assert "script" not in found.tags and "link" not in found.tags
    assert len(set(found.ids)) == len(found.ids)
    assert {"scores", "curves", "confusions", "images", "moments", "run"} <= set(found.ids)
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in found.images)


def test_opening_the_data_again_is_counted(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file of annotations takes minutes."""
    said = []

    @contextmanager
    def counting(what: str) -> Iterator[OnProgress]:
        said.append(what)
        yield lambda done, total: None

    def opened(text: str, counting: Counting) -> Source:
        with counting("reading annotations"):
            return open_source(text, counting)

    monkeypatch.setattr(images, "open_source", opened)
    write_report(APP, trained.folder, CPU, counting)
    assert said == ["reading annotations", "drawing the report"]


def test_it_says_score_interval_and_how_to_make_it_again(trained: Run) -> None:
    found, score = page(trained), trained.scores["student"]
    assert f"{score.miou:.2f}" in found.text
    counts = load_counts(trained.folder / COUNTS).networks["student"]
    assert counts.score() == score
    low, high = bootstrap_interval(counts.images)
    assert f"{low:.1f} to {high:.1f}" in found.text
    assert f"u2pl-toy train plain --preset light --most-images {IMAGES}" in found.text
    meaning = TrainConfig.model_fields["batch"].description
    assert meaning is not None and meaning in found.text
    for name in trained.summary["classes"]:
        assert name in found.text


def test_the_terminal_says_when_few_images_were_scored(run: Run) -> None:
    assert run.summary["scored"] == IMAGES and doubt_words(run) == ""
    change(run.folder / "summary.json", "scored", 4)
    low, high = run.summary["miou_interval"]
    expected = f"only 4 images are scored: 95 % interval {low:.1f} to {high:.1f};"
    assert doubt_words(Run(run.folder)).startswith(expected)
    change(run.folder / "summary.json", "scored", 1)
    change(run.folder / "summary.json", "miou_interval", None)
    expected = "only one image is scored: its mIoU says nothing about others"
    assert doubt_words(Run(run.folder)).startswith(expected)


def test_a_single_scored_image_has_no_interval(run: Run) -> None:
    held = load_counts(run.folder / COUNTS)
    one = {n: Counts(c.confusion, c.images[:1].clone()) for n, c in held.networks.items()}
    save_counts(run.folder / COUNTS, held.ids[:1], one)
    text = page(run).text
    assert "95 % interval" not in text
    assert "Only one image is scored, so there is no interval" in text


def test_the_terminal_says_what_the_method_adds(run: Run) -> None:
    assert gain_words(APP, run) == ""  # the baseline itself
    method = Run(as_method(run, "other").folder)  # what was read before is kept
    assert "is not known; train plain too" in gain_words(APP, method)
    as_method(method, "plain", "two")
    better = max(score.miou for score in method.scores.values())
    gain = method.summary["miou_last"] - better
    words = gain_words(APP, method)
    assert words.startswith(f"{gain:+.2f} mIoU over plain, by its better network (")
    # the networks are those of the baseline itself
    assert words.endswith("; like with like, as compare counts: student +0.00, ema +0.00")
    found = as_method(method, "other")
    assert words.partition("; like")[2] in page(found).text


@pytest.mark.parametrize(("shown", "said"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_class_that_resamples_of_few_images_miss_is_named(
    run: Run, shown: int, said: bool
) -> None:
    """Of 4 images: 0.75^4, 0.5^4, 0.25^4 and 0 of the resamples lack it."""
    held = load_counts(run.folder / COUNTS)
    images = held.networks["student"].images[:4].clone()
    images[:, 1] = images[:, 1].clamp(min=1)
    images[shown:, 1, 2] = 0
    four = {name: Counts(each.confusion, images) for name, each in held.networks.items()}
    save_counts(run.folder / COUNTS, held.ids[:4], four)
    name = run.summary["classes"][2]
    assert (f"Few of the scored images show {name}:" in page(run).text) == said


def test_the_gallery_begins_with_the_worst_images(trained: Run) -> None:
    mious = [float(value) for value in re.findall(r": mIoU ([\d.]+)", page(trained).text)]
    assert mious == sorted(mious) and len(mious) == 12
    counts = load_counts(trained.folder / COUNTS).networks["student"]
    known = [value for value in counts.image_mious() if value is not None]
    assert mious[0] == round(min(known), 1)
    assert choice_words(12, len(known)) in page(trained).text
    assert choice_words(2, 2) == "All scored images, worst first."


def test_a_baseline_beside_it_gives_the_gain(run: Run) -> None:
    method = as_method(run, "other")
    assert "nothing tells whether the method helped" in page(method).text
    base = as_method(method, "plain", "two")
    scores = base.summary["networks"]
    for score, value in zip(scores.values(), (12.5, 9.0), strict=True):
        score["miou"] = value
    change(base.folder / "summary.json", "networks", scores)
    found = page(method)
    gain = method.summary["miou_last"] - 12.5  # over the better one of its networks
    assert f"{gain:+.2f}" in found.text and "over plain" in found.text
    assert "nothing tells" not in found.text


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 7), ("steps", 9), ("data_fingerprint", "0"), ("split", "another")],
)
def test_what_differs_in_more_than_the_method_is_no_baseline(
    run: Run, key: str, value: object
) -> None:
    method = as_method(run, "other")
    base = as_method(method, "plain", "two")
    change(base.folder / "config.json", key, value)
    assert Finding(APP, method.folder, CPU).baseline is None
    # a damaged neighbour is passed over
    (base.folder / "config.json").write_text("{")
    assert Finding(APP, method.folder, CPU).baseline is None


def test_a_run_that_goes_on_can_be_looked_at(run: Run) -> None:
    (run.folder / "summary.json").unlink()
    lines = (run.folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "journal.jsonl").write_text("".join(lines[:3]) + lines[3][:9])
    found = page(run)
    assert "has not finished" in found.text and "2 of 4" in found.text  # the last line is torn
    # nothing has been scored yet
    for name in ("last", "best", MOMENTS):
        shutil.rmtree(run.folder / name)
    (run.folder / COUNTS).unlink()
    (run.folder / "journal.jsonl").write_text("")
    assert "0 of 4" in page(run).text


def test_a_journal_that_is_damaged_is_said_and_the_rest_of_it_drawn(run: Run) -> None:
    lines = (run.folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "journal.jsonl").write_text("".join([lines[0], "5\n", *lines[1:]]))
    found = page(run)
    assert "journal.jsonl: line 2 cannot be read (it is none of a journal)" in found.text
    assert "4 of 4" in found.text


def test_data_that_moved_leave_out_the_pictures_alone(run: Run) -> None:
    change(run.folder / "last" / "config.json", "source", str(run.folder / "gone"))
    found = page(run)
    assert "No images are shown" in found.text and "Confusions" in found.text


def test_names_of_classes_cannot_break_out(run: Run) -> None:
    hostile = '<img src=x onerror="alert(1)">'
    card = json.loads((run.folder / "last" / "config.json").read_text())
    card["classes"][1] = hostile
    (run.folder / "last" / "config.json").write_text(json.dumps(card))
    change(run.folder / "config.json", "command", "</code><script>alert(1)</script>")
    found = page(run)
    assert "script" not in found.tags
    assert all(image["src"] != "x" for image in found.images)
    assert hostile in found.text


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", None, "holds no run"),
        ("config.json", "[", "config.json cannot be read"),
        ("config.json", '{"app": "u2pl-other"}', "is a run of u2pl-other, not of u2pl-toy"),
        ("config.json", '{"app": "u2pl-toy"}', "does not say method_name, preset, split"),
        ("config.json", '{"app": 5}', "is not the config of a run: app is 5"),
        ("summary.json", "{", "summary.json cannot be read"),
        (COUNTS, "x", "cannot be read as pixel counts"),
        (f"{MOMENTS}/0000004.safetensors", "x", "only for the report"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    run: Run, file: str, content: str | None, says: str
) -> None:
    before = (run.folder / REPORT).read_bytes()
    if content is None:
        (run.folder / file).unlink()
    else:
        (run.folder / file).write_text(content)
    with pytest.raises(UserError, match=says):
        write_report(APP, run.folder, CPU)
    assert (run.folder / REPORT).read_bytes() == before


@pytest.mark.parametrize(
    ("facts", "tensors", "says"),
    [
        ({"images": "[]"}, {}, "it holds no images"),
        ({"images": "[" * 100_000}, {}, "nested too deep"),
        ({"images": "5"}, {}, "TypeError"),
        ({}, {"0.image": torch.ones(3, 4, 4)}, "the image of a is none"),
        ({}, {"0.truth": torch.ones(3, 4, dtype=torch.uint8)}, "a map of a is none of its image"),
        ({"maps": '["own"]'}, {"0.own": torch.ones(4, 3)}, "a map of a is none of its image"),
        ({"maps": '["own"]'}, {}, "own"),
    ],
)
def test_a_moment_that_cannot_be_shown_is_one_line(
    tmp_path: Path, facts: dict[str, str], tensors: dict[str, torch.Tensor], says: str
) -> None:
    pixels = torch.ones(3, 4, 4, dtype=torch.uint8)
    held = {"0.image": pixels, "0.truth": pixels[0].clone()} | tensors
    told = {"step": "1", "images": '[["labelled", "a"]]', "maps": "[]"} | facts
    (tmp_path / MOMENTS).mkdir()
    save_file(held, tmp_path / MOMENTS / "1.safetensors", told)
    with pytest.raises(UserError, match=says):
        read_moments(tmp_path)


def test_a_network_is_no_run(trained: Run) -> None:
    with pytest.raises(UserError, match=r"last is a network, not a run: give the folder above it"):
        write_report(APP, trained.folder / "last", CPU)


def test_moments_show_the_same_images_each_time(trained: Run) -> None:
    moments = read_moments(trained.folder)
    assert [moment.step for moment in moments] == [2, 4]
    first, last = (moment.looks for moment in moments)
    assert [look.id for look in first] == [look.id for look in last]
    assert len(first) == 4
    for one, other in zip(first, last, strict=True):
        assert (one.image == other.image).all() and (one.truth == other.truth).all()
        assert one.maps["prediction"].shape == one.truth.shape == one.image.shape[:2]
        assert one.maps["entropy"].dtype.kind == "f"


def test_looking_changes_nothing_of_a_run(trained: Run, tmp_path: Path) -> None:
    request = ToyRequest.of(
        method="plain", preset="light", most_images=IMAGES, out=tmp_path / "again", cpu=True,
        steps=4,
        set=["train.evaluations=1", "train.log_every=1"],
    )  # fmt: skip
    once = train(APP, request)
    one, other = (
        torch.cat([value.flatten() for value in run.model.network.state_dict().values()])
        for run in (trained, once)
    )
    assert torch.equal(one, other)


def test_a_browser_shows_it_well(trained: Run, run: Run) -> None:
    as_method(run, "plain", "two")
    method = as_method(run, "other")
    write_report(APP, method.folder, CPU)
    look(method.folder / REPORT, images=80)
