from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness.contract import TOTAL, Build
from u2pl.errors import UserError
from u2pl.losses.affinity import affinity_loss, affinity_target, radius_mask, token_label
from u2pl.losses.supervised import balanced_cross_entropy
from u2pl.maps import upsample
from u2pl.networks.attention import attention_of
from u2pl.schedules import Progress
from u2pl_ws.activation_maps import activation_maps
from u2pl_ws.map_labels import refined_label, tagged_maps, walked_label
from u2pl_ws.pixel_refinement import affinity_kernel, half_size

GRID = (4, 4)


@pytest.mark.parametrize(("step", "walks"), [(3, False), (4, False), (5, True), (9, True)])
def test_the_loss_is_that_of_its_parts(step: int, walks: bool, build: Build) -> None:
    options = {
        "method_affinity.weight": 0.3,
        "method_affinity.radius": 2,
        "method_cam.high": 0.6,
        "method_cam.low": 0.4,
    }
    method, batch = build("afa", data_crop=64, method_lambda_seg=0.2, **options)
    method.eval()
    result = method(batch, Progress(step, TOTAL))

    with attention_of(method.student.encoder) as blocks:
        output = method.student(batch.image, embed=False)
    prob = method.affinity(blocks)
    tags = F.multilabel_soft_margin_loss(method.student.tag_logits(output.deep), batch.tags.float())
    maps = tagged_maps(
        activation_maps(method.student, batch.image, batch.tags, (1.0, 0.5, 1.5)), batch.tags
    )
    kernel, levels = affinity_kernel(half_size(batch.image)), method.config.cam.levels
    label = refined_label(maps, kernel, batch.valid, levels)
    alike = affinity_loss(prob, affinity_target(token_label(label, GRID, 16), 2))
    walked = walked_label(maps, prob, radius_mask(*GRID, 2), GRID, kernel, batch.valid, levels)
    assert label.unique().numel() > 2 and not torch.equal(label, walked)
    seg = balanced_cross_entropy(upsample(output.logits, (64, 64)), walked if walks else label)
    assert seg > 0 and alike > 0
    torch.testing.assert_close(
        dict(result.scalars), {"loss/tags": tags, "loss/seg": seg, "loss/affinity": alike}
    )
    torch.testing.assert_close(result.loss, tags + 0.2 * seg + 0.3 * alike)


def test_the_segmentation_loss_does_not_teach_the_affinity(build: Build) -> None:
    method, batch = build("afa", method_lambda_seg=5, **{"method_affinity.weight": 0})
    method(batch, Progress(6, TOTAL)).loss.backward()
    assert all(not p.grad.any() for p in method.affinity.parameters())
    method, batch = build("afa")
    method(batch, Progress(6, TOTAL)).loss.backward()
    assert all(p.grad.any() for p in method.affinity.parameters())


def hooks(module: torch.nn.Module) -> int:
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks)
        for part in module.modules()
    )


def test_looking_at_attention_leaves_nothing_behind(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, batch = build("afa")
    before, attributes = hooks(method), [sorted(vars(part)) for part in method.modules()]
    method(batch, Progress(6, TOTAL)).loss.backward()
    assert (
        hooks(method) == before and [sorted(vars(part)) for part in method.modules()] == attributes
    )

    monkeypatch.setattr(method.student.decoder, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        method(batch, Progress(6, TOTAL))
    assert hooks(method) == before


@pytest.mark.parametrize(("name", "host"), [("afa", None), ("u2plplus", "afa")])
def test_an_encoder_without_attention_is_refused_with_what_to_do(
    name: str, host: str | None, build: Build
) -> None:
    with pytest.raises(
        UserError,
        match=r"set network\.encoder=mit_b1, .*or use method cam \(u2plplus: "
        r"--set method\.host=cam\)",
    ):
        build(name, network_encoder="test_resnet")
