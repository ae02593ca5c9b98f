from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from u2pl.data.opening import open_source
from u2pl.data.sources.hf import open_scheme
from u2pl.errors import UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def names(tmp_path: Path) -> str:
    (tmp_path / "classes.txt").write_text("background\ncat\n")
    return f"classes={tmp_path / 'classes.txt'}"


def _columns(rows: int, mask: str = "mask", size: tuple[int, int] = (4, 6)) -> dict[str, list[Any]]:
    images = [Image.fromarray(np.full((4, 6, 3), i, np.uint8)) for i in range(rows)]
    masks = [
        None if i == 2 else Image.fromarray(np.full(size, i % 2, np.uint8)) for i in range(rows)
    ]
    return {"image": images, mask: masks}


def _table(rows: int, mask: str = "mask", **other: Any) -> Any:
    features = datasets.Features({"image": datasets.Image(), mask: datasets.Image()})
    return datasets.Dataset.from_dict(_columns(rows, mask, **other), features=features)


def test_saved_splits_are_read(tmp_path: Path, names: str) -> None:
    datasets.DatasetDict({"train": _table(4), "validation": _table(3, mask="mask")}).save_to_disk(
        tmp_path / "saved"
    )
    source = open_source(f"hf:{tmp_path / 'saved'}?{names}")
    assert (source.name, source.classes, source.splits()) == (
        "saved",
        ("background", "cat"),
        ("train", "val"),
    )
    assert source.split("train") == ["train/000000", "train/000001", "train/000002", "train/000003"]
    assert source.image("train/000003").getpixel((0, 0)) == (3, 3, 3)
    assert source.mask("val/000001").tolist() == [[1] * 6] * 4
    assert [source.has_mask(id) for id in source.split("val")] == [True, True, False]
    assert len(source.fingerprint()) == 12


def test_a_parquet_file_gets_a_hold_out(tmp_path: Path, names: str) -> None:
    _table(8).to_parquet(tmp_path / "photos.parquet")
    source = open_source(f"hf:{tmp_path / 'photos.parquet'}?{names}")
    assert source.name == "photos"
    assert len(source.split("val")) == 2 and len(source.split("train")) == 6
    assert source.held_out == tuple(source.split("val"))
    assert source.scoring_notes() == (
        f"{source.name} has no val list: 2 masked images are held out to score on",
    )
    assert source.has_mask("train/000001") and not source.has_mask("train/000002")
    assert source.mask("train/000001").tolist() == [[1] * 6] * 4


def test_a_parquet_file_of_plain_bytes_is_read(tmp_path: Path, names: str) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def encoded(image: Image.Image | None) -> bytes | None:
        stream = io.BytesIO()
        return None if image is None else (image.save(stream, "PNG"), stream.getvalue())[1]

    (tmp_path / "plain").mkdir()
    columns = {
        name: [encoded(image) for image in images] for name, images in _columns(4, "label").items()
    }
    pq.write_table(pa.table(columns), tmp_path / "plain" / "train.parquet")
    source = open_source(f"hf:{tmp_path / 'plain'}?{names}")
    assert source.image("train/000001").size == (6, 4)
    assert source.mask("train/000001").tolist() == [[1] * 6] * 4
    assert not source.has_mask("train/000002")


def test_fingerprint_follows_the_content(tmp_path: Path, names: str) -> None:
    def digits(name: str, rows: int) -> str:
        _table(rows).to_parquet(tmp_path / name)
        return open_source(f"hf:{tmp_path / name}?{names}").fingerprint()

    assert digits("a.parquet", 4) == digits("b.parquet", 4) != digits("c.parquet", 5)


def test_class_names_may_be_in_the_features(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "mask": datasets.Image(),
            "classes": datasets.List(datasets.ClassLabel(names=["sky", "sea"])),
        }
    )
    table = datasets.Dataset.from_dict(
        {**_columns(3), "classes": [[0], [1], [0, 1]]}, features=features
    )
    table.save_to_disk(tmp_path / "saved")
    assert open_scheme(str(tmp_path / "saved")).classes == ("sky", "sea")


