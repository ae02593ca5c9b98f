"""UniMatch V2's step: its loss by a loop over pixels, and what student and teacher see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness import small_mit
from harness.contract import TOTAL, Build, trained
from harness.slow import confident_loss, enlarged
from u2pl.mixing.mixers import Mixed
from u2pl.networks.encoders import mit
from u2pl.networks.segmentor import SegOutput
from u2pl.schedules import Progress

STEP = 5


class Watched:
    """Notes what the networks of a method are given and give, and its strong views."""

    def __init__(self, method: Any) -> None:
        self.encoded: list[tuple[Tensor, list[Tensor]]] = []
        self.decoded: list[tuple[list[Tensor], SegOutput]] = []
        self.labeled: list[tuple[Tensor, SegOutput]] = []
        self.views: list[tuple[Tensor, Mixed]] = []
        encode, decode, mix = method.student.encode, method.student.decode, method.mix
        forward = method.teacher.network.forward

        def encoding(image: Tensor) -> list[Tensor]:
            self.encoded.append((image, encode(image)))
            return self.encoded[-1][1]

        def decoding(maps: list[Tensor], *args: Any, **kwargs: Any) -> SegOutput:
            self.decoded.append((maps, decode(maps, *args, **kwargs)))
            return self.decoded[-1][1]

        def labelling(image: Tensor, *args: Any, **kwargs: Any) -> SegOutput:
            self.labeled.append((image, forward(image, *args, **kwargs)))
            return self.labeled[-1][1]

        def mixing(*args: Any) -> Mixed:
            self.views.append((args[1], mix(*args)))
            return self.views[-1][1]

        method.student.encode, method.student.decode, method.mix = encoding, decoding, mixing
        method.teacher.network.forward = labelling

    def factors(self) -> list[Tensor]:
        """What each channel of both views' maps was multiplied by, [2, B, D] for each map."""
        found = []
        for before, after in zip(self.encoded[0][1], self.decoded[0][0], strict=True):
            ratio = (after.detach() / before.detach()).flatten(2).nanmedian(dim=2).values
            found.append(torch.stack(ratio.chunk(3)[1:]))
        return found


