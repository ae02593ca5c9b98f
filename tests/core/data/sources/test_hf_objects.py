"""Hugging Face datasets whose masks are columns of objects."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.labelled import CAT, CLASSES, DOG, MASK
from u2pl.counting import silently
from u2pl.data.content import photo_notes
from u2pl.data.conversion import convert
from u2pl.data.opening import open_source
from u2pl.data.shapes import hf_source
from u2pl.errors import UserError, one_line

datasets = pytest.importorskip("datasets")

NAMES = ("cat", "dog")
NUMBER = datasets.ClassLabel(names=list(NAMES))
FLOATS = datasets.List(datasets.Value("float64"))
RINGS = datasets.List(FLOATS)
BOX = datasets.List(datasets.Value("float32"), length=4)
CAT_RING, DOG_RING = ([float(each) for each in chain(*ring)] for ring in (CAT, DOG))
#: Two objects, of which the second lies on top; `MASK` is theirs.
BOTH = [
    {"category": 0, "segmentation": [CAT_RING]},
    {"category": 1, "segmentation": [DOG_RING]},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def photo(tag: int = 1) -> dict[str, Any]:
    """A photo of 8x6 pixels as it is stored, turned by a tag of EXIF."""
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = tag
    Image.new("RGB", (8, 6), (90, 60, 30)).save(stream, "PNG", exif=exif)
    return {"bytes": stream.getvalue(), "path": None}


def objects_of(category: Any = NUMBER, by_field: bool = False, **fields: Any) -> Any:
    """The feature of a column of objects."""
    found = {"category": category, **fields}
    if by_field:
        return {name: datasets.List(feature) for name, feature in found.items()}
    return datasets.List(found)


def table(rows: list[Any], feature: Any, column: str = "objects", **more: list[Any]) -> Any:
    """A table of photos; `more` are other columns, of whole numbers unless they are photos."""
    kinds = {name: datasets.Value("int32") for name in more}
    features = {"image": datasets.Image(), column: feature, **kinds}
    if "image" in more:
        features["image"] = datasets.Image()
    columns = {"image": [photo()] * len(rows), column: rows, **more}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write tables by split, or that of train, and say how they are opened."""

    def saved(tables: Any, name: str = "photos") -> str:
        tables = tables if isinstance(tables, dict) else {"train": tables}
        datasets.DatasetDict(tables).save_to_disk(tmp_path / name)
        return f"hf:{tmp_path / name}"

    return saved