def test_wrong_tables_say_what_to_do(tmp_path: Path, names: str) -> None:
    file = names.removeprefix("classes=")
    _table(3, mask="depth").to_parquet(tmp_path / "no_mask.parquet")
    datasets.Dataset.from_dict({"image": _columns(3)["image"], "label": [1, 2, 3]}).save_to_disk(
        tmp_path / "classification"
    )
    datasets.Dataset.from_dict({"photo": [1]}).save_to_disk(tmp_path / "no_image")
    _table(3, size=(4, 5)).to_parquet(tmp_path / "sizes.parquet")
    with pytest.raises(UserError, match=r"write hf:.*sizes\.parquet\?classes=FILE"):
        open_scheme(str(tmp_path / "sizes.parquet"))
    for name in ("no_mask.parquet", "classification"):
        with pytest.raises(UserError, match="no column of mask images, and none of objects"):
            open_scheme(str(tmp_path / name), file)
    with pytest.raises(UserError, match="no column 'image', it has photo"):
        open_scheme(str(tmp_path / "no_image"), file)
    table = _table(3)
    for name, other in (
        ("numbers", table.remove_columns("image").add_column("image", [1, 2, 3])),
        ("without", table.remove_columns("image")),
    ):
        datasets.DatasetDict({"train": table, "test": other}).save_to_disk(tmp_path / name)
    with pytest.raises(UserError, match="the split test holds no images in the column 'image', b"):
        open_scheme(str(tmp_path / "numbers"), file)
    with pytest.raises(UserError, match="the split test has no column 'image': add it"):
        open_scheme(str(tmp_path / "without"), file)
    nowhere = {"image": [{"bytes": None, "path": None}] * 3, "mask": _columns(3)["mask"]}
    datasets.Dataset.from_dict(nowhere).to_parquet(tmp_path / "nowhere.parquet")
    with pytest.raises(UserError, match="image of train/000000 cannot be decoded"):
        open_scheme(str(tmp_path / "nowhere.parquet"), file).image("train/000000")
    with pytest.raises(UserError, match="masks are images in the column mask: leave them out"):
        open_scheme(str(tmp_path / "sizes.parquet"), file, empty="background")
    source = open_scheme(str(tmp_path / "sizes.parquet"), file)
    with pytest.raises(
        UserError,
        match=r"sizes: mask of train/000001 is 5x4, but .* sizes: image of train/000001 is 6x4",
    ):
        source.mask("train/000001")
    with pytest.raises(UserError, match="no row 'train/000009'"):
        source.image("train/000009")
    with pytest.raises(UserError, match="row 'train/000002' has no mask"):
        source.mask("train/000002")


def test_no_file_and_no_network_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist: give a \.parquet file"):
        open_scheme(str(tmp_path / "gone.parquet"))
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    for name in (str(tmp_path / "broken.parquet"), "nobody/nothing"):
        with pytest.raises(UserError, match="cannot be loaded") as caught:
            open_scheme(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["pq [v2]", "a+b%20c", "*{x}?"])
def test_paths_mean_what_they_say(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "classes.txt").write_text("background\ncat\n")
    table, names = _table(4), f"classes={tmp_path / folder / 'classes.txt'}"
    table.to_parquet(tmp_path / folder / "train-0.parquet")
    table.to_parquet(tmp_path / folder / "validation.parquet")
    if "?" not in folder:  # which begins the options
        file = open_source(f"hf:{tmp_path / folder / 'train-0.parquet'}?{names}")
        assert file.image("train/000003").getpixel((0, 0)) == (3, 3, 3)
    source = open_scheme(str(tmp_path / folder), str(tmp_path / folder / "classes.txt"))
    assert (len(source.split("train")), len(source.split("val"))) == (4, 4)


def test_painted_and_turned_rows_are_understood(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (4, 6)).save(stream, "PNG", exif=exif)
    paint = np.array([[0, 0, 0], [128, 0, 0]], np.uint8)
    masks = [Image.fromarray(paint[np.resize([0, 1], (4, 6))]), None]
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    rows = [{"bytes": stream.getvalue(), "path": None}] * 2
    datasets.Dataset.from_dict({"image": rows, "mask": masks}, features=features).to_parquet(
        tmp_path / "a.parquet"
    )
    (tmp_path / "bare.txt").write_text("background\ncat\n")
    bare = open_scheme(str(tmp_path / "a.parquet"), str(tmp_path / "bare.txt"))
    with pytest.raises(UserError, match=r"mask of train/000000 is a RGB image.*doctor proposes"):
        bare.mask("train/000000")
    (tmp_path / "classes.txt").write_text("background 0 0 0\ncat 128 0 0\n")
    source = open_scheme(str(tmp_path / "a.parquet"), str(tmp_path / "classes.txt"))
    assert source.mask("train/000000").tolist() == [[0, 1] * 3] * 4
    assert source.image("train/000000").size == (6, 4) == source.image("train/000001").size
    assert source.fingerprint() != bare.fingerprint()
    assert "the masks are painted in colours" in source.notes[0]
