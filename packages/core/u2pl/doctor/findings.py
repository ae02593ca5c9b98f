"""Findings about the data: what would stop a run, and what a person should know."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from u2pl.data.file_source import FileSource
from u2pl.data.ids import first_three
from u2pl.data.source import Source
from u2pl.data.survey import Survey, survey
from u2pl.maps import shrink_factor
from u2pl.run.task import Crops, Part
from u2pl.training.config import DataConfig

#: Problems of one kind that are printed; the rest are counted.
SHOWN = 10
#: Images of a part that are looked at, evenly spread.
LOOKED_AT = 300
#: Share of padding in the training crops that is worth a warning.
MUCH_PADDING = 0.4
#: Share of an image in a crop, below which the network sees too little around a pixel.
SMALL_VIEW = 0.03


class Diagnosis:
    """Prints findings as they come, and last what must be fixed, or the command that will work."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.faults: list[str] = []

    def say(self, text: str = "") -> None:
        """Print a line as it is, however long."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def warn(self, text: str) -> None:
        """Print what does not stop a run, but a person should know."""
        self.say(f"warning: {text}")

    def fix(self, problems: Sequence[str], kind: str = "problems") -> None:
        """Remember what would stop a run: ten problems, one of each kind first; count the rest."""
        self.faults += [
            problem for problem in varied(problems)[:SHOWN] if problem not in self.faults
        ]
        if len(problems) > SHOWN:
            self.faults.append(f"… and {len(problems) - SHOWN} more {kind}")

    def print(self, table: Table | str) -> None:
        """Print a table, or a line."""
        if isinstance(table, str):
            self.say(table)
        else:
            self.console.print(table)

    def conclude(self, command: str) -> int:
        """Print the last word; returns the exit code, 0 or 2."""
        self.say()
        if not self.faults:
            self.say(f"ready: {command}")
            return 0
        self.say("fix this first:")
        for fault in self.faults:
            self.say(f"  - {fault}")
        return 2


def varied(problems: Sequence[str]) -> list[str]:
    """The problems, the first of each kind in front, then the second, and so on.

    Kinds differ in more than paths and numbers.
    """
    times: Counter[str] = Counter()
    turns = []
    for problem in problems:
        kind = re.sub(r"\S*[/\\]\S*|\d+", "", problem)
        turns.append(times[kind])
        times[kind] += 1
    return [
        problem
        for _, problem in sorted(zip(turns, problems, strict=True), key=lambda pair: pair[0])
    ]


def look_at(part: Part, diagnosis: Diagnosis, quiet: bool = False) -> Survey:
    """Decode images and masks of a part; broken ones, and missing masks, must be fixed.

    Args:
        part: at most `LOOKED_AT` of its images are looked at, unless it asks for all.
        diagnosis: takes the problems, unless `quiet`.
    """
    with diagnosis.console.status(f"looking at {part.role} images"):
        result = survey(part.source, part.ids, None if part.check_all else LOOKED_AT)
    if quiet:
        return result
    kind, left = f"{part.role} images", len(part.ids) - result.looked_at
    if left and result.problems:
        kind += f" of the {result.looked_at} looked at; {left} were not"
    diagnosis.fix(result.problems, kind)
    bare = [id for id in part.ids if not part.source.has_mask(id)] if part.masked else []
    if bare:
        advice = part.source.where_masks_lack("add their masks or take them out of the list")
        diagnosis.fix([f"{part.role} images without mask: {first_three(bare)}: {advice}"])
    return result


def class_table(classes: Sequence[str], found: Mapping[str, Survey]) -> Table:
    """For each class its share of the labelled pixels, and the number of masks that show it."""
    table = Table("id", "class", box=None)
    for name in found:
        table.add_column(f"{name}: pixels %", justify="right")
        table.add_column("masks", justify="right")
    for id, name in enumerate(classes):
        cells = [cell for result in found.values() for cell in _class_cells(result, id)]
        table.add_row(str(id), Text(name), *cells)
    ignored = [
        cell
        for result in found.values()
        for cell in (_percent(result.ignored, result.ignored + int(result.pixels.sum())), "")
    ]
    table.add_row("255", "ignored, of all pixels", *ignored, style="dim")
    return table


def say_sizes(
    name: str, sizes: Counter[tuple[int, int]], diagnosis: Diagnosis, crops: Crops | None = None
) -> None:
    """Print smallest, median and largest image, and how training crops fit them."""
    ordered = sorted(sizes.elements(), key=lambda size: (size[0] * size[1], size))
    if not ordered:
        return
    small, middle, large = (
        f"{width}x{height}"
        for width, height in (ordered[0], ordered[len(ordered) // 2], ordered[-1])
    )
    diagnosis.say(f"{name} images: {small} (smallest), {middle} (median), {large} (largest)")
    if crops is None:
        return
    data = crops.data
    factors = [shrink_factor(size, data.long_side) for size in ordered]
    short = sorted(min(size) * factor for size, factor in zip(ordered, factors, strict=True))
    padding = padded_share(sizes, data)
    smaller = f"{sum(side < data.crop for side in short)} of {len(ordered)}"
    shrunk = sum(factor < 1 for factor in factors)
    after = f" after {shrunk} are shrunk to {data.long_side}" if shrunk else ""
    diagnosis.say(
        f"crops: {smaller} are smaller than the crop of {data.crop}{after}; {100 * padding:.0f} % "
        "of the crops is padding"
    )
    width, height = (side * factors[len(ordered) // 2] for side in ordered[len(ordered) // 2])
    if padding > MUCH_PADDING:
        fitting = fitting_crop(sizes, data, int(short[len(short) // 2]))
        advice = f"; fitting: --set data.crop={fitting}" if fitting else ", and for any other"
        diagnosis.warn(f"the images are small for this crop{advice}")
    elif data.crop**2 < SMALL_VIEW * width * height:
        seen = 100 * data.crop**2 / (width * height)
        # no image should become smaller than the crop
        times = max(4, math.ceil(max(width, height) / min(width, height)))
        diagnosis.warn(
            f"a crop shows {seen:.1f} % of an image; see more of it with --set "
            f"{crops.option}={times * data.crop}"
        )


def fitting_crop(sizes: Counter[tuple[int, int]], data: DataConfig, most: int) -> int:
    """The largest crop, a multiple of 32, without much padding; 0 if there is none.

    Args:
        sizes: (width, height) of the images.
        data: how they are shrunk and scaled.
        most: pixels that the crop has at most.
    """
    for crop in range(max(32, most // 32 * 32), 0, -32):
        if padded_share(sizes, data.model_copy(update={"crop": crop})) <= MUCH_PADDING:
            return crop
    return 0


def padded_share(sizes: Counter[tuple[int, int]], data: DataConfig) -> float:
    """Share of the training crops that is padding, averaged over images and scales."""
    low, high = data.scale
    filled = 0.0
    for size, count in sizes.items():
        for i in range(20):
            factor = (
                (low + (high - low) * (i + 0.5) / 20)
                * shrink_factor(size, data.long_side)
                / data.crop
            )
            filled += count / 20 * min(1.0, factor * size[0]) * min(1.0, factor * size[1])
    return max(0.0, 1 - filled / sizes.total())


def warn_of_twins(
    source: Source, training: Sequence[str], scored: Sequence[str], diagnosis: Diagnosis
) -> None:
    """Warn of images that are trained on and scored: in both lists, or with the same content."""
    both = sorted(set(training) & set(scored))
    if both:
        diagnosis.warn(
            f"in the training and the val list: {first_three(both)}; scores will be too high"
        )
    if isinstance(source, FileSource):
        twins = _same_files(source, [id for id in training if id not in set(both)], scored)
        if twins:
            diagnosis.warn(
                f"training images with the same content as val images: {first_three(twins)}; "
                "scores will be too high"
            )


def _same_files(source: FileSource, training: Sequence[str], scored: Sequence[str]) -> list[str]:
    """Pairs `training id = val id`; only files of equal size are read."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for id in scored:
        by_size[_size(source.images[id])].append(id)
    known: dict[int, dict[bytes, str]] = {}
    twins = []
    for id in training:
        size = _size(source.images[id])
        if size > 0 and size in by_size:
            if size not in known:
                known[size] = {_digest(source.images[other]): other for other in by_size[size]}
            digest = _digest(source.images[id])
            if digest in known[size]:
                twins.append(f"{id} = {known[size][digest]}")
    return twins


def _class_cells(result: Survey, id: int) -> tuple[Text | str, str]:
    if result.masked and not result.pixels[id]:
        return Text("absent", style="yellow"), "0"
    return _percent(int(result.pixels[id]), int(result.pixels.sum())), str(int(result.images[id]))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else ""


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1


def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
