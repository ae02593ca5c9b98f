"""What is exported computes what the network does, at any size and batch."""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from harness import small_vit
from u2pl.data.geo.scaling import unscaled
from u2pl.errors import UserError
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.model import onnx_file
from u2pl.model.card import Card
from u2pl.model.model import Model
from u2pl.model.onnx_file import CHECKED, SAMPLE, SIZES, WholeImage, load_onnx, noise, to_onnx
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoder import Encoder
from u2pl.networks.registry import decoder_file
from u2pl.networks.segmentor import Segmentor

DECODERS = {
    "deeplabv3plus": 8,
    "deeplabv3plus_light": 16,
    "daformer": 32,
    "segformer": 16,
    "dpt": 16,
    "linear": 32,
}
CLASSES = ("sky", "Kuh ü", "sea")


class Strided(Encoder):
    """Four convolutions: what is traced in a moment."""

    channels, mean, std = (4, 4, 4, 4), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.strides = tuple(min(each, stride) for each in (4, 8, 16, 32))
        self.divisor = stride
        factors = [b // a for a, b in pairwise((1, *self.strides))]
        self.model = nn.ModuleList(
            nn.Conv2d(3 if n == 0 else 4, 4, 3, factor, 1) for n, factor in enumerate(factors)
        )

    names = build = hub_weights = None  # type: ignore[assignment]

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [image]
        for layer in self.model:  # type: ignore[union-attr]
            maps.append(layer(maps[-1]).tanh())
        return maps[1:]


def network(decoder: str, kind: str = "", channels: int = 3) -> Segmentor:
    """On four convolutions, or on a small Vision Transformer of this kind."""
    torch.manual_seed(0)
    stride = DECODERS[decoder]
    config = NetworkConfig(decoder=decoder, encoder="x", output_stride=stride, embed_dim=0, width=4)
    encoder = small_vit.encoder(kind, in_chans=channels) if kind else Strided(stride)
    parts = decoder_file(decoder).build(config, encoder, len(CLASSES))
    return Segmentor(encoder, *parts[:3], min_images=parts.min_images).eval()


def card(decoder: str, **values: Any) -> Card:
    config = NetworkConfig(decoder=decoder, encoder="x", output_stride=DECODERS[decoder])
    return Card(network=config, classes=CLASSES, **values)


@pytest.mark.parametrize(
    "kernel, stride, dilation", [(3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 2), (1, 2, 1)]
)
def test_same_padding_is_constant_where_the_stride_divides_the_map(
    kernel: int, stride: int, dilation: int
) -> None:
    layer = Conv2dSame(2, 3, kernel, stride, dilation=dilation)
    image = torch.rand(1, 2, 12, 8)
    expected = layer(image)
    with onnx_file.padded_by_constants(WholeImage(nn.Sequential(layer))):  # type: ignore[arg-type]
        assert "forward" in vars(layer) and torch.equal(layer(image), expected)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("decoder", [*DECODERS, "dpt dinov2", "dpt dinov3"])
@torch.no_grad()
def test_nothing_in_a_forward_makes_batch_or_size_a_constant(decoder: str) -> None:
    decoder, _, kind = decoder.partition(" ")
    whole = WholeImage(network(decoder, kind)).eval()
    program = torch.export.export(whole, (noise(SAMPLE),), dynamic_shapes={"image": SIZES})
    assert len(program.range_constraints) == 3
    # ONNX rounds the quotient of a negative number up, Python down
    assert not [n for n in program.graph.nodes if n.target is operator.neg]
    traced = program.module(check_guards=False)
    for shape in (*CHECKED, (1, 5, 3), (2, 32, 33)):
        image = noise(shape)
        (prob, ids), (other, other_ids) = whole(image), traced(image)
        if kind == "dinov3":  # angles of tokens are computed in another order
            torch.testing.assert_close(prob, other, atol=1e-4, rtol=0)
        else:
            assert torch.equal(prob, other) and torch.equal(ids, other_ids), shape


@pytest.mark.parametrize("decoder", DECODERS)
def test_what_is_exported_predicts_as_the_model_does(decoder: str) -> None:
    model = Model(network(decoder), card(decoder))
    image = noise((1, 37, 51))
    with torch.no_grad():
        prob, ids = WholeImage(model.network)(image)
    prediction = model.predict(image[0], probabilities=True)
    assert np.array_equal(prediction.ids, ids[0].numpy()) and ids.dtype == torch.uint8
    assert np.array_equal(prediction.probabilities, prob[0].numpy())


def test_a_file_is_run_and_described(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    protocol = EvaluationProtocol(long_side=640)
    model = Model(network("segformer"), card("segformer", protocol=protocol))
    check = model.save_onnx(tmp_path / "model.onnx")
    assert check.difference < 1e-5 and check.equal > 0.999
    assert check.shapes == ((1, 3, 97, 131), (3, 3, 64, 128))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]

    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (taken,), (prob, ids) = session.get_inputs(), session.get_outputs()
    sizes = ["height", "width"]
    assert (taken.name, taken.type, taken.shape) == ("image", "tensor(uint8)", ["batch", 3, *sizes])
    assert (prob.name, prob.type) == ("probabilities", "tensor(float)")
    assert (ids.name, ids.type) == ("ids", "tensor(uint8)")
    assert (prob.shape, ids.shape) == (["batch", 3, *sizes], ["batch", *sizes])
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert json.loads(facts["palette"]) == [list(colour) for colour in model.card.colours()]
    assert "long side of at most 640 pixels" in facts["resizing"]
    image = noise((1, 45, 70))
    (theirs,) = session.run(["ids"], {"image": image.numpy()})
    unshrunk = model.card.model_copy(update={"protocol": EvaluationProtocol()})
    assert (theirs[0] == Model(model.network, unshrunk).predict(image[0]).ids).mean() > 0.999


def test_tokens_of_a_vision_transformer_are_exported_too() -> None:
    """Its image is resized inside, and its table of positions with the image.

    The image may have other channels than a photo, too.
    """
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    bands = card("dpt", scaling=unscaled((4, 2)))
    content, check = to_onnx(network("dpt", "dinov2 with registers", 2), bands)
    assert check.difference < 1e-5 and check.equal > 0.999 and check.shapes[0] == (1, 2, 97, 131)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 2, "height", "width"]
    assert '"bands":[4,2]' in session.get_modelmeta().custom_metadata_map["input"]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"and onnx is not installed: uv sync --extra onnx$"):
        load_onnx()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Packages that export nothing, and a runtime that answers with the network, `off` by some."""

    class Program:
        model = None

        def save(self, path: Path, external_data: bool) -> None:
            assert not external_data
            path.write_bytes(b"onnx")

    def install(off: float = 0.0, fails: bool = False) -> None:
        net = network("segformer")

        class Session:
            def __init__(self, path: Path, providers: list[str]) -> None:
                assert Path(path).read_bytes() == b"onnx"

            @torch.no_grad()
            def run(self, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
                if fails:
                    raise RuntimeError("no kernel\nfor this")
                prob, ids = WholeImage(net)(torch.from_numpy(given["image"]))
                return [prob.numpy() + off, ids.numpy()]

        runtime = SimpleNamespace(InferenceSession=Session)
        monkeypatch.setattr(onnx_file, "load_onnx", lambda: (None, runtime))
        monkeypatch.setattr(onnx_file, "_traced", lambda whole: Program())
        monkeypatch.setattr(onnx_file, "_describe", lambda *_: None)

    return install


def test_a_file_that_computes_something_else_is_not_written(
    stand_in: Callable[..., None], tmp_path: Path
) -> None:
    model = Model(network("segformer"), card("segformer"))
    for off, refused in ((0.0, False), (0.9e-3, False), (1.1e-3, True), (float("nan"), True)):
        stand_in(off)
        path = tmp_path / f"{off}.onnx"
        if refused:
            with pytest.raises(UserError, match=r"computes something else.*it is not written"):
                model.save_onnx(path)
        else:
            assert model.save_onnx(path).difference == pytest.approx(off, abs=1e-6)
        assert path.exists() != refused
    stand_in(fails=True)
    with pytest.raises(UserError, match=r"onnxruntime cannot run .*: no kernel$"):
        to_onnx(model.network, model.card)


def test_a_network_that_cannot_be_traced_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("data-dependent control flow\nlong story")

    monkeypatch.setattr(onnx_file, "load_onnx", lambda: (None, None))
    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(UserError, match=r"^the network cannot be written as ONNX: data-dep.*flow$"):
        to_onnx(network("segformer"), card("segformer"))
