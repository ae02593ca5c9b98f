"""`doctor`: will this data and this recipe work, and what will a run cost?"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable

from rich.console import Console

from u2pl.counting import Counting
from u2pl.data.classes import listed
from u2pl.data.mask_checks import only_black_and_white
from u2pl.data.source import Source
from u2pl.data.survey import Survey
from u2pl.doctor.costs import say_costs, say_state
from u2pl.doctor.findings import (
    Diagnosis,
    class_table,
    look_at,
    say_sizes,
    warn_of_twins,
)
from u2pl.doctor.mask_pictures import draw_masks
from u2pl.errors import UserError
from u2pl.evaluate.crf import load_crf
from u2pl.evaluate.statistics import FEW, scored_words
from u2pl.methods.method import AnyMethod
from u2pl.model.model import choose_device
from u2pl.networks.config import RANDOM
from u2pl.run.app import App
from u2pl.run.request import TRAIN_ONLY, Request
from u2pl.run.resumption import typed
from u2pl.run.task import Part, Task
from u2pl.run.train import make_task
from u2pl.training.loop import check_method
from u2pl.training.memory import keep_freed_memory


def examine(app: App, request: Request, console: Console, counting: Counting) -> int:
    """Print what is found; returns the exit code: 0, or 2 if a run would fail."""
    diagnosis = Diagnosis(console)
    try:
        task = make_task(app, request, counting)
    except UserError as error:
        if error.proposal:
            diagnosis.say(error.proposal)
            diagnosis.fix([str(error)])
            return diagnosis.conclude("")
        look_without_task(app.task_module.parts_without_task(request), error, diagnosis)
        return diagnosis.conclude("")
    scored = look(task, diagnosis)
    ids = scored.ids if scored is not None else []
    if task.protocol.crf:
        try:
            load_crf()
        except UserError as error:
            diagnosis.fix([str(error)])
    diagnosis.say()
    method, network = _build(task, diagnosis)
    _say_recipe(task, method, scored, diagnosis)
    if network:
        diagnosis.say(network)
    if method is not None:
        keep_freed_memory()  # as training does
        method = method.to(choose_device(request.cpu))
        try:
            check_method(method, task.recipe.sections.train, method.device.type == "cuda")
        except UserError as error:
            diagnosis.fix([str(error)])
        say_state(task, method, diagnosis)
        say_costs(task, method, ids, diagnosis)
    words = request.words(*TRAIN_ONLY)
    return diagnosis.conclude(shlex.join([*typed(app.name), "train", *words]))


def look(task: Task, diagnosis: Diagnosis) -> Part | None:
    """Look at images and masks of all parts; returns the scored part, None if it is in error."""
    scored = None
    try:
        scored = task.scored
        task.check_masks()
        task.check()
    except UserError as error:
        diagnosis.fix([str(error)])
    diagnosis.say(f"{task.described}: {len(task.parts[0].source.classes)} classes")
    parts = [part for part in (*task.streams, scored) if part is not None and part.ids]
    found = {part.role: look_at(part, diagnosis) for part in parts}
    looked_at = ", ".join(f"{found[p.role].looked_at} of {len(p.ids)} {p.role}" for p in parts)
    diagnosis.say(f"looked at: {looked_at} images")
    for crops in task.crops():
        sizes = [found[part.role].sizes for part in crops.parts if part.role in found]
        roles = " and ".join(part.role for part in crops.parts)
        say_sizes(roles, sum(sizes, Counter()), diagnosis, crops)
    if scored is not None and scored.ids:
        say_sizes(scored.role, found[scored.role].sizes, diagnosis)
    if scored is not None and not diagnosis.faults:  # some images may not have been looked at
        try:
            task.check_scored()
        except UserError as error:
            diagnosis.fix([str(error)])
    masked = {part.role: found[part.role] for part in parts if part.masked}
    broken = [part for part in parts if found[part.role].problems]
    for source in {id(part.source): part.source for part in broken}.values():
        propose(
            source, [id for part in broken if part.source is source for id in part.ids], diagnosis
        )
    if masked:
        diagnosis.console.print(class_table(task.classes, masked))
    draw_masks([part for part in parts if part.masked or part is scored], diagnosis)
    for table in task.tables():
        diagnosis.print(table)
    _warn_of_absent(parts, scored, found, diagnosis)
    for doubt in task.doubts(scored):
        diagnosis.warn(doubt)
    if scored is not None and 0 < len(scored.ids) < FEW:
        diagnosis.warn(
            f"{scored_words(len(scored.ids))}: a difference of a few points of mIoU says nothing; "
            f"add masks until at least {FEW} are"
        )
    if scored is not None:
        same = [part for part in task.streams if part.source is scored.source]
        training = [id for part in same for id in part.ids]
        warn_of_twins(scored.source, training, scored.ids, diagnosis)
    return scored


def look_without_task(parts: Iterable[Part], error: UserError, diagnosis: Diagnosis) -> None:
    """Report broken masks if they are why there is no task; else raise the error again."""
    for part in parts:
        found = look_at(part, diagnosis, quiet=True)
        if found.problems:
            diagnosis.say(
                f"{part.source.name}: no labelled images could be chosen; looked at "
                f"{found.looked_at} of {len(part.ids)} images with masks"
            )
            diagnosis.fix([str(error)])
            diagnosis.fix(found.problems, "images with masks")
            propose(part.source, part.ids, diagnosis)
            return
    raise error


def propose(source: Source, ids: list[str], diagnosis: Diagnosis) -> None:
    """Print a file that would mend the masks, if there is one."""
    lines = source.proposal(ids)
    if lines:
        diagnosis.say(f"{source.name}: {lines}")


def _warn_of_absent(
    parts: list[Part], scored: Part | None, found: dict[str, Survey], diagnosis: Diagnosis
) -> None:
    for part in parts:
        result = found[part.role]
        white = only_black_and_white(part.source) in result.problems  # says more
        if not part.masked or white:
            continue
        once = [
            name
            for name, images in zip(part.source.classes, result.images, strict=True)
            if images == 1 and result.masked > 1
        ]
        if once and part is not scored:
            diagnosis.warn(
                f"only one of {result.masked} {part.role} masks shows {listed(once)}: add masks, "
                "for what it looks like elsewhere is hardly learnt"
            )
        if not result.absent:
            continue
        names = listed(result.absent)
        masks = f"none of {result.masked} {part.role} masks shows {names}"
        if part is scored:
            other = (
                f"; {part.source.naming_val} with images that show all classes"
                if part.source.held_out
                else ""
            )
            diagnosis.warn(f"{masks}: a class that occurs in none is left out of the mIoU{other}")
        else:
            diagnosis.warn(f"{masks}: it cannot be learnt; choose other images")


def _say_recipe(
    task: Task, method: AnyMethod | None, scored: Part | None, diagnosis: Diagnosis
) -> None:
    """Print what the recipe means for this data."""
    sections = task.recipe.sections
    train, crop = sections.train, sections.data.crop
    seen = task.total * train.batch
    crops = " and ".join(f"{train.batch * part.share:g} {part.role}" for part in task.streams)
    passes = " and ".join(
        f"{seen * part.share / len(part.ids):.1f} over the {part.role} images"
        for part in task.streams
    )
    diagnosis.say(
        f"{task.request.method} with preset {task.recipe.preset}: {task.total} steps of {crops} "
        f"crops of {crop} pixels; passes: {passes}"
    )
    if task.warm_steps:
        warming = task.recipe.kind.warming
        diagnosis.say(f"warm start: the first {task.warm_steps} steps are {warming}")
    rates = train.rates(task.network().freeze_encoder)
    diagnosis.say(
        f"learning rate: {rates} ({train.optimizer}; train.lr={train.lr:g} is for a batch of "
        f"{train.reference_batch})"
    )
    try:
        notes = task.notes(method, scored)
    except UserError as error:  # a note may need what is broken
        diagnosis.fix([str(error)])
        return
    for note in notes:
        diagnosis.say(f"note: {note}")


def _build(task: Task, diagnosis: Diagnosis) -> tuple[AnyMethod | None, str]:
    """The method, and a line on its network.

    If the weights to begin with cannot be had it starts from random ones, so that the rest can
    still be tried.
    """
    network = task.recipe.sections.network
    weights = (
        "from random numbers"
        if network.encoder_weights == RANDOM
        else f"weights loaded from {network.encoder_weights}"
    )
    try:
        method, beginning = task.begin()
        if beginning is not None:
            weights = "; ".join(beginning.lines)
        return method, f"network: {network.decoder} on {network.encoder}, {weights}"
    except UserError as error:
        diagnosis.fix([str(error)])
    try:
        return task.from_random_weights().build_method(), ""
    except UserError:
        return None, ""
