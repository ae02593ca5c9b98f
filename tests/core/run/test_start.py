"""Training that begins with a trained network: what is taken, what is new, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from core.toy.app import APP, ToyRequest
from u2pl.cache import digest
from u2pl.counting import silently
from u2pl.data.geo.scaling import unscaled
from u2pl.errors import UserError
from u2pl.model.card import Card, EncoderWeights, Origin
from u2pl.model.model import Model
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import Segmentor
from u2pl.run.recipe import Recipe
from u2pl.run.run import Run
from u2pl.run.start import Start, read_origin
from u2pl.run.train import make_task, train
from u2pl.training.checkpoint import FILE
from u2pl.training.run_folder import BEST, LAST, SUMMARY

CLASSES = ("background", "cat", "dog")
TINY = {"decoder": "segformer", "encoder": "test_resnet", "encoder_weights": "none", "width": 8}


def config(**options: Any) -> NetworkConfig:
    return NetworkConfig(**{**TINY, "embed_dim": 0, **options})


def network(config: NetworkConfig, classes: int = 3, seed: int = 1) -> Segmentor:
    torch.manual_seed(seed)
    return build_segmentor(config, classes)


def shared(path: Path, classes: tuple[str, ...] = CLASSES, **options: Any) -> str:
    """A model's folder."""
    trained = network(config(**options), len(classes), seed=0).eval()
    Model(trained, Card(network=config(**options), classes=classes)).save(path)
    return str(path)


def begun(
    init: str, classes: tuple[str, ...] = CLASSES, **options: Any
) -> tuple[list[str], set[str]]:
    """What is said, and the parts of the network that keep values of their own."""
    start = Start.load(init, config(**options), classes)
    fresh = network(config(**options), len(classes))
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    start.fill(fresh)
    trained = load((Path(init) / "model.safetensors").read_bytes())
    kept = set()
    for key, value in fresh.state_dict().items():
        taken = key in trained and torch.equal(value, trained[key])
        assert taken or torch.equal(value, before[key]), key
        # tensors that begin equal, such as those of BatchNorm, say nothing
        if not taken:
            kept.add(key.rpartition(".")[0])
    return start.beginning.lines, kept


def test_the_same_classes_take_the_whole_network(tmp_path: Path) -> None:
    init = shared(tmp_path / "a", embed_dim=4, tag_classes=2, auxiliary=True)
    (line,), kept = begun(init, embed_dim=4, tag_classes=2, auxiliary=True)
    sha = digest(load((tmp_path / "a" / "model.safetensors").read_bytes()))
    assert line == f"begins with {init} (sha256 {sha[:12]}): the whole network"
    assert not kept


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ((*CLASSES, "cow"), "3 there, 4 here"),
        (("background", "dog", "cat"), "class 1 is cat there, dog here"),
    ],
)
def test_other_classes_take_all_but_the_last_layers(
    tmp_path: Path, classes: tuple[str, ...], says: str
) -> None:
    init = shared(tmp_path / "a", tag_classes=2, auxiliary=True, embed_dim=4)
    tags = len(classes) - 1
    (line,), kept = begun(init, classes, tag_classes=tags, auxiliary=True, embed_dim=4)
    assert line.endswith(f": all but the last layer, for its classes are others ({says})")
    assert kept == {"classifier.4", "auxiliary.4", "tagger"}


@pytest.mark.parametrize(
    ("there", "here", "says", "new"),
    [
        ({}, {"embed_dim": 4}, "the representation head, for it has none", "embedder"),
        (
            {"embed_dim": 8},
            {"embed_dim": 4},
            "the representation head, for it has network.embed_dim=8 and network.embed_kernel=3",
            "embedder",
        ),
        (
            {"embed_dim": 4, "embed_kernel": 1},
            {"embed_dim": 4},
            "network.embed_dim=4 and network.embed_kernel=1",
            "embedder",
        ),
        ({}, {"auxiliary": True}, "the auxiliary classifier, for it has none", "auxiliary"),
        ({}, {"tag_classes": 2}, "the classifier of tags, for it has none", "tagger"),
    ],
)
def test_heads_that_are_not_there_are_new(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any], says: str, new: str
) -> None:
    (line,), kept = begun(shared(tmp_path / "a", **there), **here)
    assert ": all but " in line and line.endswith(says)
    assert kept and {key.partition(".")[0] for key in kept} == {new}


