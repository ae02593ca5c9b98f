from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from harness.contract import TOTAL, Build, optimizer_of, steps
from u2pl.losses.supervised import balanced_cross_entropy
from u2pl.maps import upsample
from u2pl.schedules import Progress
from u2pl_ws.activation_maps import activation_maps, multi_scale_cam
from u2pl_ws.map_labels import Levels, refined_label, tagged_maps
from u2pl_ws.pixel_refinement import affinity_kernel, half_size


def test_the_loss_is_that_of_its_parts(build: Build) -> None:
    method, batch = build(
        "cam",
        data_crop=64,
        method_lambda_seg=0.7,
        **{"method_cam.high": 0.6, "method_cam.low": 0.3},
    )
    method.eval()
    student = method.student
    result = method(batch, Progress(4, TOTAL))
    output = student(batch.image, embed=False)
    tags = F.multilabel_soft_margin_loss(student.tag_logits(output.deep), batch.tags.float())
    cam = multi_scale_cam(
        lambda image: student.activation(student.encoder(student.prepare(image))[-1]),
        batch.image / 255,
        batch.tags,
    )
    label = refined_label(
        tagged_maps(cam, batch.tags),
        affinity_kernel(half_size(batch.image)),
        batch.valid,
        Levels(0.6, 0.3),
    )
    assert label.unique().numel() > 2
    seg = balanced_cross_entropy(upsample(output.logits, (64, 64)), label)
    torch.testing.assert_close(dict(result.scalars), {"loss/tags": tags, "loss/seg": seg})
    torch.testing.assert_close(result.loss, tags + 0.7 * seg)


def test_maps_cover_the_image_and_not_its_padding(build: Build) -> None:
    """The stride divides no view's side: what is padding alone is cut off before upsampling."""
    method, batch = build("cam")
    seen: list[tuple[int, ...]] = []
    method.student.encoder.register_forward_hook(
        lambda _, images, features: seen.append((*images[0].shape[-2:], *features[-1].shape[-2:]))
    )
    image = batch.image[..., :20, :28]
    cam = activation_maps(method.student, image, batch.tags, (1.0, 0.5))
    assert seen == [(32, 32, 2, 2), (16, 16, 1, 1)]
    assert cam.shape == (2, 3, 20, 28) and not cam[~batch.tags].any()
    assert cam.min() >= 0 and cam.max() <= 1


def test_frozen_norms_of_the_encoder_keep_their_weights(build: Build) -> None:
    method, batch = build("cam", method_freeze_norms="true")
    norms = {
        id(p)
        for module in method.student.encoder.modules()
        if isinstance(module, nn.BatchNorm2d)
        for p in module.parameters()
    }
    assert norms and {id(p) for p in method.parameters() if not p.requires_grad} == norms
    before = {key: value.clone() for key, value in method.student.named_parameters()}
    optimizer = optimizer_of(method)
    steps(method, batch, 0, 6, optimizer)
    assert not norms & {id(p) for group in optimizer.param_groups for p in group["params"]}
    for key, value in method.student.named_parameters():
        assert torch.equal(value, before[key]) == (id(value) in norms), key


def test_norms_are_trained_otherwise(build: Build) -> None:
    method, _ = build("cam")
    assert all(p.requires_grad for p in method.parameters())
