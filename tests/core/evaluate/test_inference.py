from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from harness.fixtures import assert_close, cases
from u2pl.data.transforms import TrainTransform
from u2pl.evaluate import inference
from u2pl.evaluate.inference import (
    center_crop,
    evaluating,
    predict_probabilities,
    slide_logits,
)
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.maps import top_class, upsample
from u2pl.networks.segmentor import SegOutput
from u2pl.notation import PADDING


class Quarter(nn.Module):
    """A convolution with a Segmentor's interface: float images in, quarter-size logits out."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, classes, 5, padding=2)
        self.norm = nn.BatchNorm2d(classes)

    def forward(self, image: Tensor, embed: bool = True) -> SegOutput:
        assert image.dtype == torch.float32 and not embed
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % 4, 0, -height % 4))
        return SegOutput(F.avg_pool2d(self.norm(self.conv(image)), 4))


def an_image(height: int = 21, width: int = 30) -> Tensor:
    return torch.randint(
        0, 256, (3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


@pytest.fixture
def network():
    return Quarter().eval().requires_grad_(False)


def test_whole_is_the_softmax_of_the_upsampled_logits(network):
    image = an_image()
    expected = upsample(network(image[None] / 255, embed=False).logits, (21, 30))[0].softmax(0)
    prob = predict_probabilities(network, image, EvaluationProtocol())
    assert prob.shape == (4, 21, 30) and prob.dtype == torch.float32
    torch.testing.assert_close(prob, expected)
    assert torch.equal(predict_probabilities(network, image / 255, EvaluationProtocol()), prob)


def test_scales_and_flip_average_their_softmax(network):
    image = an_image()
    single = [
        predict_probabilities(network, image, EvaluationProtocol(scales=(scale,)))
        for scale in (0.5, 1.25)
    ] + [
        predict_probabilities(network, image.flip(-1), EvaluationProtocol(scales=(scale,))).flip(-1)
        for scale in (0.5, 1.25)
    ]
    prob = predict_probabilities(network, image, EvaluationProtocol(scales=(0.5, 1.25), flip=True))
    torch.testing.assert_close(prob, sum(single) / 4)
    assert (prob - single[0]).abs().max() > 1e-3


@pytest.mark.parametrize("as_float", [False, True])
def test_a_crf_refines_the_average_once_by_the_image_at_its_own_size(
    network, monkeypatch, as_float
):
    calls = []
    monkeypatch.setattr(
        inference, "apply_crf", lambda *given: calls.append(given) or given[0].roll(1, dims=0)
    )
    image, protocol = an_image(), EvaluationProtocol(scales=(0.5, 1.25), flip=True)
    average = predict_probabilities(network, image, protocol)
    assert not calls
    prob = predict_probabilities(
        network, image / 255 if as_float else image, protocol.model_copy(update={"crf": True})
    )
    ((refined, shown),) = calls
    torch.testing.assert_close(refined, average)
    torch.testing.assert_close(shown, image / 255)
    assert torch.equal(prob, refined.roll(1, dims=0))


@pytest.mark.parametrize(
    "protocol",
    [
        EvaluationProtocol(),
        EvaluationProtocol(mode="slide", crop=16),
        EvaluationProtocol(scales=(0.1, 2), flip=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3), (16, 16), (33, 46)], ids=str)
def test_any_size_gives_probabilities(network, protocol, size):
    prob = predict_probabilities(network, an_image(*size), protocol)
    assert prob.shape == (4, *size)
    torch.testing.assert_close(prob.sum(0), torch.ones(size))


def test_half_precision_logits_are_softmaxed_in_float32(network):
    network.bfloat16()
    network.forward = lambda image, embed: SegOutput(
        F.avg_pool2d(network.conv(F.pad(image, (0, 2, 0, 3)).bfloat16()), 4)
    )
    assert predict_probabilities(network, an_image(), EvaluationProtocol()).dtype == torch.float32


@pytest.fixture
def fixture(shared, monkeypatch):
    """Numbers of sliding windows; the logits of their network have the image's size."""
    monkeypatch.setattr(inference, "upsample", lambda full, size: full)
    return np.load(shared("fixtures/miou.npz"))


