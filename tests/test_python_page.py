"""Every example of docs/python.md runs, one after the other, on a tiny folder of photos."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"

#: What makes the examples short: a network that trains in a second, and its options.
SMALL = {
    "network.decoder": "deeplabv3plus_light",
    "network.encoder": "test_resnet",
    "network.encoder_weights": "none",
    "network.output_stride": 16,
    "network.embed_dim": 8,
    "data.crop": 32,
    "data.workers": 0,
    "train.batch": 2,
    "train.evaluations": 1,
}


def photos(root: Path) -> None:
    """Eight images of two classes, six of them with masks."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        mask = np.kron(rng.permutation([[0, 1], [1, 0]]), np.ones((20, 22), np.uint8))
        noise = rng.integers(0, 30, size=(*mask.shape, 3))
        image = (60 + 120 * mask[..., None] + noise).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        if number < 6:
            Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("class0\nclass1\n")


def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 9
    code = "\n".join(blocks)
    assert code.count("steps=400") == 3
    code = code.replace("steps=400, init", "steps=3, cpu=True, set=SMALL, init")
    code = code.replace("steps=400)", "steps=3, cpu=True, set=SMALL)")
    code = code.replace("steps=400, set={", "steps=3, cpu=True, set=SMALL | {")
    script = tmp_path / "examples.py"
    script.write_text(code, encoding="utf-8")

    found = runpy.run_path(str(script), {"SMALL": SMALL})

    image, prediction = found["image"], found["prediction"]
    assert prediction.ids.shape == image.shape[:2]
    assert np.array_equal(prediction.probabilities.argmax(0), prediction.ids)
    assert found["run"].summary["options"]["train"]["lr"] == 3e-4
    assert found["score"].miou == found["run"].scores["student"].miou
    assert {row.variant for row in found["found"].rows} == {"u2plplus", "suponly"}
    assert (tmp_path / "gains.csv").is_file()
    assert (tmp_path / "shared" / "model.safetensors").is_file()
    assert found["tuned"].summary["origin"]["name"] == "shared"
    assert (tmp_path / "overlay.jpg").is_file()
    assert "did you mean u2plplus?" in capsys.readouterr().out