@pytest.mark.parametrize("below", [0.0, 0.4])
def test_the_loss_equals_the_loop(below: float, build: Build) -> None:
    method, batch = build("unimatch_v2")
    watch = Watched(method)
    method(batch, Progress(STEP, TOTAL))
    confidence = watch.views[0][1].maps[1].quantile(below).item() if below else 0.0
    options = {"method_confidence": confidence, "method_lambda_u": 0.7}
    method, batch = build("unimatch_v2", **options)
    watch = Watched(method)
    result = method(batch, Progress(STEP, TOTAL))
    size = batch.label_l.shape[-2:]

    # the teacher looks once, at the clean images
    (clean, output), *more = watch.labeled
    assert not more and torch.equal(clean, batch.image_u)
    prob = enlarged(output.logits, size).softmax(dim=1)
    ((_, student),) = watch.decoded
    labeled, *strong = enlarged(student.logits, size).chunk(3)
    known = batch.label_l != 255
    sup = confident_loss(labeled, batch.label_l, torch.ones(known.shape), known, 0.0)
    s1, s2 = (
        confident_loss(logits, *view.maps[:2], view.valid_BHW, confidence)
        for logits, (_, view) in zip(strong, watch.views, strict=True)
    )
    found = {key.removeprefix("loss/"): value.item() for key, value in result.scalars.items()}
    for name, value in {"sup": sup, "s1": s1, "s2": s2}.items():
        assert found[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name
    assert result.loss.item() == pytest.approx((sup + 0.7 * (s1 + s2) / 2) / 2, rel=2e-4)
    share = ((prob.amax(dim=1) >= confidence) & batch.valid_u).sum() / batch.valid_u.sum()
    assert found["confident_share"] == pytest.approx(share.item(), abs=1e-3)
    assert 0 < share < 1 or not below


def test_both_views_are_strong_and_carry_the_labels_of_the_clean_images(build: Build) -> None:
    options = {
        "method_strong_view.kind": "unimatch",
        "method_strong_view.jitter_probability": 1.0,
        "method_mix.probability": 1.0,
    }
    method, batch = build("unimatch_v2", **options)
    watch = Watched(method)
    method(batch, Progress(STEP, TOTAL))
    size = batch.label_l.shape[-2:]
    prob = enlarged(watch.labeled[0][1].logits, size).softmax(dim=1).float()
    (one, first), (two, second) = watch.views
    for image in (one, two):
        assert (image != batch.image_u / 255).flatten(1).any(dim=1).all()
    assert not torch.equal(one, two)
    for image, view in ((one, first), (two, second)):
        pasted = (view.image_B3HW != image).any(dim=1)
        assert pasted.any() and not pasted.all()
        assert torch.equal(view.image_B3HW, torch.where(pasted.unsqueeze(1), image.flip(0), image))
        for mixed, clean in zip(view.maps, (prob.argmax(dim=1), prob.amax(dim=1)), strict=False):
            wrong = (mixed - torch.where(pasted, clean.flip(0), clean)).abs() > 1e-3
            assert wrong.float().mean() < 0.02  # where both images have the same colour


def test_labelled_images_keep_what_is_dropped_from_the_views(build: Build) -> None:
    """All pass together, so that BatchNorm is scored by what it has normalised by."""
    method, batch = build("unimatch_v2")
    watch = Watched(method)
    method(batch, Progress(STEP, TOTAL))
    ((seen, maps),) = watch.encoded
    ((decoded, _),) = watch.decoded
    views = [view.image_B3HW for _, view in watch.views]
    assert torch.equal(seen, torch.cat([batch.image_l / 255, *views]))
    for before, after in zip(maps, decoded, strict=True):
        kept = [torch.equal(b, a) for b, a in zip(before.chunk(3), after.chunk(3), strict=True)]
        assert kept == [True, False, False]


ENCODERS = {
    "test_resnet": {},
    "tf_efficientnet_lite0": {},
    small_mit.NAME: {"network_decoder": "segformer"},
    "vit_tiny_patch16_224": {"network_decoder": "dpt"},
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_views_see_complementary_channels_of_any_encoder(
    encoder: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mit.VARIANTS, small_mit.NAME, small_mit.VARIANT)
    options = {"network_encoder": encoder, **ENCODERS[encoder]}
    method, batch = build("unimatch_v2", **options)
    watch = Watched(method)
    method(batch, Progress(STEP, TOTAL)).loss.backward()
    assert all(value.grad.isfinite().all() for value in trained(method).values())
    spared = set()
    for first, second in watch.factors():
        seen = first.isfinite() & second.isfinite()  # a channel may be 0 everywhere
        torch.testing.assert_close((first + second)[seen], torch.full_like(first, 2)[seen])
        whole = [bool((row[seen[b]] == 1).all()) for b, row in enumerate(first)]
        assert sum(whole) == 1  # of the two images
        spared.add(whole.index(True))
        dropped = first[1 - whole.index(True)][seen[1 - whole.index(True)]].round()
        assert set(dropped.tolist()) == {0.0, 2.0}
    assert len(spared) == 1  # the same one in all maps


def test_without_dropout_the_maps_stay(build: Build) -> None:
    method, batch = build("unimatch_v2", method_whole=1.0)
    watch = Watched(method)
    method(batch, Progress(STEP, TOTAL))
    for before, after in zip(watch.encoded[0][1], watch.decoded[0][0], strict=True):
        assert torch.equal(before, after)


def test_without_a_confident_pixel_only_labels_teach(build: Build) -> None:
    method, batch = build("unimatch_v2", method_confidence=0.999)
    result = method(batch, Progress(STEP, TOTAL))
    assert result.scalars["loss/s1"] == 0 and result.scalars["confident_share"] == 0
    torch.testing.assert_close(result.loss.detach(), result.scalars["loss/sup"] / 2)
    result.loss.backward()  # what no pixel teaches is still connected
    assert all(value.grad is not None for value in trained(method).values())