class Toy(nn.Module):
    """The fixture's network; its images are normalised, so that padding is 0."""

    mean = torch.tensor(PADDING)[:, None, None] / 255

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.weight = torch.from_numpy(weight)

    def forward(self, image: Tensor, embed: bool) -> SegOutput:
        image = image - self.mean
        return SegOutput(F.conv2d(image, self.weight, padding=1) + image.mean())


def test_fixture_slide_u2pl(fixture):
    network, crop = Toy(fixture["in_slide_weight"]), int(fixture["cfg_slide_crop"])
    stride = EvaluationProtocol(mode="slide", crop=crop).stride()
    for name in cases(fixture, "out_slide_u2pl_(.*)logits"):
        image = torch.from_numpy(fixture[f"in_slide_{name.removesuffix('_') or 'image'}"])
        ours = slide_logits(network, image + Toy.mean, crop, stride)
        assert_close(ours[0], fixture[f"out_slide_u2pl_{name}logits"], name=name)


def test_fixture_slide_unimatch(fixture):
    """UniMatch adds up the softmax of windows that end with the image and have any size."""
    image, crop = torch.from_numpy(fixture["in_slide_image"]), int(fixture["cfg_slide_crop"])
    total = torch.zeros(fixture["out_slide_unimatch_prob_sum"].shape[1:])
    (classes,) = cases(fixture, r"in_slide_weight(\d+)")
    network, stride = Toy(fixture[f"in_slide_weight{classes}"]), int(2 * crop / 3)
    for top, left in product(range(0, image.shape[2], stride), range(0, image.shape[3], stride)):
        window = slice(top, top + crop), slice(left, left + crop)
        seen = image[0, :, *window] + Toy.mean
        total[:, *window] += predict_probabilities(network, seen, EvaluationProtocol())
    assert_close(total[None], fixture["out_slide_unimatch_prob_sum"])
    assert torch.equal(top_class(total[None]), torch.from_numpy(fixture["out_slide_unimatch_pred"]))


def test_a_window_larger_than_the_image_sees_it_in_the_middle(network):
    image = an_image(8, 12) / 255
    padded = (torch.tensor(PADDING)[:, None, None] / 255).repeat(1, 1, 16, 16)
    padded[0, :, 4:12, 2:14] = image
    expected = upsample(network(padded, embed=False).logits, (16, 16))[..., 4:12, 2:14]
    torch.testing.assert_close(slide_logits(network, image[None], 16, 11), expected)


def test_center_crop_cuts_and_pads_with_ignore():
    image, label = an_image(9, 30), torch.arange(9 * 30).reshape(9, 30).to(torch.uint8) % 7
    cut, cut_label = center_crop(image, label, 16)
    assert cut.shape == (3, 16, 16) and cut_label.shape == (16, 16)
    assert torch.equal(cut[:, 3:12], image[:, :, 7:23]) and torch.equal(
        cut_label[3:12], label[:, 7:23]
    )
    outside = torch.ones(16, dtype=torch.bool)
    outside[3:12] = False
    assert (cut_label[outside] == 255).all()
    assert cut[:, outside].flatten(1).unique(dim=1).flatten().tolist() == list(PADDING)


def test_padding_is_the_colour_of_training():
    sample = TrainTransform(8, (1, 1), False)(
        Image.new("RGB", (4, 4)), None, np.random.default_rng(0)
    )
    assert tuple(sample.image[:, -1, -1].tolist()) == PADDING


def test_evaluating_restores_each_module_even_after_an_error(network):
    network.train()
    network.norm.eval()  # a frozen BatchNorm inside a training network
    with pytest.raises(RuntimeError, match="on purpose"), evaluating([network]):
        assert not network.training and not network.conv.training and not torch.is_grad_enabled()
        raise RuntimeError("on purpose")
    assert (
        network.training
        and network.conv.training
        and not network.norm.training
        and torch.is_grad_enabled()
    )
