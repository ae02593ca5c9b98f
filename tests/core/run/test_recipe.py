"""Setting one nested option leaves the method's own defaults of its neighbours alone."""

from pathlib import Path

import pytest

from u2pl.run.recipe import resolve
from u2pl_semi.methods.cutmix import CutMixConfig
from u2pl_semi.methods.mean_teacher import MeanTeacherConfig
from u2pl_semi.methods.u2plplus import U2PLPlusConfig


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "some.toml"
    path.write_text("[method.mix]\narea = 0.4\n")
    return path


def test_neighbours_of_a_set_option_keep_the_methods_defaults(recipe: Path) -> None:
    plus = resolve(recipe, U2PLPlusConfig, ["method.unsupervised.alpha_0=0.3"]).method
    assert (plus.unsupervised.alpha_0, plus.unsupervised.xi_2) == (0.3, 0.1)


def test_neighbours_of_a_recipes_option_keep_the_methods_defaults(recipe: Path) -> None:
    assert resolve(recipe, CutMixConfig).method.mix.model_dump() == {
        "kind": "cutmix",
        "probability": 1.0,
        "area": 0.4,
    }
    assert resolve(recipe, MeanTeacherConfig).method.mix.kind == "none"