def test_heads_that_are_not_needed_are_left(tmp_path: Path) -> None:
    init = shared(tmp_path / "a", embed_dim=4, auxiliary=True, tag_classes=2)
    (line,), kept = begun(init)
    assert line.endswith(": the whole network") and not kept


def test_what_only_computes_otherwise_is_noted(tmp_path: Path) -> None:
    lines, kept = begun(shared(tmp_path / "a"), output_stride=32, multi_grid=(1, 1, 1))
    assert lines[1:] == ["note: network.output_stride is 16 there and 32 here"] and not kept


@pytest.mark.parametrize(
    ("here", "says"),
    [
        (
            {"width": 16},
            "it has network.width=8, but this run has network.width=16: add --set network.width=8",
        ),
        (
            {"encoder": "test_efficientnet"},
            "it has network.encoder=test_resnet, but this run has network.encoder="
            "test_efficientnet: add --set network.encoder=test_resnet",
        ),
        (
            {"decoder": "daformer"},
            "add --set network.decoder=segformer --set network.output_stride=16 --set "
            "'network.atrous_rates=[12, 24, 36]'",
        ),
    ],
)
def test_another_network_is_one_line_with_what_to_set(
    tmp_path: Path, here: dict[str, Any], says: str
) -> None:
    init = shared(tmp_path / "a")
    with pytest.raises(UserError) as caught:
        Start.load(init, config(**here), CLASSES)
    assert str(caught.value).startswith(f"--init {init}: ") and str(caught.value).endswith(says)


def test_a_tag_of_the_encoders_weights_is_no_other_encoder(tmp_path: Path) -> None:
    init = shared(tmp_path / "a", encoder="test_resnet.r160_in1k")
    assert not begun(init)[1]


def test_other_colours_are_refused(tmp_path: Path) -> None:
    trained = network(config()).eval()
    trained.mean.fill_(0.25)
    Model(trained, Card(network=config(), classes=CLASSES)).save(tmp_path / "a")
    start = Start.load(str(tmp_path / "a"), config(), CLASSES)
    with pytest.raises(UserError, match=r"with the mean \[0.25, 0.25, 0.25\].* with \[0.5, 0.5"):
        start.fill(network(config()))


def test_a_network_of_photos_begins_one_of_other_channels_and_says_so(tmp_path: Path) -> None:
    start = Start.load(shared(tmp_path / "a"), config(), CLASSES, 6)
    assert "note: its first convolution takes 3 channels, and is adapted to 6" in (
        start.beginning.lines
    )
    torch.manual_seed(1)
    six, three = build_segmentor(config(), 3, 6), network(config())
    start.fill(six)
    Start.load(str(tmp_path / "a"), config(), CLASSES).fill(three)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # half of the weights for each of two equal images
        found = six.eval()(torch.cat([image, image], 1)).logits
        torch.testing.assert_close(found, three.eval()(image).logits, atol=1e-5, rtol=1e-4)
    scaling = unscaled((1, 2, 3, 4, 1, 2))
    Model(six, Card(network=config(), classes=CLASSES, scaling=scaling)).save(tmp_path / "b")
    with pytest.raises(UserError, match="it takes 6 channels, and this run's images have 3"):
        Start.load(str(tmp_path / "b"), config(), CLASSES)


def test_the_first_pretrained_weights_are_remembered(tmp_path: Path) -> None:
    weights = EncoderWeights(name="resnet101.tv_in1k", sha256="1")
    later = Origin(name="x", sha256="2", encoder_weights=weights)
    for known in ({"encoder_weights": weights}, {"origin": later}):
        card = Card(network=config(), classes=CLASSES, **known)  # type: ignore[arg-type]
        Model(network(config()), card).save(tmp_path / "a")
        start = Start.load(str(tmp_path / "a"), config(), CLASSES)
        assert start.origin.encoder_weights == weights


def test_terms_of_the_first_pretrained_weights_are_said(tmp_path: Path) -> None:
    def lines(license: str | None) -> list[str]:
        weights = EncoderWeights(name="vit.dinov3", sha256="1", license=license)
        card = Card(network=config(), classes=CLASSES, encoder_weights=weights)
        Model(network(config()), card).save(tmp_path / "a")
        return Start.load(str(tmp_path / "a"), config(), CLASSES).beginning.lines[1:]

    assert lines("apache-2.0") == lines(None) == []
    (note,) = lines("dinov3-license")
    assert note.startswith("note: the pretrained weights vit.dinov3 are under the dinov3-license (")


