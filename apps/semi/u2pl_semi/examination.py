"""`doctor`: will this data and this recipe work, and what will a run cost?"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from rich.console import Console

from u2pl.cli.app import App
from u2pl.cli.costs import Prospect, say_costs, say_state
from u2pl.cli.doctor import Diagnosis, Group, class_table, look_at, say_sizes, warn_of_twins
from u2pl.cli.use import choose_device
from u2pl.data.opening import open_source
from u2pl.data.splits import choose_labeled
from u2pl.data.survey import survey
from u2pl.errors import UserError
from u2pl.method import Method
from u2pl.networks.config import RANDOM
from u2pl.train.memory import keep_freed_memory
from u2pl_semi.planning import Plan, Request, build_dataset, build_method, make_plan

#: Val and unlabelled images that are looked at; of the labelled ones, all.
LOOKED_AT = 300


def examine(app: App, request: Request, console: Console) -> int:
    """Print what is found; returns the exit code: 0, or 2 when a run would fail.

    Raises UserError when nothing can be looked at, or the request itself is the only mistake.
    """
    diagnosis = Diagnosis(console)
    try:
        plan = make_plan(app, request)
    except UserError as error:
        _examine_without_split(request, error, diagnosis)
        return diagnosis.conclude(())
    validation = _examine_data(plan, diagnosis)
    diagnosis.say()
    _say_recipe(plan, diagnosis)
    method = _build(plan, diagnosis)
    if method is not None:
        keep_freed_memory()  # as training does
        run = _prospect(plan, method.to(choose_device(request.cpu)), validation)
        say_state(run, diagnosis)
        say_costs(run, diagnosis)
    return diagnosis.conclude(_command(app, request))


def _examine_without_split(request: Request, error: UserError, diagnosis: Diagnosis) -> None:
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


def _examine_data(plan: Plan, diagnosis: Diagnosis) -> list[str]:
    """Look at images and masks; returns the ids to score on."""
    source, split = plan.source, plan.split
    try:
        validation = source.split("val")
    except UserError as error:
        diagnosis.fix([str(error)])
        validation = []
    unlabeled = split.unlabeled if plan.kind.uses_unlabeled else []
    diagnosis.say(f"{source.name} (fingerprint {source.fingerprint()}): {len(source.classes)} classes; labelled: {split.protocol}")
    for note in source.notes:
        diagnosis.say(f"note: {note}")
    labelled, val = Group("labelled", split.labeled, True), Group("val", validation, True, LOOKED_AT)
    groups = [labelled, val, Group("unlabelled", unlabeled, False, LOOKED_AT)]
    found = look_at(source, [group for group in groups if group.ids], diagnosis)

    training = [found[name].sizes for name in ("labelled", "unlabelled") if name in found]
    say_sizes("training", sum(training, Counter()), diagnosis, plan.resolved.sections.data)
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


def _say_recipe(plan: Plan, diagnosis: Diagnosis) -> None:
    """Print what the recipe means for this data."""
    train, split, crop = plan.resolved.sections.train, plan.split, plan.resolved.sections.data.crop
    seen = plan.total * train.batch
    crops, passes = f"{train.batch} labelled", f"{seen / len(split.labeled):.1f} passes over the labelled images"
    if plan.kind.uses_unlabeled:
        crops += f" and {train.batch} unlabelled"
        passes += f" and {seen / len(split.unlabeled):.1f} over the unlabelled ones"
    diagnosis.say(f"{plan.request.method} with preset {plan.preset}: {plan.total} steps of {crops} crops of {crop} pixels; {passes}")
    if _warm_steps(plan):
        diagnosis.say(f"warm start: the first {_warm_steps(plan)} steps are supervised only")
    rest = train.scaled_lr * train.head_lr_factor
    diagnosis.say(
        f"learning rate: {train.scaled_lr:g} for the encoder, {rest:g} for the rest ({train.optimizer}; "
        f"train.lr={train.lr:g} is meant for a batch of {train.reference_batch})"
    )
    for note in plan.kind.notes(plan.resolved.method, len(plan.source.classes)):
        diagnosis.say(f"note: {note}")


def _build(plan: Plan, diagnosis: Diagnosis) -> Method | None:
    """The method; with a random encoder where its weights cannot be had, so that the rest can still be tried."""
    network = plan.resolved.sections.network
    weights = "from random numbers" if network.encoder_weights == RANDOM else f"weights loaded from {network.encoder_weights}"
    try:
        method = build_method(plan)
        diagnosis.say(f"network: {network.decoder} on {network.encoder}, {weights}")
        return method
    except UserError as error:
        diagnosis.fix([str(error)])
    sections = plan.resolved.sections.model_copy(update={"network": network.model_copy(update={"encoder_weights": RANDOM})})
    try:
        return build_method(replace(plan, resolved=plan.resolved.model_copy(update={"sections": sections})))
    except UserError:
        return None


def _prospect(plan: Plan, method: Method, validation: list[str]) -> Prospect:
    batch, both = plan.resolved.sections.train.batch, plan.kind.uses_unlabeled
    return Prospect(
        method=method,
        dataset=build_dataset(plan),
        sections=plan.resolved.sections,
        total=plan.total,
        warm=_warm_steps(plan),
        seed=plan.request.seed,
        student_images=batch * (2 if both else 1),
        teacher_images=batch * (3 if both else 0),  # U2PL's teacher sees the unlabelled images clean and mixed, and the labelled ones
        source=plan.source,
        scored=validation,
    )


def _warm_steps(plan: Plan) -> int:
    return round(getattr(plan.resolved.method, "warm_start", 0.0) * plan.total)


def _command(app: App, request: Request) -> list[str]:
    """What to type to train as examined."""
    words = [app.name, "train", request.method, "--data", request.data]
    for option, value in (("--preset", request.preset), ("--labeled", request.labeled)):
        words += [option, value] if value is not None else []
    for assignment in request.assignments:
        words += ["--set", assignment]
    return words + (["--seed", str(request.seed)] if request.seed else [])
