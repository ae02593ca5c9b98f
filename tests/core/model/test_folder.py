from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from torch import Tensor

from u2pl.errors import UserError
from u2pl.model.card import FORMAT, Card, Normalisation
from u2pl.model.folder import load_folder, save_folder
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.segmentor import Segmentor

CONFIG = NetworkConfig(
    decoder="deeplabv3plus_light",
    encoder="test_resnet",
    encoder_weights="none",
    output_stride=16,
    width=16,
    embed_dim=8,
)
CLASSES = ("background", "cat | dog", "Kuh ü")
CARD = Card(
    network=CONFIG.model_copy(update={"encoder_weights": "gone/encoder.safetensors"}),
    classes=CLASSES,
    palette=[(0, 0, 0), (128, 0, 0), (0, 128, 0)],
    method="u2plplus",
    data="photos (12, stratified)",
    evaluation="photos val, whole image, single scale",
    scores={"miou": 41.25},
    versions={"torch": "2"},
)
#: Does something to a model's folder.
Damage = Callable[[Path], object]


def build(seed: int) -> Segmentor:
    torch.manual_seed(seed)
    return build_segmentor(CONFIG, len(CLASSES)).eval()


@pytest.fixture(scope="module")
def network() -> Segmentor:
    network = build(0)
    network.mean.fill_(0.25)
    return network


@pytest.fixture(scope="module")
def saved(network: Segmentor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "best"
    save_folder(folder, network, CARD)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def same(left: Segmentor, right: Segmentor) -> bool:
    theirs = right.state_dict()
    return all(
        torch.equal(tensor, theirs[key]) for key, tensor in left.state_dict().items()
    ) and torch.equal(left.mean, right.mean)


@torch.no_grad()
def test_round_trip(network: Segmentor, folder: Path) -> None:
    loaded, card = load_folder(folder)
    known = {"normalisation": Normalisation(mean=(0.25,) * 3, std=(0.5,) * 3)}
    assert card == CARD.model_copy(update=known)
    assert same(network, loaded) and not loaded.training
    image = torch.randint(0, 256, (1, 3, 33, 47), dtype=torch.uint8)
    for ours, theirs in zip(network(image)[:3], loaded(image)[:3], strict=True):
        assert torch.equal(ours, theirs)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(("decoder", "tags"), [("daformer", 0), ("segformer", 2)])
@torch.no_grad()
def test_round_trip_of_mit(tmp_path: Path, decoder: str, tags: int) -> None:
    config = NetworkConfig(
        decoder=decoder,
        encoder="mit_b0",
        encoder_weights="none",
        width=16,
        embed_dim=8,
        tag_classes=tags,
    )
    network = build_segmentor(config, len(CLASSES)).eval()
    save_folder(tmp_path / "model", network, CARD.model_copy(update={"network": config}))
    loaded, _ = load_folder(tmp_path / "model")
    assert same(network, loaded) and (loaded.tagger is not None) == (tags > 0)
    image = torch.randint(0, 256, (1, 3, 33, 47), dtype=torch.uint8)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(network(image)[:3], loaded(image)[:3], strict=True)
    )


@pytest.mark.parametrize("decoder", ["daformer", "segformer"])
@torch.no_grad()
def test_a_folder_of_format_1_loads_without_its_representation_head(
    tmp_path: Path, decoder: str
) -> None:
    config = NetworkConfig(
        decoder=decoder, encoder="mit_b0", encoder_weights="none", width=16, embed_dim=8
    )
    network, folder = build_segmentor(config, len(CLASSES)).eval(), tmp_path / "model"
    # in format 1 the head had other tensors
    network.embedder = torch.nn.Sequential(torch.nn.Conv2d(64, 8, 1))
    save_folder(folder, network, CARD.model_copy(update={"network": config}))
    card = json.loads((folder / "config.json").read_text())
    del card["network"]["embed_kernel"]
    (folder / "config.json").write_text(json.dumps(card | {"format": 1}))
    loaded, known = load_folder(folder)
    image = torch.randint(0, 256, (1, 3, 33, 47), dtype=torch.uint8)
    assert torch.equal(loaded(image).logits, network(image).logits)
    assert loaded(image).embed is None and known.network.embed_dim == 0
    # what is saved again is of today's format
    save_folder(folder, loaded, known)
    assert load_folder(folder)[1].format == FORMAT
    # in today's format no tensor is left aside
    save_file(network.state_dict(), folder / "model.safetensors")
    refuse(folder, "first: embedder.0")