def by_field(objects: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Objects as a list for each field."""
    return {name: [each[name] for each in objects] for name in objects[0]}


def renamed(objects: list[dict[str, Any]], **names: str) -> list[dict[str, Any]]:
    """Objects whose fields are called otherwise."""
    return [{names.get(name, name): each[name] for name in each} for each in objects]


RUNS = [
    {"category": 0, "segmentation": {"size": [6, 8], "counts": [7, 3, 3, 3, 3, 3, 26]}},
    {"category": 1, "segmentation": {"size": [6, 8], "counts": [20, 3, 3, 3, 3, 3, 13]}},
]
TEXTS = [
    {"category": 0, "segmentation": {"size": [6, 8], "counts": "733000g0"}},
    {"category": 1, "segmentation": {"size": [6, 8], "counts": "d033000:"}},
]
BOXES = [{"category": 0, "bbox": [1, 1, 3, 3]}, {"category": 1, "bbox": [3, 2, 3, 3]}]
WHOLE = datasets.List(datasets.Value("int32"))


def runs(counts: Any) -> dict[str, Any]:
    """The feature of a segmentation by runs."""
    return {"size": WHOLE, "counts": counts}


def named(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Objects whose categories are texts."""
    return [each | {"category": f"{NAMES[each['category']]} "} for each in objects]


TEXT = datasets.Value("string")
PAIRS = [each | {"segmentation": [ring]} for each, ring in zip(BOTH, (CAT, DOG), strict=True)]
MORE = [each | {"id": 7, "area": 9.0, "iscrowd": 0, "bbox": [0, 0, 8, 6]} for each in BOTH]
#: Objects as COCO has them, as a dataset has them, their feature, and the name of the column.
LAYOUTS: dict[str, tuple[list[dict[str, Any]], Any, Any, str]] = {
    "objects": (BOTH, BOTH, objects_of(segmentation=RINGS), "objects"),
    "lists": (BOTH, by_field(BOTH), objects_of(by_field=True, segmentation=RINGS), "objects"),
    "annotations": (
        MORE,
        renamed(MORE, category="category_id"),
        datasets.List(
            {
                **{"category_id": NUMBER, "segmentation": RINGS, "bbox": BOX},
                **{"id": datasets.Value("int64"), "area": datasets.Value("float32")},
                "iscrowd": datasets.Value("int32"),
            }
        ),
        "annotations",
    ),
    "other names": (
        BOTH,
        renamed(BOTH, category="label", segmentation="polygons"),
        datasets.List({"label": NUMBER, "polygons": RINGS}),
        "objects",
    ),
    "texts": (BOTH, named(BOTH), objects_of(TEXT, segmentation=RINGS), "objects"),
    "pairs": (BOTH, PAIRS, objects_of(segmentation=datasets.List(RINGS)), "objects"),
    "one polygon": (
        BOTH,
        renamed(
            [each | {"segmentation": each["segmentation"][0]} for each in BOTH],
            segmentation="polygon",
        ),
        datasets.List({"category": NUMBER, "polygon": FLOATS}),
        "objects",
    ),
    "one polygon of pairs": (
        BOTH,
        [each | {"segmentation": each["segmentation"][0]} for each in PAIRS],
        objects_of(segmentation=RINGS),
        "objects",
    ),
    "runs": (RUNS, RUNS, objects_of(segmentation=runs(WHOLE)), "objects"),
    "lists of runs": (
        TEXTS,
        by_field(TEXTS),
        objects_of(by_field=True, segmentation=runs(TEXT)),
        "objects",
    ),
    "runs as bytes": (
        TEXTS,
        [
            each | {"segmentation": run | {"counts": run["counts"].encode()}}
            for each in TEXTS
            for run in [each["segmentation"]]
        ],
        objects_of(segmentation=runs(datasets.Value("binary"))),
        "objects",
    ),
    "boxes": (
        [each | {"segmentation": []} for each in BOXES],
        BOXES,
        objects_of(bbox=BOX),
        "objects",
    ),
    "a box without polygons": (
        [BOTH[0] | {"bbox": [0, 0, 1, 1]}, BOXES[1] | {"segmentation": []}],
        by_field([BOTH[0] | {"bbox": [0, 0, 1, 1]}, BOXES[1] | {"segmentation": []}]),
        objects_of(by_field=True, segmentation=RINGS, bbox=BOX),
        "objects",
    ),
    "polygons and runs": (
        [BOTH[0], TEXTS[1]],
        [BOTH[0], TEXTS[1]],
        objects_of(segmentation=datasets.Json()),
        "objects",
    ),
}


def coco_content(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """A file of COCO with the objects of a.png."""
    return {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES)],
        "annotations": [
            {key.replace("category", "category_id"): value for key, value in each.items()}
            | {"image_id": 1}
            for each in objects
        ],
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_are_those_of_the_same_objects_in_a_file_of_coco(
    layout: str, save: Save, tmp_path: Path
) -> None:
    objects, row, feature, column = LAYOUTS[layout]
    (tmp_path / "a.png").write_bytes(photo()["bytes"])
    (tmp_path / "a.json").write_text(json.dumps(coco_content(objects)))
    coco = open_source(f"coco:{tmp_path / 'a.json'}")
    source = open_source(save(table([row], feature, column)))
    np.testing.assert_array_equal(source.mask("train/000000"), coco.mask("a"))
    np.testing.assert_array_equal(coco.mask("a"), MASK)
    assert source.classes == coco.classes == CLASSES
    boxes = [note for note in source.notes if "boxes" in note]
    assert boxes == [note for note in coco.notes if "boxes" in note]


def test_rows_of_null_are_unlabelled_and_empty_ones_as_somebody_says(save: Save) -> None:
    for name, feature, empty, both in (
        ("a", objects_of(segmentation=RINGS), [], BOTH),
        (
            "b",
            objects_of(by_field=True, segmentation=RINGS),
            {"category": [], "segmentation": []},
            by_field(BOTH),
        ),
    ):
        text = save({"train": table([both, None, empty, both, both], feature)}, name)
        source = open_source(text)
        masked = [id for id in sorted(source.ids()) if source.has_mask(id)]
        assert masked == [f"train/00000{row}" for row in (0, 3, 4)]
        assert source.splits() == ("train", "val") and len(source.held_out) == 1
        assert set(source.split("train")) == set(source.ids()) - set(source.split("val"))
        assert source.notes == (
            f"{name} is read by its column objects: 3 of 5 rows have shapes, 1 have no annotation; "
            "where shapes overlap the later one is on top",
            "pixels in no shape are background, class 0",
            "1 annotated rows have no shapes: they are read as unlabelled; ?empty=background "
            "behind hf:NAME reads them as background",
        )
        with pytest.raises(UserError, match=f"{name}: row 'train/000002' has no mask: add one"):
            source.mask("train/000002")
        shown = open_source(f"{text}?empty=background")
        assert not shown.mask("train/000002").any() and not shown.has_mask("train/000001")
        assert shown.fingerprint() != source.fingerprint()
    bare = open_source(save(table([[], None], objects_of(segmentation=RINGS)), "c"))
    with pytest.raises(UserError, match=r"has no mask: 1 rows have no objects.*\?empty=background"):
        bare.mask("train/000000")


def test_classes_are_labels_behind_a_background_or_those_of_a_file(
    save: Save, tmp_path: Path
) -> None:
    def classes(content: str) -> str:
        (tmp_path / "classes.txt").write_text(content)
        return f"?classes={tmp_path / 'classes.txt'}"

    labels = datasets.ClassLabel(names=["dog", "Background", "cat"])
    source = open_source(save(table([BOTH], objects_of(labels, segmentation=RINGS)), "labels"))
    assert source.classes == ("Background", "dog", "cat")
    assert np.unique(source.mask("train/000000")).tolist() == [0, 1]
    texts = save(table([named(BOTH)], objects_of(TEXT, segmentation=RINGS)), "texts")
    assert any("order of the alphabet" in note for note in open_source(texts).notes)
    source = open_source(texts + classes("background\ndog\ncat\n"))
    assert source.classes == ("background", "dog", "cat")
    assert source.mask("train/000000")[2].tolist() == [0, 2, 2, 1, 1, 1, 0, 0]
    with pytest.raises(UserError, match=r"has shapes of 'cat', which .*classes\.txt does not have"):
        open_source(texts + classes("background\ndog\n"))
    plain = save(table([BOTH], objects_of(datasets.Value("int8"), segmentation=RINGS)), "numbers")
    with pytest.raises(UserError, match=r"write hf:.*numbers\?classes=FILE"):
        open_source(plain)
    source = open_source(plain + classes("cat\ndog\nbird\n"))
    assert source.classes == ("cat", "dog", "bird")
    assert source.mask("train/000000")[2].tolist() == [255, 0, 0, 1, 1, 1, 255, 255]
    for place in (texts, plain):  # a background in front of the file's classes moves no number
        source = open_source(place + classes("cat 1 2 3\ndog\n") + "&outside=background")
        assert source.classes == ("background", "cat", "dog")
        assert source.palette[1].tolist() == [1, 2, 3]
        assert source.mask("train/000000")[2].tolist() == [0, 1, 1, 2, 2, 2, 0, 0]
    with pytest.raises(UserError, match=r"number 0, and line 1 of .*classes\.txt is nothing: if 0"):
        open_source(plain + classes("nothing\ncat\ndog\n"))
    with pytest.raises(UserError, match=r"outside is background, but .*classes\.txt begins with c"):
        open_source(texts + classes("cat\nBackground\ndog\n") + "&outside=background")
    with pytest.raises(UserError, match="label 3 has a blank name"):
        blank = datasets.ClassLabel(names=["cat", " "])
        open_source(save(table([cat()], objects_of(blank, segmentation=RINGS)), "blank"))
    source = open_source(texts + "?outside=ignored")
    assert source.classes == NAMES and "pixels in no shape are ignored" in source.notes
    assert source.mask("train/000000")[2].tolist() == [255, 0, 0, 1, 1, 1, 255, 255]
    with pytest.raises(UserError, match=r"outside=grey is unknown: write \?outside=background or"):
        open_source(texts + "?outside=grey")


@pytest.mark.parametrize(
    ("tag", "stated", "shape"),
    [
        (1, (8, 6), (6, 8)),
        (6, (8, 6), (6, 8)),
        (6, (6, 8), (8, 6)),
        (6, (None, None), (8, 6)),
        (3, (8, 6), (6, 8)),
    ],
)
def test_a_photo_is_read_the_way_up_that_its_row_says(
    tag: int, stated: tuple[int, int], shape: tuple[int, int], save: Save
) -> None:
    sides = {"width": [stated[0]], "height": [stated[1]]}
    feature = objects_of(segmentation=RINGS)
    source = open_source(save(table([BOTH], feature, image=[photo(tag)], **sides)))
    mask = source.mask("train/000000")
    assert mask.shape == shape and mask[2, 5] == 2
    assert source.image("train/000000").size == shape[::-1]


def test_runs_tell_which_way_up_too(save: Save) -> None:
    feature = objects_of(segmentation=runs(WHOLE))
    source = open_source(save(table([RUNS], feature, image=[photo(6)])))
    np.testing.assert_array_equal(source.mask("train/000000"), MASK)
    assert source.image("train/000000").size == (8, 6)


def test_a_turned_photo_with_a_broken_mask_is_read_as_one_without(
    save: Save, tmp_path: Path
) -> None:
    broken = [{"category": 0, "segmentation": [[1.0, 2.0, 3.0]]}]
    (tmp_path / "a.png").write_bytes(photo(6)["bytes"])
    (tmp_path / "a.json").write_text(json.dumps(coco_content(broken)))
    feature = objects_of(segmentation=RINGS)
    hub = open_source(save(table([broken], feature, image=[photo(6)])))
    for source, id in ((open_source(f"coco:{tmp_path / 'a.json'}"), "a"), (hub, "train/000000")):
        assert source.image(id).size == (6, 8)
        assert "1 are read upright, where no mask's size tells" in photo_notes(source, [id])[0]
        with pytest.raises(UserError, match=r"segmentation\[0\] is a list of 3"):
            source.mask(id)


def test_nothing_of_an_object_is_read_before_its_mask_is(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = save(table([BOTH] * 3, objects_of(segmentation=RINGS)))
    source = open_source(text)
    other = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(other.mask("train/000001"), source.mask("train/000001"))

    def read(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(hf_source, "drawing_of_row", read)
    source = open_source(text)
    assert source.has_mask("train/000001") and source.fingerprint() == other.fingerprint()
    assert source.image("train/000001").size == (8, 6)


def test_the_fingerprint_follows_the_objects_and_not_how_they_are_stored(
    save: Save, tmp_path: Path
) -> None:
    feature, sides = objects_of(segmentation=RINGS), {"width": [8] * 3, "height": [6] * 3}
    whole = table([BOTH, None, BOTH], feature, **sides)
    source = open_source(save(whole, "whole"))
    whole.to_parquet(tmp_path / "train.parquet")
    assert open_source(f"hf:{tmp_path / 'train.parquet'}").fingerprint() == source.fingerprint()
    datasets.DatasetDict(train=whole).save_to_disk(tmp_path / "parts", num_shards={"train": 2})
    assert open_source(f"hf:{tmp_path / 'parts'}").fingerprint() == source.fingerprint()
    moved = [BOTH[0], BOTH[1] | {"segmentation": [[*DOG_RING[:-1], 4.5]]}]
    turned = objects_of(datasets.ClassLabel(names=["dog", "cat"]), segmentation=RINGS)
    others = [
        table([BOTH, None, moved], feature, **sides),
        table([BOTH, None, BOTH[::-1]], feature, **sides),
        table([BOTH, BOTH, BOTH], feature, **sides),
        table([BOTH, None, BOTH], turned, **sides),
        table([BOTH, None, BOTH], feature, width=[8] * 3, height=[7] * 3),
    ]
    texts = [save(each, f"other{number}") for number, each in enumerate(others)]
    texts += [save(whole, "again") + option for option in ("?outside=ignored", "?empty=background")]
    found = [open_source(text).fingerprint() for text in texts]
    assert len({source.fingerprint(), *found}) == len(texts) + 1


def test_images_of_masks_go_first(save: Save, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n")
    masks = [Image.fromarray(np.ones((6, 8), np.uint8))]
    features = {"image": datasets.Image(), "mask": datasets.Image()}
    both = {**features, "objects": objects_of(segmentation=RINGS)}
    columns = {"image": [photo()], "mask": masks, "objects": [BOTH]}
    text = save(datasets.Dataset.from_dict(columns, features=datasets.Features(both)))
    assert (
        open_source(f"{text}?classes={tmp_path / 'classes.txt'}").mask("train/000000") == 1
    ).all()


def test_a_folder_is_made_of_them(save: Save, tmp_path: Path) -> None:
    feature = objects_of(by_field=True, segmentation=RINGS)
    rows = [by_field(BOTH), None, by_field(BOTH)]
    source = open_source(save({"train": table(rows, feature), "validation": table(rows, feature)}))
    convert(source, tmp_path / "folder", False, silently)
    folder = open_source(str(tmp_path / "folder"))
    assert folder.classes == CLASSES and folder.split("val") == source.split("val")
    assert set(folder.ids()) == set(source.ids()) and not folder.has_mask("val/000001")
    np.testing.assert_array_equal(folder.mask("val/000002"), MASK)


def cat(**changes: Any) -> list[dict[str, Any]]:
    """A row whose second object is changed."""
    return [BOTH[0] | {"bbox": None}, BOTH[0] | {"bbox": None} | changes]


def polygon(*numbers: float) -> list[dict[str, Any]]:
    return cat(segmentation=[CAT_RING, list(numbers)])


NAN, CORNERS = float("nan"), "it must be the x and y of corners"
#: Broken rows by the feature of their column, and what is said of them.
BROKEN: dict[str, tuple[Any, list[tuple[Any, str]]]] = {
    "objects": (
        objects_of(segmentation=RINGS, bbox=datasets.List(datasets.Value("float32"))),
        [
            (polygon(1, 2, 3), f": [1].segmentation[1] is a list of 3: {CORNERS}"),
            (polygon(1, 2, NAN, 4, 5, 6), ": [1].segmentation[1] has a corner, number 2, that is"),
            (polygon(1, 2, 3, 4), ": [1] (cat): a polygon needs 3 corners, not 2: correct it"),
            (
                polygon(9, 9, 9, 12, 12, 12),
                ": [1] (cat): it lies outside of the image of 8x6, from x=9, y=9 to x=12, y=12",
            ),
            (cat(category=None), ": [1].category is None: it must be the number of a class, from"),
            (cat(category=-1), ": [1].category is -1: it must be the number of a class, from 0 to"),
            (cat(segmentation=None), ": [1].segmentation is None: it must be"),
            (
                cat(segmentation=[], bbox=[1, 2, 3]),
                ": [1].bbox is a list of 3: it must be x, y, width and height",
            ),
            (cat(segmentation=None, bbox=[1, 2, NAN, 3]), ": [1].bbox has a corner, number 2, "),
            (cat(segmentation=None, bbox=[5, 5, -3, 2]), ": [1].bbox has the size -3x2: it must"),
            (
                cat(segmentation=None, bbox=[20, 2, 3, 3]),
                ": [1] (cat): it lies outside of the image of 8x6",
            ),
            ([BOTH[0] | {"bbox": None}, None], ": [1] is None: it must be an object with fields"),
        ],
    ),
    "lists": (
        objects_of(TEXT, by_field=True, segmentation=RINGS),
        [
            (
                {"category": ["cat", "cat"], "segmentation": [[CAT_RING]]},
                " are lists of different lengths, 2 of category, 1 of segmentation: correct them",
            ),
            ({"category": ["cat", None], "segmentation": [[CAT_RING]] * 2}, ": [1].category is N"),
            ({"category": ["cat", " "], "segmentation": [[CAT_RING]] * 2}, ": [1].category is ' '"),
            ({"category": None, "segmentation": [[CAT_RING]]}, ": [0].category is None: it must"),
            ({"category": ["cat"], "segmentation": None}, ": [0].segmentation is None"),
        ],
    ),
    "runs": (
        objects_of(segmentation=runs(datasets.Json())),
        [
            (
                [RUNS[0], {"category": 0, "segmentation": {"size": [6], "counts": [1]}}],
                ": [1].segmentation.size is a list of 1: it must be height and width",
            ),
            (
                [RUNS[0], {"category": 0, "segmentation": {"size": [8, 6], "counts": [48]}}],
                ": [1] has runs of an image of 6x8, but the image is 8x6: correct its segmentation",
            ),
            (
                [{"category": 0, "segmentation": {"size": [6, 8], "counts": [47]}}],
                ": [0] (cat): runs of another number of pixels: correct it",
            ),
            (
                [{"category": 0, "segmentation": {"size": [6, 8], "counts": "5a"}}],
                ": [0].segmentation.counts are no lengths of runs (runs that end too early)",
            ),
            (
                [{"category": 0, "segmentation": {"size": [5, 8], "counts": [40]}}],
                " is of an image of 8x5, but photos: image of ID is 8x6: restore the image",
            ),
        ],
    ),
    "texts": (
        objects_of(segmentation=TEXT),
        [([{"category": 0, "segmentation": "M 0 0"}], ": [0].segmentation is 'M 0 0': it must")],
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_rows_are_named_with_object_and_field(kind: str, save: Save) -> None:
    feature, cases = BROKEN[kind]
    source = open_source(save(table([row for row, _ in cases], feature)))
    for number, (_, words) in enumerate(cases):
        id = f"train/{number:06d}"
        with pytest.raises(UserError) as caught:
            source.mask(id)
        said = str(caught.value)
        assert said.startswith(f"photos: objects of {id}{words.replace('ID', id)}"), said
        assert one_line(said) == said


def test_broken_sizes_are_named(save: Save) -> None:
    sides = {"width": [8, None, -8, 7], "height": [6, 6, 6, 6]}
    source = open_source(save(table([BOTH] * 4, objects_of(segmentation=RINGS), **sides)))
    assert source.mask("train/000000").any()
    for row, words in (
        (1, ": the row's width is None: it must be a positive whole number"),
        (2, ": the row's width is -8: it must be"),
        (3, " is of an image of 7x6, but photos: image of train/000003 is 8x6: restore the image"),
    ):
        id = f"train/00000{row}"
        with pytest.raises(UserError, match=re.escape(f"photos: objects of {id}{words}")):
            source.mask(id)


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        (
            datasets.List({"segmentation": RINGS}),
            ": objects has segmentation: an object needs a category, and a segmentation or a bbox",
        ),
        (datasets.List({"category": NUMBER}), ": objects has category: an object needs a category"),
        (
            objects_of(datasets.Value("float32"), bbox=BOX),
            ": objects.category holds Value('float32'): it must be class labels, whole numbers or",
        ),
        (
            {"category": NUMBER, "bbox": datasets.List(BOX)},
            "it must be class labels, whole numbers or texts, one for each object",
        ),
        (
            {"category": datasets.List(NUMBER), "bbox": TEXT},
            ": objects.bbox holds Value('string'): it must be a list with an entry for each object",
        ),
        (datasets.List(BOX), " has no column of mask images, and none of objects: it has image, "),
        (TEXT, " has no column of mask images, and none of objects: it has image, objects; name"),
    ],
)
def test_columns_of_another_kind_are_refused(feature: Any, words: str, save: Save) -> None:
    text = save(table([None], feature))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        open_source(text)
    assert str(caught.value).startswith(text)


def test_splits_have_the_same_fields(save: Save) -> None:
    one = table([BOTH], objects_of(segmentation=RINGS))
    other = table([by_field(BOTH)], objects_of(by_field=True, segmentation=RINGS))
    with pytest.raises(UserError, match="objects has other fields in the split train than in"):
        open_source(save({"train": one, "val": other}))
    bare = datasets.Dataset.from_dict(
        {"image": [photo()]}, features=datasets.Features({"image": datasets.Image()})
    )
    source = open_source(save({"train": one, "test": bare}, "bare"))
    assert source.has_mask("train/000000") and not source.has_mask("test/000000")
