"""What makes runs incomparable, and what else differs between them than what is compared."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from u2pl.errors import UserError
from u2pl.run.compare.finished import Finished, Found
from u2pl.run.compare.variants import Variant, split_words, value_words, weights_words
from u2pl.run.recipe import flat_values
from u2pl.run.resumption import typed
from u2pl.training.run_folder import FREE

#: Names in a list, and values of a line, before the rest is counted.
MANY = 4
#: Options that have a line of their own.
_TOLD = ("train.steps", "network.encoder_weights")


def check_comparable(app_name: str, runs: Sequence[Finished]) -> None:
    """UserError, with both runs and both values, if scores of runs do not mean the same.

    Args:
        app_name: of the program.
        runs: at least one.
    """
    first = runs[0]
    for run in runs:
        if run.config["app"] != app_name:
            raise UserError(
                f"{run.folder} is a run of {run.config['app']}, not of {app_name}: compare it with "
                "runs of its own"
            )
    for what, value in _MUST_BE_EQUAL:
        for run in runs[1:]:
            if value(run) != value(first):
                raise UserError(
                    f"{first.folder} and {run.folder} cannot be compared: {what} {value(first)} "
                    f"there, {value(run)} here; {_one_kind(app_name, runs)}"
                )
    for run in runs[1:]:
        for a, b in zip(first.summary["classes"], run.summary["classes"], strict=True):
            if a != b:
                raise UserError(
                    f"{first.folder} and {run.folder} cannot be compared: a class is {a!r} there, "
                    f"{b!r} here"
                )
    counted = [run for run in runs if run.counted is not None]
    for run in counted[1:]:
        there, here = (set(each.counted.ids) for each in (counted[0], run) if each.counted)
        if there != here:
            raise UserError(
                f"{counted[0].folder} and {run.folder} cannot be compared: they were scored on "
                f"other images, {len(there)} there and {len(here)} here, {len(there & here)} of "
                "them in both"
            )


def _one_kind(app_name: str, runs: Sequence[Finished]) -> str:
    """What to type for those of the runs that can be compared, the most of them."""
    kinds: dict[str, list[Finished]] = {}
    for run in runs:
        kinds.setdefault(str([value(run) for _, value in _MUST_BE_EQUAL]), []).append(run)
    most = max(kinds.values(), key=len)
    if len(most) < 2:
        return "name runs of one kind"
    folders = (str(run.folder) for run in most)
    return f"of one kind are: {shlex.join([*typed(app_name), 'compare', *folders])}"


def _evaluation(run: Finished) -> tuple[str, str]:
    """The scored data and the protocol."""
    data, _, protocol = str(run.summary["evaluation"]).partition(", ")
    return data, protocol


#: What is said, and the value that has to be the same for all runs.
_MUST_BE_EQUAL: tuple[tuple[str, Callable[[Finished], Any]], ...] = (
    ("the number of classes is", lambda run: len(run.summary["classes"])),
    ("they were scored on", lambda run: _evaluation(run)[0]),
    # what networks are scored on is named last
    ("the scored data have the fingerprint", lambda run: _fingerprints(run)[-1]),
    ("the protocol is", lambda run: _evaluation(run)[1]),
)


def _fingerprints(run: Finished) -> list[str]:
    return str(run.config["data_fingerprint"]).split() or [""]


def flags(variants: Sequence[Variant], reference: Variant) -> list[str]:
    """A line for everything that differs besides the method and its options.

    Args:
        variants: all of them, with the reference.
        reference: what the others are compared with.
    """
    runs = [run for variant in variants for run in variant.runs]
    found = []
    for what, value in _aspects(runs):
        values: dict[str, list[Finished]] = {}
        for run in runs:
            values.setdefault(value(run), []).append(run)
        if len(values) > 1:
            found.append(f"{what}: {_told(values, variants)}")
    if any("drawn by the seed" in split_words(run) for run in runs):
        found.append("each seed draws its own labelled images: the spread holds that choice too")
    lacking: dict[tuple[int, ...], list[str]] = {}
    for variant in variants:
        missing = tuple(sorted(set(reference.seeds) - set(variant.seeds)))
        if missing:
            lacking.setdefault(missing, []).append(variant.name)
    for missing, names in lacking.items():
        found.append(
            f"{_seeds(missing)} of {reference.name} {'is' if len(missing) == 1 else 'are'} missing "
            f"in {_names(names)}: differences are over the seeds that both have"
        )
    bare = [each.name for each in variants if any(run.counted is None for run in each.runs)]
    if bare and len(variants) > 1:
        found.append(
            f"no intervals over images for {_names(bare)}: their version kept no counts of each "
            "image"
        )
    return [*found, *(run.doubt for run in runs if run.doubt)]


def left_out(found: Found) -> list[str]:
    """A line each for runs that have not finished, those without scores, and those of others."""
    reasons = (
        (found.unfinished, "left out, not finished"),
        (found.unscored, "left out, not scored for want of masks"),
        (found.foreign, "left out, of another app"),
    )
    return [f"{why}: {_names(list(map(str, folders)))}" for folders, why in reasons if folders]


def _aspects(runs: Sequence[Finished]) -> Iterator[tuple[str, Callable[[Finished], str]]]:
    """What is looked at, and its value in words."""
    yield "other labels", split_words
    yield "other tags", lambda run: str(run.config.get("tags_fingerprint"))
    yield "other training data", lambda run: " ".join(_fingerprints(run)[:-1])
    yield "labelled images", lambda run: str(run.summary.get("labeled"))
    yield "steps", lambda run: str(run.config["steps"])
    yield "pretrained weights", weights_words
    yield "begun with (--init)", lambda run: str(run.config.get("init", "none"))
    options = [
        flat_values({k: v for k, v in run.config["options"].items() if k in _SHARED})
        for run in runs
    ]
    for key in dict.fromkeys(key for each in options for key in each):
        if key not in _TOLD and key.rpartition(".")[2] not in FREE:
            yield key, lambda run, key=key: _option(run, key)  # type: ignore[misc]
    for key, what in _CIRCUMSTANCES.items():
        yield what, lambda run, key=key: str(run.summary.get(key))  # type: ignore[misc]
    packages = dict.fromkeys(name for run in runs for name in run.summary.get("versions", {}))
    for name in packages:
        yield (
            f"version of {name}",
            lambda run, name=name: str(  # type: ignore[misc]
                run.summary.get("versions", {}).get(name)
            ),
        )
    yield "commit", _commit


#: Sections of the options whose differences are flagged: those of the method are what is compared.
_SHARED = ("network", "data", "train")
_CIRCUMSTANCES = {
    "device": "device",
    "precision": "precision",
    "world_size": "processes",
    "threads": "threads of a process",
}


def _option(run: Finished, key: str) -> str:
    return value_words(flat_values(run.config["options"]).get(key))


def _commit(run: Finished) -> str:
    commit, dash, more = str(run.summary.get("commit")).partition("-")
    return commit[:7] + dash + more


def _told(values: dict[str, list[Finished]], variants: Sequence[Variant]) -> str:
    """Which value belongs to which runs, the most frequent one last."""
    ranked = sorted(values.items(), key=lambda item: len(item[1]))
    parts = [f"{value} in {_names(_whose(runs, variants))}" for value, runs in ranked[-MANY:]]
    value, runs = ranked[-1]
    if len(ranked) <= MANY and len(_whose(runs, variants)) > 2:
        parts[-1] = f"{value} in all others"
    more = len(ranked) - MANY
    return "; ".join(parts) + (f"; {more} more values" if more > 0 else "")


def _whose(runs: Sequence[Finished], variants: Sequence[Variant]) -> list[str]:
    """Names of variants; with the seeds if it is not all of them."""
    found, folders = [], {run.folder for run in runs}
    for variant in variants:
        mine = [run.seed for run in variant.runs if run.folder in folders]
        if len(mine) == len(variant.runs):
            found.append(variant.name)
        elif mine:
            found.append(f"{variant.name} ({_seeds(mine)})")
    return found


def _names(names: Sequence[str]) -> str:
    """Some names; quoted if they hold commas themselves."""
    shown = [f"`{name}`" if "," in name else name for name in names[:MANY]]
    return ", ".join(shown) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
