from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from u2pl.data.regions import Decoded
from u2pl.errors import UserError
from u2pl.evaluate import bands
from u2pl.evaluate.bands import Tally, segment, tallied
from u2pl.evaluate.inference import predict_probabilities
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.networks.segmentor import SegOutput
from u2pl.pseudo.partition import doubt

CPU = torch.device("cpu")


class Quarter(nn.Module):
    """A convolution with a Segmentor's interface."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, classes, 5, padding=2)

    def forward(self, image: Tensor, embed: bool = True) -> SegOutput:
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % 4, 0, -height % 4))
        return SegOutput(F.avg_pool2d(9 * self.conv(image), 4))


@pytest.fixture
def network() -> nn.Module:
    return Quarter().eval().requires_grad_(False)


@pytest.fixture
def probabilities(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """All that was tallied, a few rows at a time."""
    seen: list[Tensor] = []
    add = Tally.add

    def watched(self: Tally, rows: Tensor) -> None:
        seen.append(rows.clone())
        add(self, rows)

    monkeypatch.setattr(Tally, "add", watched)
    monkeypatch.setattr(bands, "AT_ONCE", 4 * 90 * 3)
    yield seen


def an_image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rough = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return F.avg_pool2d(rough.float(), 5, 1, 2).round().to(torch.uint8)


EXACT = [
    {"mode": "slide", "crop": 16},
    {"mode": "slide", "crop": 17, "blend": "linear"},
    {"mode": "slide", "crop": 16, "blend": "gaussian", "flip": True},
    {},
    {"mode": "center-crop", "crop": 8, "flip": True},
]
#: A scaled view is rounded to 8 bits.
ROUNDED = [
    {"long_side": 30},
    {"scales": (0.5, 1.25), "flip": True},
    {"mode": "slide", "crop": 16, "scales": (0.5, 1.25, 1.0), "flip": True},
]
SIZES = [(61, 90), (90, 61), (7, 50), (50, 7), (5, 5), (16, 16), (1, 40)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("given", [*EXACT, *ROUNDED], ids=str)
def test_bands_give_what_whole_accumulation_gives(
    network: nn.Module, probabilities: list[Tensor], size: tuple[int, int], given: dict
) -> None:
    image, protocol = an_image(*size), EvaluationProtocol(**given)
    expected = predict_probabilities(network, image, protocol)
    counted: list[tuple[float, int]] = []
    found = segment(
        network,
        Decoded(image.permute(1, 2, 0).numpy()),
        protocol,
        CPU,
        lambda done, total: counted.append((done, total)),
    )
    together = torch.cat(probabilities, 1)
    together = together.transpose(1, 2) if size[1] > size[0] else together
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-6 if given in EXACT else 2e-3)
    assert found.confidence.shape == found.ids.shape == size
    sure = expected.sort(0).values.diff(dim=0)[-1] > 0.01
    assert torch.equal(torch.from_numpy(found.ids)[sure], expected.argmax(0)[sure].to(torch.uint8))
    whole = tallied(expected)
    assert found.mean_confidence == pytest.approx(whole.mean_confidence, abs=2e-3)
    assert found.mean_doubt == pytest.approx(whole.mean_doubt, abs=2e-3)
    assert counted[-1][0] == counted[-1][1] == len(counted)


def test_what_is_kept_of_probabilities() -> None:
    prob = torch.rand(5, 7, 9, generator=torch.Generator().manual_seed(0)).softmax(0)
    found = tallied(prob)
    best, ids = prob.max(0)
    assert np.array_equal(found.ids, ids.numpy())
    assert np.array_equal(found.confidence, (best * 255).round().to(torch.uint8).numpy())
    assert found.mean_confidence == pytest.approx(float(best.mean()))
    assert found.mean_doubt == pytest.approx(float(doubt(prob[None]).mean()))


def test_no_more_than_a_band_is_held(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor has the rows of a window, however long the image is."""
    largest = 0
    zeros = Tensor.new_zeros

    def watched(self: Tensor, *shape: int) -> Tensor:
        nonlocal largest
        made = zeros(self, *shape)
        largest = max(largest, made.numel())
        return made

    monkeypatch.setattr(Tensor, "new_zeros", watched)
    for size in ((400, 30), (30, 400)):
        protocol = EvaluationProtocol(mode="slide", crop=16)
        segment(network, Decoded(np.zeros((*size, 3), np.uint8)), protocol, CPU)
    assert largest == 4 * 16 * 30


def test_a_file_of_rows_is_read_once_from_top_to_bottom(network: nn.Module) -> None:
    class Rows(Decoded):
        by_rows = True
        tops: ClassVar[list[int]] = []

        def read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
            self.tops.append(top)
            return super().read(left, top, right, bottom)

    image, protocol = an_image(40, 90), EvaluationProtocol(mode="slide", crop=16)
    found = segment(network, Rows(image.permute(1, 2, 0).numpy()), protocol, CPU)
    assert Rows.tops == sorted(Rows.tops)
    assert np.array_equal(
        found.ids, predict_probabilities(network, image, protocol).argmax(0).numpy()
    )


def test_a_crf_needs_all_at_once(network: nn.Module) -> None:
    with pytest.raises(UserError, match="--crf needs all probabilities"):
        segment(network, Decoded(np.zeros((9, 9, 3), np.uint8)), EvaluationProtocol(crf=True), CPU)
