from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness.contract import TOTAL, Build
from u2pl.errors import UserError
from u2pl.losses.affinity import affinity_loss, affinity_target, radius_mask, token_label
from u2pl.losses.supervised import balanced_cross_entropy
from u2pl.maps import resize_image, upsample
from u2pl.networks.attention import attention_of
from u2pl.schedules import Progress
from u2pl_ws.activation_maps import activation_maps, maps_and_attention, tokens_inside
from u2pl_ws.map_labels import refined_label, tagged_maps, walked_label
from u2pl_ws.pixel_refinement import affinity_kernel, half_size

GRID = (4, 4)


@pytest.mark.parametrize("view", ["image", "largest"])
@pytest.mark.parametrize(("step", "walks"), [(3, False), (4, False), (5, True), (9, True)])
def test_the_loss_is_that_of_its_parts(step: int, walks: bool, view: str, build: Build) -> None:
    options = {
        "method_affinity.weight": 0.3,
        "method_affinity.radius": 2,
        "method_affinity.walk_view": view,
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
    if view == "largest":  # 96 pixels, 6 x 6 tokens
        larger = resize_image(batch.image.float() / 255, (96, 96))
        with attention_of(method.student.encoder) as blocks, torch.no_grad():
            method.student(larger)
        prob, grid = method.affinity(blocks), (6, 6)
    else:
        grid = GRID
    walked = walked_label(maps, prob, radius_mask(*grid, 2), grid, kernel, batch.valid, levels)
    assert label.unique().numel() > 2 and not torch.equal(label, walked)
    seg = balanced_cross_entropy(upsample(output.logits, (64, 64)), walked if walks else label)
    assert seg > 0 and alike > 0
    torch.testing.assert_close(
        dict(result.scalars), {"loss/tags": tags, "loss/seg": seg, "loss/affinity": alike}
    )
    torch.testing.assert_close(result.loss, tags + 0.2 * seg + 0.3 * alike)


def test_tokens_of_the_padding_are_left_out(build: Build) -> None:
    """An image of 40 x 72 pixels is padded to 64 x 96, and 3 x 5 of 4 x 6 tokens lie in it."""
    method, _ = build("afa")
    student = method.student.eval()
    image = torch.rand(2, 3, 40, 72, generator=torch.Generator().manual_seed(0))
    with attention_of(student.encoder) as blocks:
        student(image)
    assert blocks[0].query_BnD.shape[1] == 24
    found = tokens_inside(student, blocks, (40, 72))
    assert found.grid == (3, 5)
    kept = [6 * i + j for i in range(3) for j in range(5)]
    for block, whole in zip(found.blocks, blocks, strict=True):
        assert torch.equal(block.query_BnD, whole.query_BnD[:, kept])
        assert torch.equal(block.key_BnD, whole.key_BnD[:, kept])


@torch.no_grad()
def test_the_maps_are_the_same_whoever_looks_at_attention(build: Build) -> None:
    method, batch = build("afa")
    for scales in ((1.0, 0.5, 1.5), (1.5, 0.5), (1.0,), (0.5,)):
        cam, tokens = maps_and_attention(method.student, batch.image, batch.tags, scales)
        assert torch.equal(cam, activation_maps(method.student, batch.image, batch.tags, scales))
        side = int(max(scales) * batch.image.shape[-1])
        assert tokens.grid == (-(-side // 16), -(-side // 16))
        for block in tokens.blocks:
            assert block.key_BnD.shape[:2] == (len(batch.image), tokens.grid[0] ** 2)


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
