"""What `doctor` looks at before a weakly supervised run."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from u2pl.cli.doctor import Diagnosis, Group, class_table, look_at, say_sizes, warn_of_twins
from u2pl.cli.examination import LOOKED_AT
from u2pl.errors import UserError
from u2pl_ws.planning import WeakPlan


def look_without_plan(error: UserError, diagnosis: Diagnosis) -> None:
    """Without data and tags there is nothing to look at."""
    raise error


def look(plan: WeakPlan, diagnosis: Diagnosis) -> list[str]:
    """Look at images, tags and the masks that are scored on; returns the ids to score on."""
    source, training = plan.source, list(plan.tags)
    scored: list[str] = []
    for attempt in (lambda: scored.extend(plan.scored_ids), plan.check):
        try:
            attempt()
        except UserError as error:
            diagnosis.fix([str(error)])
    diagnosis.say(f"{plan.described}: {len(source.classes)} classes")
    groups = [Group("tagged", training, False, LOOKED_AT), Group("val", scored, True, LOOKED_AT)]
    found = look_at(source, [group for group in groups if group.ids], diagnosis)
    say_sizes("tagged", found["tagged"].sizes, diagnosis, plan.sections.data)
    if scored:
        say_sizes("val", found["val"].sizes, diagnosis)
        diagnosis.console.print(class_table(source.classes, {"val": found["val"]}))
    _say_tags(plan, diagnosis)
    warn_of_twins(source, training, scored, diagnosis)
    return scored


def _say_tags(plan: WeakPlan, diagnosis: Diagnosis) -> None:
    """Print how many images each class is named for."""
    seen = Counter(k for classes in plan.tags.values() for k in classes)
    table = Table("id", "class", "tagged images", box=None)
    for k, name in enumerate(plan.source.classes[1:], 1):
        table.add_row(str(k), name, str(seen[k]))
    diagnosis.console.print(table)
    most = Counter(map(len, plan.tags.values()))
    diagnosis.say("tags of an image: " + ", ".join(f"{most[n]} have {n}" for n in sorted(most)))
