"""Recipes of a toy app, and how the values of a nested config come together."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.toy.app import APP, ToyRequest
from core.toy.methods.other import Other
from core.toy.methods.plain import Plain
from u2pl.errors import UserError
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.run.presets import recipe_path
from u2pl.run.recipe import Recipe, resolve
from u2pl.run.sections import Sections, flat_keys
from u2pl_semi.methods.cutmix import CutMixConfig
from u2pl_semi.methods.mean_teacher import MeanTeacherConfig
from u2pl_semi.methods.u2plplus import U2PLPlusConfig


@pytest.fixture
def some(tmp_path: Path) -> Path:
    path = tmp_path / "some.toml"
    path.write_text("[method.mix]\narea = 0.4\n")
    return path


def test_neighbours_of_a_set_option_keep_the_methods_defaults(some: Path) -> None:
    _, plus = resolve(some, U2PLPlusConfig, ["method.unsupervised.alpha_0=0.3"])
    assert (plus.unsupervised.alpha_0, plus.unsupervised.xi_2) == (0.3, 0.1)


def test_neighbours_of_a_recipes_option_keep_the_methods_defaults(some: Path) -> None:
    _, cutmix = resolve(some, CutMixConfig)
    own = {"probability": 1.0, "area": 0.4}
    assert cutmix.mix.model_dump() == {"kind": "cutmix", **own, "partner": "next"}
    _, teacher = resolve(some, MeanTeacherConfig)
    assert teacher.mix.kind == "none"


def test_a_recipe_is_defaults_then_preset_then_steps_then_assignments() -> None:
    recipe = Recipe.of(APP, "plain", "light")
    assert (recipe.preset, recipe.kind) == ("light", Plain)
    train = recipe.sections.train
    assert (train.steps, train.batch, train.log_every) == (3, 2, 10)
    assert (recipe.sections.network.encoder, recipe.sections.network.width) == ("test_resnet", 8)
    assert (recipe.options.warm_start, recipe.options.teacher.momentum) == (0.25, 0.99)
    assert recipe.sections.evaluate == EvaluationProtocol()

    words = ["train.batch=6", "method.teacher.ramp=false", "data.scale=[1, 2]", "train.steps=9"]
    changed = Recipe.of(APP, "plain", "light", words[:3], steps=7)
    assert (changed.sections.train.steps, changed.sections.train.batch) == (7, 6)
    assert changed.options.teacher.model_dump() == {"momentum": 0.99, "ramp": False}
    assert changed.sections.data.scale == (1.0, 2.0)
    assert Recipe.of(APP, "plain", "light", words, steps=7).sections.train.steps == 9


def test_a_method_takes_from_a_recipe_what_it_knows() -> None:
    recipe = Recipe.of(APP, "other", "light")
    assert recipe.kind is Other and recipe.options.model_dump() == {"strength": 0.5}


@pytest.mark.parametrize(("text", "value"), [("True", True), ("true", True), ("False", False)])
def test_truth_is_written_as_in_toml_or_python(text: str, value: bool) -> None:
    recipe = Recipe.of(APP, "plain", "light", [f"data.flip={text}"])
    assert recipe.sections.data.flip is value


def test_a_request_has_the_preset_of_its_data() -> None:
    def preset(**values: object) -> tuple[str, int]:
        recipe = Recipe.of_request(APP, ToyRequest(method="plain", **values))  # type: ignore[arg-type]
        return recipe.preset, recipe.sections.train.steps

    assert preset() == preset(data="demo-target") == ("demo", 5)
    assert preset(data="voc:PATH", steps=4) == ("large", 4)
    assert preset(data="photos") == preset(data="gta5:PATH") == ("light", 3)
    assert preset(preset="light", set=["train.steps=6"]) == ("light", 6)
    with pytest.raises(UserError, match=r"--steps and --set train\.steps both say how long"):
        preset(steps=4, set=["train.steps=4"])


@pytest.mark.parametrize(
    ("method", "preset", "words", "says"),
    [
        ("plian", "light", [], r"no method 'plian' \(did you mean plain\?\); .* other, plain"),
        ("plain", "lite", [], r"no preset 'lite' \(did you mean light\?\); .* demo, large, light"),
        ("plain", "light", ["train.lr"], r"--set train\.lr: write it as section\.key=value"),
        ("plain", "light", ["train.ler=1"], r"--set train\.ler: .*\(did you mean train\.lr\?\)"),
        ("plain", "light", ["crop=1"], r"\(did you mean data\.crop or evaluate\.crop\?\)"),
        ("plain", "light", ["method.warmstart=1"], r"did you mean method\.warm_start\?"),
        ("other", "light", ["method.warm_start=1"], r"--set method\.warm_start: there is no such"),
        ("plain", "light", ["method.warm_start=2"], r"^method\.warm_start: .*, not 2$"),
        ("plain", "light", ["method.teacher=3"], r"--set method\.teacher: there is no such"),
        ("plain", "light", ["train.batch=many"], r"^train\.batch: .*, not 'many'$"),
        (
            "plain",
            "light",
            ["train.lr=true"],
            r"^train\.lr: .* valid number, not True$",
        ),
        ("plain", "light", ["train.batch=true"], r"^train\.batch: .* valid integer, not True$"),
        (
            "plain",
            "light",
            ["data.scale=[true, 2]"],
            r"^data\.scale\.0: .* valid number, not True$",
        ),
        ("plain", "light", ["network.embed_kernel=true"], r"^network\.embed_kernel: .* 1 or 3"),
        (
            "plain",
            "light",
            ["network.encoder=inf"],
            r"^network\.encoder: .* finite number, not inf$",
        ),
        (
            "plain",
            "light",
            [f"train.epochs=1{400 * '0'}"],
            r"^train\.epochs: .* finite number, not 1",
        ),
        ("plain", "light", ["data.flip=1"], r"^data\.flip: .* valid boolean, not 1$"),
        ("plain", "light", ["train.lr=inf"], r"^train\.lr: .* finite number, not inf$"),
        (
            "plain",
            "light",
            ["train.clip_norm=-inf"],
            r"^train\.clip_norm: .* finite number, not -inf$",
        ),
        ("plain", "light", ["train.lr=nan"], r"^train\.lr: .* finite number, not nan$"),
        ("plain", "light", ["data.scale=[1, inf]"], r"^data\.scale\.1: .* finite number, not inf$"),
        ("plain", "light", ["train.lr=1\nx=2"], r"^train\.lr: .* valid number, not '1\\nx=2'$"),
        ("plain", "light", ["train.lr=2026-01-01"], r"^train\.lr: .*, not '2026-01-01'$"),
        ("plain", "light", ["network.decoder=deeplab"], r"^network\.decoder: .*no such decoder"),
        ("plain", "light", ["network.output_stride=8"], r"segformer runs at 16 or 32"),
        ("plain", "light", ["evaluate.mode=slide"], r"^evaluate: .*needs a crop"),
    ],
)
def test_a_mistake_is_one_line(method: str, preset: str, words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        Recipe.of(APP, method, preset, words)
    assert "\n" not in str(caught.value)


def test_what_is_written_over_lines_is_one_value() -> None:
    recipe = Recipe.of(APP, "plain", "light", ["data.scale=[1,\n2]"])
    assert recipe.sections.data.scale == (1.0, 2.0)


def test_every_option_is_a_row_with_its_value_and_meaning() -> None:
    recipe = Recipe.of(APP, "plain", "light")
    rows = {row.key: row for row in recipe.rows()}
    assert len(rows) == len(recipe.rows())
    assert rows["train.batch"].value == "2" and rows["method.warm_start"].value == "0.25"
    assert rows["method.teacher.ramp"].value == "True"
    assert rows["method.warm_start"].meaning == "share of the steps"
    assert rows["network.atrous_rates"].value == "[12, 24, 36]"
    assert all(row.meaning for row in rows.values())
    keys = [key for key, _ in (*flat_keys(Sections), *flat_keys(Plain.Config, "method."))]
    assert list(rows) == keys
    for key in keys:  # what is listed can be set
        text = rows[key].value
        value = text if text not in ("True", "False", "None") else text.lower()
        if value != "none":
            assert Recipe.of(APP, "plain", "light", [f"{key}={value}"]).dump() == recipe.dump()


def test_changes_leave_the_recipe_as_it_was() -> None:
    recipe = Recipe.of(APP, "plain", "large")
    changed = recipe.with_options(warm_start=0.75)
    assert (changed.options.warm_start, recipe.options.warm_start) == (0.75, 0.0)
    assert changed.sections == recipe.sections and changed.preset == "large"
    random = recipe.from_random_weights()
    assert random.sections.network.encoder_weights == "none"
    assert recipe.sections.network.encoder_weights == "imagenet"
    assert random.options == recipe.options


def test_a_method_without_embeddings_has_no_head_for_them() -> None:
    assert Recipe.of(APP, "plain", "light").network.embed_dim == 0
    other = Recipe.of(APP, "other", "light")
    assert other.network == other.sections.network and other.network.embed_dim == 256


@pytest.mark.parametrize(("images", "steps"), [(10, 5), (1, 1), (0, 1), (7, 4)])
def test_without_steps_epochs_say_how_many(images: int, steps: int) -> None:
    assert Recipe.of(APP, "plain", "large").total(images) == steps  # 2 epochs in batches of 4
    assert Recipe.of(APP, "plain", "light").total(images) == 3


def test_shipped_recipes_are_found_by_name() -> None:
    assert recipe_path(APP.recipes, "light") == APP.recipes / "light.toml"
    with pytest.raises(UserError, match=r"no preset '\.\./recipes/lite'"):
        recipe_path(APP.recipes, "../recipes/lite")