# -- in a run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three steps on the demo."""
    return train(APP, asked(out=tmp_path_factory.mktemp("runs") / "first"))


def asked(**values: Any) -> ToyRequest:
    usual = {"method": "plain", "preset": "light", "most_images": 4, "cpu": True}
    return ToyRequest.of(**{**usual, **values})


def test_a_run_begins_with_another_and_says_so(
    first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing pretrained is loaded, though the recipe asks for it."""
    monkeypatch.setattr("u2pl.networks.build.load_pretrained", None)
    still = {"train.lr": 1e-12, "train.steps": 1}
    monkeypatch.setattr(
        "u2pl.run.recipe.recipe_path", lambda *_: pretrained(tmp_path / "light.toml")
    )
    request = asked(init=first.folder, out=tmp_path / "run", set=still)
    run = train(APP, request)
    sha = digest(first.model.network.state_dict())
    origin = {"name": str(first.folder / "last"), "sha256": sha, "encoder_weights": None}
    assert run.summary["origin"] == origin and run.summary["encoder_weights"] is None
    assert run.model.card.origin == Origin(**origin)  # type: ignore[arg-type]
    assert "Training began with" in (run.folder / "last" / "README.md").read_text()
    written = json.loads((run.folder / "config.json").read_text())
    assert (written["init"], written["origin"]) == (str(first.folder), origin)
    assert written["options"]["network"]["encoder_weights"] == "none"
    for ours, theirs in zip(
        run.model.network.parameters(), first.model.network.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    assert first.summary["origin"] is None and read_origin(first.folder) is None


def pretrained(path: Path) -> Path:
    text = (APP.recipes / "light.toml").read_text()
    path.write_text(text.replace('encoder_weights = "none"', 'encoder_weights = "imagenet"'))
    return path


def test_weights_to_begin_with_are_named_once(first: Run) -> None:
    words = ["network.encoder_weights=imagenet"]
    with pytest.raises(UserError, match="both say what to begin with: leave one of them out"):
        Recipe.of_request(APP, asked(init="x", set=words))
    random = Recipe.of_request(APP, asked(init="x", set=["network.encoder_weights=none"]))
    assert random.sections.network.encoder_weights == "none"


def test_a_run_that_goes_on_does_not_look_again(first: Run, tmp_path: Path) -> None:
    init = Path(shutil.copytree(first.folder / "last", tmp_path / "init"))
    request = asked(init=init, out=tmp_path / "run")
    run = train(APP, request)
    shutil.rmtree(init)
    again = train(APP, asked(init=init, out=tmp_path / "run", resume=True))
    assert again.scores == run.scores and again.summary["origin"] == run.summary["origin"]
    with pytest.raises(UserError, match="started with another init"):
        train(APP, asked(out=tmp_path / "run", resume=True))


def forget(run: Run) -> None:
    """As a kill before the first state leaves it."""
    for name in (FILE, SUMMARY):
        (run.folder / name).unlink()
    for name in (LAST, BEST):
        shutil.rmtree(run.folder / name)


def test_a_run_without_a_state_begins_with_the_same_again(first: Run, tmp_path: Path) -> None:
    init = Path(shutil.copytree(first.folder / "last", tmp_path / "init"))
    request = asked(init=init, out=tmp_path / "run", resume=True)
    run = train(APP, asked(init=init, out=tmp_path / "run"))
    forget(run)
    assert train(APP, request).scores == run.scores
    forget(run)
    path = init / "model.safetensors"
    state = load(path.read_bytes())
    save_file({key: value + 1 for key, value in state.items()}, path)
    with pytest.raises(UserError, match=r"--resume: .* has changed since the run in "):
        train(APP, request)


def test_the_hub_names_the_commit(
    model: Model, cached: Callable[[Model, str], str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    commit = cached(model, "user/name")
    start = Start.load("user/name", config(), CLASSES)
    assert start.origin.name == f"user/name@{commit}"
    task = make_task(APP, asked(init="user/name"), silently)
    method, beginning = task.begin()
    assert beginning is not None and "for its classes are others (3 there, 7" in beginning.lines[0]
    encoder = model.network.encoder.state_dict()
    ours = method.student.encoder.state_dict()
    assert all(torch.equal(ours[key], encoder[key]) for key in encoder)


def test_nothing_is_made_if_there_is_nothing_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trained network at .*gone"):
        train(APP, asked(init=tmp_path / "gone", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
