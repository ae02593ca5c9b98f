from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from u2pl.errors import UserError
from u2pl.evaluate import crf


class _FakeCrf:
    """Writes down what it is told and answers with exp(-energy), in the layout of pydensecrf."""

    made: list[_FakeCrf] = []  # noqa: RUF012

    def __init__(self, width: int, height: int, classes: int) -> None:
        self.size, self.told = (width, height, classes), {}
        self.made.append(self)

    def setUnaryEnergy(self, energy: np.ndarray) -> None:
        self.energy = energy

    def addPairwiseGaussian(self, sxy: float, compat: float) -> None:
        self.told["gaussian"] = (sxy, compat)

    def addPairwiseBilateral(
        self, sxy: float, srgb: float, rgbim: np.ndarray, compat: float
    ) -> None:
        self.told["bilateral"], self.image = (sxy, srgb, compat), rgbim

    def inference(self, steps: int) -> list[list[float]]:
        self.told["steps"] = steps
        return np.exp(-self.energy).tolist()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[_FakeCrf]:
    package, module = ModuleType("pydensecrf"), ModuleType("pydensecrf.densecrf")
    module.DenseCRF2D = _FakeCrf  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pydensecrf", package)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", module)
    monkeypatch.setattr(_FakeCrf, "made", [])
    return _FakeCrf


def test_the_package_is_told_everything_in_its_own_layout(fake: type[_FakeCrf]) -> None:
    prob = torch.rand(5, 4, 6).softmax(dim=0)
    prob[2] = 0
    image = torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8)
    found = crf.apply_crf(prob.transpose(1, 2).contiguous().transpose(1, 2), image)
    (told,) = fake.made
    assert told.size == (6, 4, 5)
    assert told.told == {"gaussian": (3, 3), "bilateral": (64, 5, 4), "steps": 10}
    assert (
        told.energy.dtype == np.float32
        and told.energy.shape == (5, 24)
        and np.isfinite(told.energy).all()
    )
    assert told.image.dtype == np.uint8 and np.array_equal(told.image, image.permute(1, 2, 0))
    for array in (told.energy, told.image):
        assert array.flags.c_contiguous and array.flags.writeable
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, prob.clamp(min=1e-8))


def test_an_image_of_floats_is_the_same_image(fake: type[_FakeCrf]) -> None:
    prob, image = torch.rand(2, 3, 5), torch.randint(0, 256, (3, 3, 5), dtype=torch.uint8)
    crf.apply_crf(prob.half(), image / 255)
    assert np.array_equal(fake.made[0].image, image.permute(1, 2, 0))


@pytest.mark.parametrize(
    "call", [lambda: crf.apply_crf(torch.ones(2, 4, 4), torch.zeros(3, 4, 4)), crf.load_crf]
)
def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(
        UserError, match="pydensecrf2, which is not installed: uv sync --extra crf, or score"
    ):
        call()


@pytest.mark.parametrize(
    "error",
    [ImportError("no libm\nsecond line"), ValueError("numpy.dtype size changed"), ImportError()],
)
def test_a_broken_package_says_why(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(crf, "import_module", broken)
    with pytest.raises(
        UserError,
        match=r"cannot be loaded \((no libm|numpy\.dtype size changed|no reason given)\): uv",
    ) as found:
        crf.load_crf()
    assert "\n" not in str(found.value)
