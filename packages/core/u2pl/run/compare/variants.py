"""Variants: runs that differ in the seed alone, and what each is called."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2pl.errors import UserError
from u2pl.run.app import App
from u2pl.run.compare.finished import Finished
from u2pl.run.recipe import Recipe, flat_values
from u2pl.run.sections import METHOD
from u2pl.training.run_folder import FREE, OF_DATA, SUMMARY

#: Entries of config.json that make no variant: what is the same for all runs or follows from the
#: options, and the seed.
_APART = ("app", "command", "method_name", "preset", "seed", "options")
_DRAWN = re.compile(r", seed \d+, stratified \(.*\)$")


@dataclass(frozen=True)
class Variant:
    """Runs that differ in the seed alone.

    Args:
        name: the method, and the options in which it differs from other variants of the method.
        runs: in the order of their seeds; each seed once.
    """

    name: str
    runs: tuple[Finished, ...]

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.runs[0].method

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    @property
    def by_seed(self) -> dict[int, Finished]:
        """The runs by their seeds."""
        return {run.seed: run for run in self.runs}


def find_variants(app: App, runs: Sequence[Finished]) -> tuple[list[Variant], list[str]]:
    """Runs grouped into variants in their order, and what a person should know about the names.

    Of several runs of a variant with the same seed the newest counts, which is said.

    Args:
        app: that trained them.
        runs: of any methods.
    """
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.method, traits(run)], sort_keys=True), []).append(run)
    kept, said = [], []
    for group in groups.values():
        newest: dict[int, Finished] = {}
        for run in sorted(group, key=lambda run: (run.folder / SUMMARY).stat().st_mtime):
            if run.seed in newest:
                said.append(
                    f"{newest[run.seed].folder} is left out: {run.folder} is a newer run of the "
                    "same method, options and seed"
                )
            newest[run.seed] = run
        kept.append(tuple(newest[seed] for seed in sorted(newest)))
    names, legend = variant_names(app, [group[0] for group in kept])
    return [Variant(*each) for each in zip(names, kept, strict=True)], [*said, *legend]


def traits(run: Finished) -> dict[str, Any]:
    """What makes a run the variant that it is, by the name under which it would be typed."""
    config, weights = run.config, run.summary.get("encoder_weights")
    found = {key: value for key, value in config.items() if key not in _APART}
    found["split"] = split_words(run)
    found |= {
        key: value
        for key, value in flat_values(config["options"]).items()
        if key.rpartition(".")[2] not in FREE and key != "train.steps"
    }
    if weights is not None:  # the same file may lie in another place
        found["network.encoder_weights"] = weights_words(run)
    return found


def split_words(run: Finished) -> str:
    """The training split, without what a seed drew."""
    return _DRAWN.sub(", drawn by the seed", str(run.config["split"]))


def weights_words(run: Finished) -> str:
    """The pretrained weights that training began with."""
    weights = run.summary.get("encoder_weights")
    return f"{Path(weights['name']).name} ({weights['sha256'][:8]})" if weights else "none"


def variant_names(app: App, runs: Sequence[Finished]) -> tuple[list[str], list[str]]:
    """A name for each of some runs of different variants, and a legend.

    A method with a single variant is called by its name. Of several variants, each is called by
    what differs among them, except where it has the usual value: that of the method's recipe or, of
    what methods share, the most frequent one. The legend says too in which of its own options all
    of a method's runs differ from its recipe.
    """
    known = [traits(run) for run in runs]
    names, legend = [run.method for run in runs], []
    for method in dict.fromkeys(names):
        mine = [i for i, run in enumerate(runs) if run.method == method]
        recipe, first = _recipe_values(app, runs[mine[0]]), known[mine[0]]
        keys = _telling([known[i] for i in mine]) if len(mine) > 1 else []
        changed = {
            key: f"{value_words(first[key])} ({value_words(usual)})"
            for key, usual in recipe.items()
            if key in first and key not in keys and first[key] != usual
        }
        if changed:
            short_names, preset = _labels([*changed]), runs[mine[0]].config["preset"]
            words = ", ".join(f"{short_names[key]}={told}" for key, told in changed.items())
            legend.append(f"{method} has {words}: what preset {preset} says in brackets")
        if len(mine) == 1:
            continue
        usual = {key: recipe[key] if key in recipe else _most_frequent(key, known) for key in keys}
        short = all(_short_is_clear([each.get(key) for each in known]) for key in keys)
        labels = _labels(keys)
        for i in mine:
            parts = [
                f"{labels[key]}={value_words(known[i].get(key), short)}"
                for key in keys
                if known[i].get(key) != usual[key]
            ]
            names[i] = ", ".join([method, *parts])
        meant = [
            f"{labels[key]}={value_words(usual[key], short)}"
            for key in keys
            if any(known[i].get(key) == usual[key] for i in mine)
        ]
        if meant:
            legend.append(f"unless a name says otherwise, {method} has {', '.join(meant)}")
    return names, legend


def _telling(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of what differs; what follows from other entries only if it is needed."""
    keys = dict.fromkeys(key for each in variants for key in each)
    differing = [key for key in keys if len({_text(each.get(key)) for each in variants}) > 1]
    differing.sort(key=lambda key: not key.startswith(f"{METHOD}."))
    typed = [key for key in differing if key not in OF_DATA]
    told = {tuple(_text(each.get(key)) for key in typed) for each in variants}
    return typed if len(told) == len(variants) else differing


def _recipe_values(app: App, run: Finished) -> dict[str, Any]:
    """The options of a run's method as its recipe has them; none of one that is not known here."""
    preset = run.config.get("preset")
    if preset is None:
        return {}
    try:
        recipe = Recipe.of(app, run.method, str(preset))
    except UserError:  # a method or a preset from elsewhere
        return {}
    return {k: v for k, v in flat_values(recipe.dump()).items() if k.startswith(f"{METHOD}.")}


def _most_frequent(key: str, everyone: Sequence[Mapping[str, Any]]) -> Any:
    """The value that goes without saying."""
    texts = Counter(_text(each[key]) for each in everyone if key in each)
    return json.loads(texts.most_common(1)[0][0])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _labels(keys: Sequence[str]) -> dict[str, str]:
    """How each key is written: without its section, where that is clear."""
    ends = [key.partition(".")[2] or key for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def _short_is_clear(values: Sequence[Any]) -> bool:
    """Whether values are told apart by their short words."""
    return len({value_words(each) for each in values}) == len({_text(each) for each in values})


def value_words(value: Any, short: bool = True) -> str:
    """A value as one would type it; of a path the name."""
    if isinstance(value, str):
        return Path(value).name if short and value.startswith(("/", "./", "../", "~")) else value
    if isinstance(value, float):
        return f"{value:g}" if short else repr(value)
    return json.dumps(value)
