"""Variants side by side: scores, what each gains over the reference, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from u2pl.errors import UserError, did_you_mean
from u2pl.evaluate.statistics import FEW, LEVEL, scored_words
from u2pl.run.app import App, find_app
from u2pl.run.compare.checks import check_comparable, flags, left_out
from u2pl.run.compare.finished import ROLES, Role, find_runs
from u2pl.run.compare.gains import Gain, Spread, class_scores, gain, last_scores, paired
from u2pl.run.compare.variants import Variant, find_variants

#: Gains from which on some hold by chance.
MANY = 20


class Row(NamedTuple):
    """One network of one variant; mIoU and IoU in percent, gains in percentage points."""

    variant: str
    role: Role  # what it is compared as
    network: str  # what its method calls it
    seeds: tuple[int, ...]
    last: Spread  # mIoU of the last evaluation
    best: Spread | None  # mIoU of each run's best evaluation, which was chosen on the same images
    minutes: float  # mean over the runs
    per_class: tuple[Spread | None, ...]  # IoU by class id; None: not in the masks
    gain: Gain | None  # over the same role of the reference; None for itself, and without a pair
    per_class_gain: tuple[Spread | None, ...]
    words: str  # what the gain shows


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `print` shows its table.

    Args:
        app: that trained the runs.
        variants: the reference first.
        flags: what else differs between the runs, and runs that were left out; a line each.
        notes: how the names are meant.
    """

    app: App
    variants: tuple[Variant, ...]
    flags: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def reference(self) -> Variant:
        """What the others are compared with."""
        return self.variants[0]

    @property
    def classes(self) -> list[str]:
        """Names by class id."""
        return list(self.reference.runs[0].summary["classes"])

    @property
    def evaluation(self) -> str:
        """The scored data and the protocol."""
        return str(self.reference.runs[0].summary["evaluation"])

    @property
    def images(self) -> int | None:
        """Scored images; None if no run has kept their counts."""
        runs = (run for variant in self.variants for run in variant.runs)
        return next((len(run.counted.ids) for run in runs if run.counted is not None), None)

    @cached_property
    def rows(self) -> list[Row]:
        """A row for each variant and role: all students, then all averages."""
        found = (self._row(variant, role) for role in ROLES for variant in self.variants)
        return [row for row in found if row is not None]

    @property
    def doubts(self) -> list[str]:
        """What forbids large words, a line each."""
        gains = [row.gain for row in self.rows if row.gain is not None]
        found = []
        if gains and all(len(gain.seeds) == 1 for gain in gains):
            found.append(
                "every gain is of a single seed: nothing tells whether another seed would show the "
                "same; train with two more at least"
            )
        if self.images is not None and self.images < FEW:
            found.append(
                f"{scored_words(self.images)}: a difference of a few points says nothing about "
                "other images"
            )
        if len(gains) >= MANY:
            chance = round(len(gains) * (1 - LEVEL))
            found.append(
                f"{len(gains)} gains are looked at, of which about {chance} would seem to hold by "
                "chance alone: the largest of many is not to be trusted"
            )
        return found

    def rows_of(self, role: Role) -> list[Row]:
        """The rows of one role."""
        return [row for row in self.rows if row.role == role]

    def markdown(self) -> str:
        """The tables and flags as Markdown."""
        from u2pl.run.compare.tables import markdown

        return markdown(self)

    def csv(self) -> str:
        """A line for each row, with the flags in the last column."""
        from u2pl.run.compare.tables import csv_text

        return csv_text(self)

    def html(self) -> str:
        """A page in one file, with charts."""
        from u2pl.run.compare.page import page

        return page(self)

    def __str__(self) -> str:
        from u2pl.run.compare.tables import plain_text

        return plain_text(self)

    def _row(self, variant: Variant, role: Role) -> Row | None:
        last, reference = last_scores(variant, role), self.reference
        spread = Spread.of(list(last.values()))
        if spread is None:
            return None
        best = [value for run in variant.runs if (value := run.best(role)) is not None]
        itself = variant is reference
        found = None if itself else gain(variant, reference, role)
        ids = range(len(self.classes))
        ours = [class_scores(variant, role, id) for id in ids]
        theirs = [class_scores(reference, role, id) for id in ids]
        gains = [
            None if itself else Spread.of(list(paired(one, other).values()))
            for one, other in zip(ours, theirs, strict=True)
        ]
        return Row(
            variant.name,
            role,
            variant.runs[0].network(role) or role,
            tuple(last),
            spread,
            Spread.of(best) if len(best) == len(last) else None,
            sum(run.minutes for run in variant.runs) / len(variant.runs),
            tuple(Spread.of(list(each.values())) for each in ours),
            found,
            tuple(gains),
            _words(found, itself, reference, role),
        )


def _words(found: Gain | None, itself: bool, reference: Variant, role: Role) -> str:
    if itself:
        return "the reference"
    if found is not None:
        return found.words()
    if not last_scores(reference, role):
        return f"{reference.name} has no {role}"
    return f"no seed in common with {reference.name}"


def compare(
    folders: Iterable[Path], against: str | None = None, app: App | None = None
) -> Comparison:
    """Compare finished runs, grouped into variants that differ in more than the seed.

    Args:
        folders: of runs, or folders that hold runs.
        against: the variant to be compared with; the app's baseline if left out, or the first
            variant if that is not among them.
        app: that trained them; found in the first run if left out.

    Raises:
        UserError: There is no finished run, one is damaged, their scores do not mean the same, or
            there is no such variant.
    """
    found = find_runs(folders, app.name if app is not None else None)
    if not found.runs:
        more = "; ".join(left_out(found))
        raise UserError(f"there is nothing to compare: {more or 'no folder was given'}")
    app = app or find_app(str(found.runs[0].config["app"]))
    check_comparable(app.name, found.runs)
    variants, notes = find_variants(app, found.runs)
    reference = _reference(variants, against, app.baseline)
    ordered = (reference, *(each for each in variants if each is not reference))
    said = (*flags(ordered, reference), *left_out(found))
    return Comparison(app, ordered, said, tuple(notes))


def _reference(variants: Sequence[Variant], against: str | None, baseline: str) -> Variant:
    wanted = against or baseline
    exact = [each for each in variants if each.name == wanted]
    ofmethod = [each for each in variants if each.method == wanted]
    if exact or (ofmethod and (against is None or len(ofmethod) == 1)):
        return (exact or ofmethod)[0]
    if against is None:
        return variants[0]
    names = [each.name for each in variants]
    raise UserError(
        f"--against {against}: there is no such variant{did_you_mean(against, names)}; there are "
        + "; ".join(names)
    )
