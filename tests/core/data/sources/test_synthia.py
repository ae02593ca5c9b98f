from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.png import rgb16
from u2pl.data.opening import open_source
from u2pl.data.sources.synthia import Synthia
from u2pl.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

IDS = np.arange(24).reshape(4, 6) % 23
TRAIN_IDS = [
    [255, 10, 2, 0, 1, 4],
    [8, 5, 13, 7, 11, 18],
    [17, 255, 255, 6, 9, 12],
    [14, 15, 16, 3, 255, 255],
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "RGB").mkdir()
    (tmp_path / "GT" / "LABELS").mkdir(parents=True)
    instances = np.random.default_rng(0).integers(0, 65536, IDS.shape)
    for number in range(2):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "RGB" / f"{number:07d}.png")
        label = tmp_path / "GT" / "LABELS" / f"{number:07d}.png"
        label.write_bytes(rgb16(np.stack([IDS, instances, 0 * IDS], axis=-1)))
    return tmp_path


def test_the_first_channel_becomes_train_ids(root: Path) -> None:
    source = open_source(f"synthia:{root}")
    assert (source.name, source.splits(), source.split("train")) == (
        "synthia",
        ("train",),
        ["0000000", "0000001"],
    )
    mask = source.mask("0000000")
    assert mask.dtype == np.uint8 and mask.tolist() == TRAIN_IDS


def test_train_ids_are_taken_where_they_are(root: Path) -> None:
    Image.fromarray(np.full((4, 6), 18, np.uint8)).save(
        root / "GT" / "LABELS" / "0000001_labelTrainIds.png"
    )
    source = Synthia(root)
    assert (source.mask("0000001") == 18).all() and source.mask("0000000").tolist() == TRAIN_IDS
    assert set(source.masks) == {"0000000", "0000001"}


@pytest.mark.parametrize(
    ("mode", "found"),
    [("L", "1 channels of 8 bits"), ("RGB", "3 channels of 8 bits"), ("I;16", "1 channels of 16")],
)
def test_other_pngs_could_mean_anything(root: Path, mode: str, found: str) -> None:
    Image.new(mode, (6, 4)).save(root / "GT" / "LABELS" / "0000000.png")
    instead = r"published, or write train ids into 0000000_labelTrainIds\.png"
    with pytest.raises(UserError, match=rf"0000000\.png has {found}.*{instead}"):
        Synthia(root).mask("0000000")


@pytest.mark.parametrize("kept", [0, 20, 60, -20])
def test_broken_labels_are_named_in_one_line(root: Path, kept: int) -> None:
    file = root / "GT" / "LABELS" / "0000000.png"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError) as caught:
        Synthia(root).mask("0000000")
    assert "0000000.png cannot be decoded (truncated, or no PNG): replace" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_labels_foreign_ids_and_other_sizes_are_named(root: Path) -> None:
    source, file = Synthia(root), root / "GT" / "LABELS" / "0000000.png"
    file.write_bytes(rgb16(np.full((4, 6, 3), 23)))
    with pytest.raises(
        UserError, match=r"0000000\.png holds ids up to 23, but SYNTHIA has 23 classes"
    ):
        source.mask("0000000")
    file.write_bytes(rgb16(np.zeros((4, 5, 3))))
    with pytest.raises(UserError, match=r"0000000\.png is 5x4, but its image .* is 6x4"):
        source.mask("0000000")
    file.unlink()
    with pytest.raises(UserError, match=r"0000000\.png does not exist: restore the file"):
        source.mask("0000000")
    assert not Synthia(root).has_mask("0000000")
    with pytest.raises(UserError, match=r"RGB holds no \*\.png: give the folder RAND_CITYSCAPES"):
        Synthia(root / "GT")


def test_a_torchvision_without_a_decoder_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.io

    monkeypatch.delattr(torchvision.io, "decode_png")
    with pytest.raises(
        UserError,
        match=r"which this torchvision does not decode: install 0\.29, or write train ids",
    ):
        Synthia(root).mask("0000000")


def test_torchvision_is_imported_by_the_first_mask_only(root: Path) -> None:
    code = f"""
import sys
from u2pl.data.sources.synthia import Synthia
Synthia({str(root)!r})
print("torchvision" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
