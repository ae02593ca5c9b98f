"""`doctor`: will this data and this recipe work, and what will a run cost?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import Console

from u2pl.cli.costs import Prospect, say_costs, say_state
from u2pl.cli.doctor import Diagnosis
from u2pl.cli.plan import Plan, Request
from u2pl.cli.use import choose_device
from u2pl.errors import UserError
from u2pl.evaluate.crf import load_crf
from u2pl.method import Method
from u2pl.networks.config import RANDOM
from u2pl.train.memory import keep_freed_memory

#: Scored and unlabelled images that are looked at; of the labelled ones, all.
LOOKED_AT = 300

Planned = TypeVar("Planned", bound=Plan)


def examine(
    request: Request,
    make_plan: Callable[[], Planned],
    look: Callable[[Planned, Diagnosis], list[str]],
    without_plan: Callable[[UserError, Diagnosis], None],
    console: Console,
) -> int:
    """Print what is found; returns the exit code: 0, or 2 when a run would fail.

    Args:
        request: what was typed.
        make_plan: makes a plan of it, or raises UserError.
        look: looks at the images and masks of a plan; returns the ids to score on.
        without_plan: says what can be said when there is no plan, or raises the error again: when nothing can be looked at, or the
            request itself is the only mistake.
        console: where to print.
    """
    diagnosis = Diagnosis(console)
    try:
        plan = make_plan()
    except UserError as error:
        without_plan(error, diagnosis)
        return diagnosis.conclude(())
    scored = look(plan, diagnosis)
    if plan.protocol.crf:
        try:
            load_crf()
        except UserError as error:
            diagnosis.fix([str(error)])
    diagnosis.say()
    _say_recipe(plan, diagnosis)
    method = _build(plan, diagnosis)
    if method is not None:
        keep_freed_memory()  # as training does
        run = _prospect(plan, method.to(choose_device(request.cpu)), scored)
        say_state(run, diagnosis)
        say_costs(run, diagnosis)
    return diagnosis.conclude(_command(plan))


def _say_recipe(plan: Plan, diagnosis: Diagnosis) -> None:
    """Print what the recipe means for this data."""
    train, crop = plan.sections.train, plan.sections.data.crop
    seen = plan.total * train.batch
    crops = " and ".join(f"{train.batch} {name}" for name in plan.streams)
    passes = " and ".join(f"{seen / count:.1f} over the {name} images" for name, count in plan.streams.items())
    diagnosis.say(
        f"{plan.request.method} with preset {plan.recipe.preset}: {plan.total} steps of {crops} crops of {crop} pixels; passes: {passes}"
    )
    if plan.warm_steps:
        diagnosis.say(f"warm start: the first {plan.warm_steps} steps are {plan.kind.warming}")
    rest = train.scaled_lr * train.head_lr_factor
    diagnosis.say(
        f"learning rate: {train.scaled_lr:g} for the encoder, {rest:g} for the rest ({train.optimizer}; "
        f"train.lr={train.lr:g} is meant for a batch of {train.reference_batch})"
    )
    for note in plan.notes():
        diagnosis.say(f"note: {note}")


def _build(plan: Plan, diagnosis: Diagnosis) -> Method | None:
    """The method; with a random encoder where its weights cannot be had, so that the rest can still be tried."""
    network = plan.sections.network
    weights = "from random numbers" if network.encoder_weights == RANDOM else f"weights loaded from {network.encoder_weights}"
    try:
        method = plan.build_method()
        diagnosis.say(f"network: {network.decoder} on {network.encoder}, {weights}")
        return method
    except UserError as error:
        diagnosis.fix([str(error)])
    try:
        return plan.from_random_weights().build_method()
    except UserError:
        return None


def _prospect(plan: Plan, method: Method, scored: list[str]) -> Prospect:
    batch, both = plan.sections.train.batch, plan.kind.uses_unlabeled
    return Prospect(
        method=method,
        dataset=plan.build_dataset(),
        sections=plan.sections,
        total=plan.total,
        warm=plan.warm_steps,
        seed=plan.request.seed,
        student_images=batch * (2 if both else 1),
        teacher_images=batch * (3 if both else 0),  # at most: the teacher sees the unlabelled images clean and mixed, and the labelled ones
        source=plan.scored,
        scored=scored,
    )


def _command(plan: Plan) -> list[str]:
    """What to type to train as examined."""
    request = plan.request
    words = [plan.app.name, "train", request.method, *plan.words()]
    words += ["--preset", request.preset] if request.preset is not None else []
    for assignment in request.assignments:
        words += ["--set", assignment]
    return words + (["--seed", str(request.seed)] if request.seed else [])
