"""What `doctor` looks at before a semi-supervised run."""

from __future__ import annotations

from collections import Counter

from u2pl.cli.doctor import Diagnosis, Group, class_table, look_at, say_sizes, warn_of_twins
from u2pl.cli.examination import LOOKED_AT
from u2pl.data.opening import open_source
from u2pl.data.splits import choose_labeled
from u2pl.data.survey import survey
from u2pl.errors import UserError
from u2pl_semi.planning import SemiPlan, SemiRequest


def look_without_split(request: SemiRequest, error: UserError, diagnosis: Diagnosis) -> None:
    """Where broken masks keep a split from being drawn, list the others too; raise any other error as it is."""
    source = open_source(request.data)
    try:
        choose_labeled(source, request.labeled, request.seed)
    except UserError:
        masked = sorted(id for id in source.ids() if source.has_mask(id))
        found = survey(source, masked, LOOKED_AT)
        if found.problems:
            diagnosis.say(
                f"{source.name}: no labelled images could be chosen; looked at {found.looked_at} of {len(masked)} images with masks"
            )
            diagnosis.fix([str(error)])
            diagnosis.fix(found.problems, "images with masks")
            return
    raise error


def look(plan: SemiPlan, diagnosis: Diagnosis) -> list[str]:
    """Look at images and masks; returns the ids to score on."""
    source, split = plan.source, plan.split
    try:
        validation = source.split("val")
    except UserError as error:
        diagnosis.fix([str(error)])
        validation = []
    unlabeled = split.unlabeled if plan.kind.uses_unlabeled else []
    diagnosis.say(f"{source.name} (fingerprint {source.fingerprint()}): {len(source.classes)} classes; labelled: {split.protocol}")
    labelled, val = Group("labelled", split.labeled, True), Group("val", validation, True, LOOKED_AT)
    groups = [labelled, val, Group("unlabelled", unlabeled, False, LOOKED_AT)]
    found = look_at(source, [group for group in groups if group.ids], diagnosis)

    training = [found[name].sizes for name in ("labelled", "unlabelled") if name in found]
    say_sizes("training", sum(training, Counter()), diagnosis, plan.sections.data)
    masked = {group.name: found[group.name] for group in (labelled, val) if group.ids}
    if validation:
        say_sizes("val", found["val"].sizes, diagnosis)
    diagnosis.console.print(class_table(source.classes, masked))
    if found["labelled"].absent:
        names = ", ".join(found["labelled"].absent)
        diagnosis.warn(f"no labelled image shows {names}: it cannot be learnt; choose other images with --labeled")
    if validation and found["val"].absent:
        names = ", ".join(found["val"].absent)
        diagnosis.warn(f"none of {found['val'].masked} val masks shows {names}: what occurs in no val mask is left out of the mIoU")
    warn_of_twins(source, [*split.labeled, *unlabeled], validation, diagnosis)
    return validation