def test_what_a_config_does_not_say_has_a_default(network: Segmentor, folder: Path) -> None:
    """Of the network too: older ones have neither widths nor tags."""
    config = json.loads((folder / "config.json").read_text())
    assert config["network"].pop("dropout") == 0.1 and config["network"].pop("tag_classes") == 0
    kept = {key: config[key] for key in ("format", "network", "classes", "normalisation")}
    (folder / "config.json").write_text(json.dumps(kept))
    loaded, card = load_folder(folder)
    assert same(loaded, network) and len({*card.colours()}) == 3


def test_weights_that_share_memory_or_are_not_contiguous_are_written(tmp_path: Path) -> None:
    network = build(1)
    network.classifier.weight.data = network.classifier.weight.data.to(
        memory_format=torch.channels_last
    )
    network.embedder[4].bias = network.embedder[2].bias
    save_folder(tmp_path / "model", network, CARD)
    assert same(network, load_folder(tmp_path / "model")[0])


def test_the_folder_its_file_and_the_run_around_it_all_load(
    network: Segmentor, folder: Path, tmp_path: Path
) -> None:
    other = build(5)
    save_folder(tmp_path / "run" / "best", other, CARD)
    assert same(load_folder(tmp_path / "run")[0], other)
    save_folder(tmp_path / "run" / "last", network, CARD)
    (tmp_path / "run" / "config.json").write_text("{}")
    for path in (folder, folder / "model.safetensors", tmp_path / "run", tmp_path / "run" / "last"):
        assert same(load_folder(path)[0], network), path
    assert same(load_folder(tmp_path / "run" / "best")[0], other)


@pytest.mark.parametrize("failing_write", [1, 2, 3])
def test_full_disk_leaves_the_old_folder(
    network: Segmentor, folder: Path, monkeypatch: pytest.MonkeyPatch, failing_write: int
) -> None:
    writes, sync = 0, os.fsync

    def sync_until_full(file: int) -> None:
        nonlocal writes
        writes += 1
        if writes == failing_write:
            os.truncate(file, os.fstat(file).st_size // 2)
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", sync_until_full)
    with pytest.raises(UserError, match="No space left on device"):
        save_folder(folder, build(2), CARD)
    monkeypatch.undo()
    assert same(load_folder(folder)[0], network)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_between_any_two_renames(
    network: Segmentor, folder: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    rename, done = Path.rename, 0

    def rename_until_killed(self: Path, target: Path) -> Path:
        nonlocal done
        if done == renames:
            raise KeyboardInterrupt
        done += 1
        return rename(self, target)

    newer = build(2)
    monkeypatch.setattr(Path, "rename", rename_until_killed)
    if renames == 2:  # both done; killed while the old folder is removed
        monkeypatch.setattr(
            "shutil.rmtree",
            lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt) if done == 2 else None,
        )
    with pytest.raises(KeyboardInterrupt):
        save_folder(folder, newer, CARD)
    monkeypatch.undo()
    assert same(load_folder(folder)[0], newer if renames == 2 else network)
    newest = build(3)
    save_folder(folder, newest, CARD)
    assert same(load_folder(folder)[0], newest)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def refuse(path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        load_folder(path)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path: Path, folder: Path) -> None:
    refuse(tmp_path / "absent", "no such folder")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "it has no model.safetensors")
    (folder / "config.json").unlink()
    refuse(folder, "it has no config.json")


