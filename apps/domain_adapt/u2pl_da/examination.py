"""What `doctor` looks at before an adaptation."""

from __future__ import annotations

from u2pl.cli.doctor import Diagnosis, Group, class_table, look_at, say_sizes, warn_of_twins
from u2pl.cli.examination import LOOKED_AT
from u2pl.errors import UserError
from u2pl_da.planning import AdaptPlan, AdaptRequest


def look_without_plan(request: AdaptRequest, error: UserError, diagnosis: Diagnosis) -> None:
    """Without two domains that fit there is nothing to look at."""
    raise error


def look(plan: AdaptPlan, diagnosis: Diagnosis) -> list[str]:
    """Look at images and masks of both domains; returns the ids to score on."""
    source, target, classes = plan.source, plan.target, plan.scored.classes
    scored: list[str] = []
    try:
        scored = plan.scored_ids
        plan.check()
    except UserError as error:
        diagnosis.fix([str(error)])
    diagnosis.say(f"{plan.described}: {len(classes)} classes")
    own = Group("source", source.ids, True, LOOKED_AT)
    found = look_at(source.data, [own], diagnosis)
    others = [Group("target", target.ids, False, LOOKED_AT), Group("scored", scored, True, LOOKED_AT)]
    found |= look_at(target.data, [group for group in others if group.ids], diagnosis)

    data = plan.sections.data
    say_sizes("source", found["source"].sizes, diagnosis, data)
    say_sizes("target", found["target"].sizes, diagnosis, data.model_copy(update={"long_side": data.target_long_side}))
    if scored:
        say_sizes("scored", found["scored"].sizes, diagnosis)
    diagnosis.console.print(class_table(classes, {name: found[name] for name in ("source", "scored") if name in found}))
    if found["source"].absent:
        names = ", ".join(found["source"].absent)
        diagnosis.warn(f"none of {found['source'].masked} source masks shows {names}: what the source does not show cannot be learnt")
    if scored and found["scored"].absent:
        names = ", ".join(found["scored"].absent)
        diagnosis.warn(f"none of {found['scored'].masked} scored masks shows {names}: what occurs in none is left out of the mIoU")
    warn_of_twins(target.data, target.ids, scored, diagnosis)
    return scored
