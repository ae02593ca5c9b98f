"""Nothing is computed before the loss that needs it begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch

from harness.contract import TOTAL, Build
from u2pl.methods.method import Method
from u2pl.schedules import Progress
from u2pl_ws.batches import TagBatch

#: What the methods call, by module.
CALLS = {
    "cam": ("activation_maps", "affinity_kernel", "refined_label", "balanced_cross_entropy"),
    "afa": (
        "activation_maps",
        "maps_and_attention",
        "attention_of",
        "refined_label",
        "walked_label",
        "affinity_target",
    ),
    "u2plplus": ("select_by_tags",),
}
WARM, LATER, WALK = 2, 3, 5


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of `CALLS` was called."""
    counts: Counter[str] = Counter()

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return call(*args, **kwargs)

        return counted

    for module, names in CALLS.items():
        for name in names:
            where = import_module(f"u2pl_ws.methods.{module}")
            monkeypatch.setattr(where, name, counting(name, getattr(where, name)))
    return counts


def watched(method: Method, calls: Counter[str]) -> None:
    """Count the forwards of the student's parts and of the affinity head too."""
    parts = {name: part for name, part in method.student.named_children() if name != "tagger"}
    parts |= {
        name: part for name, part in method.named_children() if name in ("affinity", "contrast")
    }
    # its layers are called one by one, as the last one's input is an output of the network
    *_, parts["classifier"] = method.student.classifier.modules()
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: calls.update([name]))


BOTH = {
    "encoder": 4,
    "decoder": 1,
    "classifier": 1,
    "activation_maps": 1,
    "affinity_kernel": 1,
    "refined_label": 1,
}
SEEN = BOTH | {"balanced_cross_entropy": 1}
AFFINE = SEEN | {"maps_and_attention": 1, "attention_of": 1, "affinity": 1, "affinity_target": 1}
del AFFINE["activation_maps"]  # it looks at attention as well
CONTRASTED = {"embedder": 1, "select_by_tags": 1, "contrast": 1}
WALKED = {"walked_label": 1, "affinity": 2}


@pytest.mark.parametrize(
    ("name", "later", "walk"),
    [
        ("cam", SEEN, SEEN),
        ("afa", AFFINE, AFFINE | WALKED),
        ("u2plplus", AFFINE | CONTRASTED, AFFINE | CONTRASTED | WALKED),
        ("u2plplus on cam", SEEN | CONTRASTED, SEEN | CONTRASTED),
    ],
)
def test_each_phase_computes_what_it_needs_once(
    name: str, later: dict[str, int], walk: dict[str, int], build: Build, calls: Counter[str]
) -> None:
    method, batch = build(name)
    watched(method, calls)
    for step, expected in (
        (0, {"encoder": 1}),
        (WARM, {"encoder": 1}),
        (LATER, later),
        (WALK, walk),
        (TOTAL - 1, walk),
    ):
        calls.clear()
        method(batch, Progress(step, TOTAL))
        assert dict(calls) == expected, step


@pytest.mark.parametrize("name", ["cam", "afa", "u2plplus", "u2plplus on cam"])
def test_the_warm_start_is_the_loss_of_the_tags_alone(name: str, build: Build) -> None:
    method, batch = build(name)
    method.eval()
    result = method(batch, Progress(0, TOTAL))
    assert result.scalars.keys() == {"loss/tags"}
    logits = method.student.tagger(
        method.student.encoder(method.student.prepare(batch.image))[-1].amax(
            dim=(2, 3), keepdim=True
        )
    )
    expected = torch.nn.functional.multilabel_soft_margin_loss(
        logits.flatten(1), batch.tags.float()
    )
    torch.testing.assert_close(result.loss, expected)


@pytest.mark.parametrize("name", ["cam", "u2plplus"])
def test_the_maps_leave_the_network_as_it_was(name: str, build: Build) -> None:
    method, batch = build(name)
    before = {key: value.clone() for key, value in method.student.encoder.state_dict().items()}
    calls: list[bool] = []
    method.student.encoder.register_forward_hook(lambda module, *_: calls.append(module.training))
    momenta = [
        module
        for module in method.student.encoder.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    method(batch, Progress(LATER, TOTAL))
    assert calls == [True, False, False, False]
    assert all(module.training for module in method.student.modules())
    steps = {int(module.num_batches_tracked) for module in momenta}
    assert steps <= {1}  # the statistics of the one forward that is trained on
    assert before.keys() == method.student.encoder.state_dict().keys()


def test_a_method_of_tags_opens_no_other_input(build: Build) -> None:
    _, batch = build("cam")
    assert TagBatch._fields == ("image", "tags", "valid")
    assert (batch.image.dtype, batch.tags.dtype, batch.valid.dtype) == (
        torch.uint8,
        torch.bool,
        torch.bool,
    )
    assert batch.tags.shape == (2, 3)