def with_weights(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Damage:
    """Other tensors in the file."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load(path.read_bytes())), path)

    return damage


def with_bytes(change: Callable[[bytes], bytes]) -> Damage:
    """Other bytes in the file."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


def with_config(**changes: Any) -> Damage:
    """Other entries in the config; `network__width` is that of its network."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for name, value in changes.items():
            *parents, key = name.split("__")
            inner = config
            for parent in parents:
                inner = inner[parent]
            inner[key] = value
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def with_text(text: str) -> Damage:
    """Something else than a config."""
    return lambda folder: (folder / "config.json").write_text(text, encoding="latin-1")


def a_pickle(archive: bool) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        torch.save(load(path.read_bytes()), path, _use_new_zipfile_serialization=archive)

    return damage


def a_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def header(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


def spoilt(value: float) -> Damage:
    """One number in one tensor."""

    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        state["encoder.model.bn1.running_mean"][0] = value
        return state

    return with_weights(change)


BIAS, NORM = "classifier.bias", "encoder.model.bn1.num_batches_tracked"
FAR = '{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'

HOSTILE: dict[str, tuple[Damage, str]] = {
    # the weights' file
    "empty": (with_bytes(lambda held: held[:0]), "damaged or truncated"),
    "seven bytes": (with_bytes(lambda held: held[:7]), "damaged or truncated"),
    "cut in its header": (with_bytes(lambda held: held[:1000]), "damaged or truncated"),
    "cut in its tensors": (with_bytes(lambda held: held[:-100]), "damaged or truncated"),
    "more behind its tensors": (with_bytes(lambda held: held + b"x" * 9), "damaged or truncated"),
    "a header of exabytes": (with_bytes(lambda held: b"\xff" * 8 + held[8:]), "damaged or trunc"),
    "a header that is no JSON": (with_bytes(lambda _: header("{" * 99)), "damaged or truncated"),
    "tensors behind the end": (with_bytes(lambda _: header(FAR)), "damaged or truncated"),
    "a folder": (a_folder, "damaged or truncated|has no model.safetensors"),
    "a pickle": (a_pickle(False), "is a pickle by another name, which could run code"),
    "an archive of pickles": (a_pickle(True), "is a pickle by another name"),
    # its tensors
    "one is missing": (
        with_weights(lambda state: {k: v for k, v in state.items() if k != BIAS}),
        f"does not fit.*first: {BIAS}$",
    ),
    "one is unknown": (
        with_weights(lambda state: state | {"stray": torch.zeros(1)}),
        "first: stray",
    ),
    "none": (with_weights(lambda _: {"stray": torch.zeros(1)}), "does not fit"),
    "another shape": (
        with_weights(lambda state: state | {BIAS: torch.zeros(4)}),
        rf"first: {BIAS} \(F32 \[4\], not F32 \[3\]\)",
    ),
    "half precision": (
        with_weights(lambda state: state | {BIAS: torch.zeros(3).half()}),
        rf"first: {BIAS} \(F16 \[3\], not F32 \[3\]\)",
    ),
    "a count in fractions": (
        with_weights(lambda state: state | {NORM: torch.tensor(0.0)}),
        rf"first: {NORM} \(F32 \[\], not I64 \[\]\)",
    ),
    "not a number": (
        spoilt(float("nan")),
        "not finite, in 1 tensors; first: encoder.model.bn1",
    ),
    "infinity": (spoilt(float("inf")), "not finite, in 1 tensors"),
    # the config's text
    "no text": (with_text(""), "config.json is not readable JSON"),
    "half a text": (with_text("{"), "config.json is not readable JSON"),
    "no UTF-8": (with_text("\xff"), "config.json is not readable JSON"),
    "brackets without end": (with_text("[" * 99_999), "config.json is not readable JSON"),
    "a list": (with_text("[1]"), "no format number"),
    "a word": (with_text('"a"'), "no format number"),
    # its entries
    "a class that commands a terminal": (
        with_config(classes=["background", "\x1b[2J", "dog"]),
        "classes.1: a class name holds a control character",
    ),
    "a class that turns a line round": (
        with_config(classes=["background", "\u202egnp", "dog"]),
        "classes.1: a class name holds a control character",
    ),
    "a newer format": (with_config(format=FORMAT + 1), f"newer than {FORMAT}.*upgrade"),
    "no format": (with_config(format=None), "no format number"),
    "format 0": (with_config(format=0), "no format number"),
    "no classes": (with_config(classes=[]), "classes: .*at least 1 item"),
    "fewer classes": (with_config(classes=CLASSES[:2], palette=[]), "does not fit"),
    "fewer classes than colours": (with_config(classes=CLASSES[:2]), "palette has 3 colours for 2"),
    "a million classes": (
        with_config(classes=[str(k) for k in range(10**6)], palette=[]),
        "does not fit",
    ),
    "a colour beyond white": (with_config(palette=[[0, 0, 999]] * 3), "palette.0.2: .*255"),
    "an unknown decoder": (with_config(network={"decoder": "fancy"}), "network.decoder"),
    "an unknown encoder": (with_config(network__encoder="resnet0"), "no encoder of timm"),
    "an encoder that is huge": (with_config(network__encoder="vit_giant_patch14_224"), "vit_giant"),
    "no network": (with_config(network=None), "network: "),
    "a width that is not its own": (with_config(network__width=8000), "does not fit"),
    "a width of terabytes": (with_config(network__width=10**9), "less than or equal to 8192"),
    "a width beyond 64 bits": (with_config(network__width=10**30), "describes no network|width"),
    "no width": (with_config(network__width=-1), "network.width"),
    "a head of terabytes": (with_config(network__embed_dim=10**9), "less than or equal to 8192"),
    "tags without end": (with_config(network__tag_classes=10**9), "does not fit"),
    "padding of gigapixels": (
        with_config(network__atrous_rates=[1, 2, 10**9]),
        "network.atrous_rates.2: .*1000",
    ),
    "no normalisation": (with_config(normalisation=None), "does not describe a network"),
    "normalisation of one colour": (
        with_config(normalisation={"mean": [0.5], "std": []}),
        "normalisation.mean",
    ),
    "division by zero": (with_config(normalisation__std=[1, 1, 0]), "normalisation.std.2"),
    "a deviation that is true": (with_config(normalisation__std=[1, 1, True]), "std.2: .*number"),
    "a crop that is true": (with_config(crop=True), "crop: .*integer"),
    "a seed in quotes": (with_config(seed="3"), "seed: .*integer"),
    "a mean that is no number": (
        with_config(normalisation__mean=[0, 0, float("nan")]),
        "normalisation.mean.2",
    ),
    "a word that is new": (
        with_config(clases=CLASSES),
        "clases: .*copy the folder again or upgrade u2pl",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_damaged_or_hostile_is_one_line(folder: Path, what: str) -> None:
    damage, says = HOSTILE[what]
    damage(folder)
    refuse(folder, says)


@pytest.mark.parametrize("first", [b"\x80", b"PK"])
def test_a_length_that_looks_like_a_pickle_is_none(
    network: Segmentor, folder: Path, first: bytes
) -> None:
    """The length of the header comes first, and may be any number."""
    path = folder / "model.safetensors"
    held = path.read_bytes()
    size = int.from_bytes(held[:8], "little")
    wanted = next(n for n in range(size, size + 2**16) if n.to_bytes(8, "little").startswith(first))
    longer = held[8 : 8 + size].ljust(wanted)  # blanks after the header are allowed
    path.write_bytes(wanted.to_bytes(8, "little") + longer + held[8 + size :])
    assert path.read_bytes().startswith(first)
    assert same(load_folder(folder)[0], network)
