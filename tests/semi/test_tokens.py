"""Every method on a Vision Transformer, and a run on one from its beginning to its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from harness.resuming import assert_same, run_of
from harness.tiny import Tiny
from harness.tokens import OnTokens
from u2pl.model.model import load
from u2pl.run.train import Silent, train
from u2pl.training.loop import Interrupted
from u2pl_semi.app import APP


class TestOnTokens(OnTokens):
    app = APP
    variants = ("u2plplus weighted",)


class Cut(Silent):
    """Interrupts a run after its sixth step."""

    def step(self, step: int, *_: Any) -> None:
        if step == 6:
            raise KeyboardInterrupt


@pytest.mark.parametrize("case", ["fixmatch on tokens", "suponly on frozen tokens"])
def test_a_run_goes_on_where_it_was_cut_off(
    case: str, tiny: Tiny, folder: Path, tmp_path: Path
) -> None:
    common = {"data": str(folder), "preset": "demo", "steps": 8, "cpu": True}
    words = tiny.assignments(case, {"method.warm_start": 0.3}, train_optimizer="adamw")

    def request(out: Path, **more: Any) -> Any:
        method = case.partition(" ")[0]
        return APP.request.of(method=method, set=words, out=out, **common, **more)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(APP, request(whole))
    with pytest.raises(Interrupted, match="after step 4"):
        train(APP, request(cut), Cut())
    train(APP, request(cut, resume=True))
    assert_same(run_of(whole), run_of(cut))

    # what is kept is the whole network, which needs nothing else; in the state an encoder that
    # student and average share is written once
    frozen = "frozen" in case
    state, model = load_file(whole / "resume.safetensors"), load(whole, "cpu")
    roles = {key.split(".encoder.")[0] for key in state if ".encoder." in key}
    assert (len(roles) == 1) == frozen and model.network.encoder.frozen == frozen
    trained = [key for key in state if key.startswith("optimizer.")]
    assert bool(trained) and (whole / "report.html").exists()
    config = json.loads((whole / "config.json").read_text())
    assert config["options"]["network"]["freeze_encoder"] == frozen
    image = next((folder / "images").iterdir())
    assert model.predict(image).ids.shape == (36, 40)
