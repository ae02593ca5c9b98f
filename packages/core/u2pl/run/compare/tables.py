"""A comparison as text: for the terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from u2pl.errors import one_line
from u2pl.evaluate.statistics import Interval
from u2pl.report.markdown import escaped
from u2pl.run.compare.comparison import Comparison
from u2pl.run.compare.finished import ROLES, Role
from u2pl.run.compare.gains import Spread

#: Classes and variants up to which the terminal shows the IoU of each class.
CLASSES, VARIANTS = 40, 6
#: How the numbers are read, in every output.
READING = (
    "mIoU in percent. last: at the last step; best: of each run's best evaluation, which was "
    "chosen on the scored images and flatters. ±: standard deviation over seeds. Student is "
    "compared with student and average (teacher, EMA) with average, since averaging alone often "
    "gains more than a method does."
)
READING_GAINS = (
    "Gains are paired by seed. Over seeds: 95 % interval of the mean gain, by Student's t; it says "
    "whether another seed would gain too. Over images: 95 % interval by a paired bootstrap of the "
    "scored images; it says whether other images would. An interval that holds 0 shows no gain, "
    "and of twenty such intervals one misses the truth by chance."
)


class Columns(NamedTuple):
    """A table of text."""

    heads: list[str]
    rows: list[list[str]]
    breaks: list[int]  # rows behind which a new section begins


def main_table(found: Comparison) -> Columns:
    """A row for each variant and role; columns that would be empty are left out."""
    rows, name = found.rows, found.reference.name
    columns: list[tuple[str, list[str]]] = [
        ("variant", [row.variant for row in rows]),
        ("network", [row.network for row in rows]),
        ("seeds", [str(len(row.seeds)) for row in rows]),
        ("last", [row.last.words() for row in rows]),
        ("best", [spread_words(row.best) for row in rows]),
        (f"gain over {name}", [spread_words(row.gain and row.gain.spread, "+") for row in rows]),
        ("95 % over seeds", [interval_words(row.gain and row.gain.over_seeds) for row in rows]),
        ("95 % over images", [interval_words(row.gain and row.gain.over_images) for row in rows]),
        ("minutes", [f"{row.minutes:.1f}" for row in rows]),
    ]
    if len(found.variants) > 1:
        columns.append(("what it shows", [row.words for row in rows]))
    kept = [(head, cells) for head, cells in columns if any(cells)]
    ends = [i for i, (a, b) in enumerate(pairwise(rows)) if a.role != b.role]
    cells = zip(*(cells for _, cells in kept), strict=True)
    return Columns([head for head, _ in kept], [list(each) for each in cells], ends)


def class_table(found: Comparison, role: Role) -> Columns:
    """IoU of each class: classes by variants, or variants by classes if these are fewer."""
    rows, classes = found.rows_of(role), found.classes
    cells = [[spread_words(each) or "absent" for each in row.per_class] for row in rows]
    names = [row.variant for row in rows]
    if len(names) > len(classes):
        own = [[name, *each] for name, each in zip(names, cells, strict=True)]
        return Columns(["IoU %", *classes], own, [])
    turned = zip(classes, *cells, strict=True)
    return Columns(["IoU %", *names], [list(each) for each in turned], [])


def spread_words(spread: Spread | None, sign: str = "") -> str:
    """Mean ± standard deviation, or nothing."""
    return spread.words(sign) if spread is not None else ""


def interval_words(interval: Interval | None) -> str:
    """Both ends, or nothing."""
    return f"{interval.low:+.2f} to {interval.high:+.2f}" if interval is not None else ""


def heading(found: Comparison) -> str:
    """What was compared."""
    runs = sum(len(variant.runs) for variant in found.variants)
    images = f", {_count(found.images, 'image')}" if found.images is not None else ""
    what = f"{_count(runs, 'run')} of {_count(len(found.variants), 'variant')}"
    return f"{what}, scored on {found.evaluation}{images}"


def reading(found: Comparison) -> list[str]:
    """How the numbers are read."""
    return [READING, READING_GAINS] if len(found.variants) > 1 else [READING]


def rendered(found: Comparison) -> RenderableType:
    """For a terminal: the table, the classes if there is room, notes and flags."""
    parts: list[RenderableType] = [Text(one_line(heading(found))), _Fitted(main_table(found))]
    if len(found.variants) <= VARIANTS and len(found.classes) <= CLASSES:
        for role in ROLES:
            if found.rows_of(role):
                parts += [Text(f"{role}s, last:"), _Fitted(class_table(found, role))]
    said = [*found.notes, *(f"note: {line}" for line in (*found.doubts, *found.flags))]
    return Group(*parts, *(Text(one_line(line)) for line in said))


def plain_text(found: Comparison, width: int = 180) -> str:
    """What the terminal shows, without colours."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(rendered(found))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def markdown(found: Comparison) -> str:
    """The tables and flags as Markdown."""
    parts = [f"{escaped(heading(found))}.", _pipes(main_table(found))]
    said = [*found.doubts, *found.flags, *found.notes]
    if said:
        parts.append("\n".join(f"- {escaped(line)}" for line in said))
    for role in ROLES:
        if found.rows_of(role):
            parts += [f"IoU of each class, {role}, last:", _pipes(class_table(found, role))]
    return "\n\n".join([*parts, *reading(found)]) + "\n"


def csv_text(found: Comparison) -> str:
    """A line for each row; numbers in full, and what is not known left empty."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    classes, flags = found.classes, "; ".join([*found.doubts, *found.flags])
    table.writerow(
        [
            *("variant", "method", "role", "network", "seeds", "last", "last_std"),
            *("best", "best_std", "minutes", "reference", "gain_seeds", "gain", "gain_std"),
            *("seeds_low", "seeds_high", "images_low", "images_high", "shows"),
            *(f"iou {name}" for name in classes),
            *(f"iou_std {name}" for name in classes),
            *(f"iou_gain {name}" for name in classes),
            *("runs", "flags"),
        ]
    )
    by_name = {variant.name: variant for variant in found.variants}
    for row in found.rows:
        variant, gain = by_name[row.variant], row.gain
        table.writerow(
            [
                *(row.variant, variant.method, row.role, row.network, _joined(row.seeds)),
                *(*_numbers(row.last), *_numbers(row.best), _number(row.minutes)),
                *(found.reference.name, _joined(gain.seeds) if gain else ""),
                *_numbers(gain and gain.spread),
                *(_ends(gain and gain.over_seeds) + _ends(gain and gain.over_images)),
                row.words,
                *(_numbers(each)[0] for each in row.per_class),
                *(_numbers(each)[1] for each in row.per_class),
                *(_numbers(each)[0] for each in row.per_class_gain),
                *(_joined([run.folder for run in variant.runs]), flags),
            ]
        )
    return out.getvalue()


class _Fitted:
    """A table; where the terminal is too narrow for its numbers, a list of what each row says."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = _rich(self.columns)
        if (
            Measurement.get(console, options.update(width=10_000), table).minimum
            <= options.max_width
        ):
            yield table
            return
        for name, *cells in self.columns.rows:
            yield Text(one_line(name), style="bold")
            row = Table.grid(padding=(0, 2))
            for head, cell in zip(self.columns.heads[1:], cells, strict=True):
                if cell:
                    row.add_row("", Text(one_line(head)), Text(one_line(cell)))
            yield row


def _rich(columns: Columns) -> Table:
    table = Table()
    for i, head in enumerate(columns.heads):
        number = i > 0 and head not in ("network", "what it shows")
        table.add_column(
            Text(one_line(head)), justify="right" if number else "left", no_wrap=number
        )
    for i, row in enumerate(columns.rows):
        table.add_row(*(Text(one_line(cell)) for cell in row), end_section=i in columns.breaks)
    return table


def _pipes(columns: Columns) -> str:
    rows = [columns.heads, ["---"] * len(columns.heads), *columns.rows]
    return "\n".join("| " + " | ".join(map(escaped, row)) + " |" for row in rows)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _joined(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


def _number(value: float) -> str:
    return f"{value:.4f}" if value == value else ""


def _numbers(spread: Spread | None) -> tuple[str, str]:
    return (_number(spread.mean), _number(spread.deviation)) if spread is not None else ("", "")


def _ends(interval: Interval | None) -> tuple[str, str]:
    return (_number(interval.low), _number(interval.high)) if interval is not None else ("", "")
