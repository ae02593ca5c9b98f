from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness.fixtures import cases
from u2pl.maps import resize_image
from u2pl_ws.activation_maps import cam_label, multi_scale_cam, only_tagged

IGNORE = 255


def toy(weight_KC: torch.Tensor, cell: int = 8):
    return lambda image: torch.einsum("bchw,kc->bkhw", F.avg_pool2d(image, cell), weight_KC)


def random_case(seed: int, batch: int = 2, classes: int = 5, size=(32, 48)):
    draw = torch.Generator().manual_seed(seed)
    image = F.interpolate(torch.randn(batch, 3, 4, 5, generator=draw), size, mode="bilinear")
    tags = torch.rand(batch, classes, generator=draw) < 0.5
    return image, tags, torch.randn(classes, 3, generator=draw)


def slow_cam(network, image, tags, scales):
    """One image, one view after the other, in float64."""
    total = torch.zeros(tags.numel(), *image.shape[1:], dtype=torch.float64)
    for scale in scales:
        size = [int(scale * side) for side in image.shape[1:]]
        view = resize_image(image[None].double(), (size[0], size[1]))
        both = [network(view), network(view.flip(-1))]
        plain, mirrored = (
            F.interpolate(maps, image.shape[1:], mode="bilinear", align_corners=False)[0]
            for maps in both
        )
        total += torch.maximum(plain, mirrored.flip(-1)).clamp(min=0)
    for k, tagged in enumerate(tags.tolist()):
        total[k] -= total[k].min().item()
        total[k] *= tagged / (total[k].max().item() + 1e-5)
    return total


@pytest.mark.parametrize("scales", [(1.0,), (0.5,), (1.0, 0.5, 1.5), (1.5, 1.0)])
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_maps_equal_the_loop(scales, size):
    image, tags, weight = random_case(sum(size), size=size)
    found = multi_scale_cam(toy(weight), image, tags, scales)
    for b in range(2):
        expected = slow_cam(toy(weight.double()), image[b], tags[b], scales)
        torch.testing.assert_close(found[b].double(), expected, rtol=0, atol=1e-5)


def test_maps_match_the_fixture(shared, monkeypatch):
    # the released code shrinks without antialiasing
    monkeypatch.setattr(
        "u2pl_ws.activation_maps.resize_image", partial(F.interpolate, mode="bilinear")
    )
    z = np.load(shared("fixtures/random_walk.npz"))
    image, weight = torch.tensor(z["in_ms_image"]), torch.tensor(z["in_ms_weight"])
    found = multi_scale_cam(toy(weight, cell=16), image, torch.ones(len(image), len(weight)))
    torch.testing.assert_close(found, torch.tensor(z["out_ms_cam"]), rtol=0, atol=2e-5)


def test_the_network_sees_images_and_mirror_images_once_for_each_scale():
    image, tags, weight = random_case(1)
    seen: list[torch.Tensor] = []
    multi_scale_cam(lambda views: seen.append(views) or toy(weight)(views), image, tags)
    assert [tuple(views.shape) for views in seen] == [
        (4, 3, 32, 48),
        (4, 3, 16, 24),
        (4, 3, 48, 72),
    ]
    assert torch.equal(seen[0], torch.cat([image, image.flip(-1)]))


def test_a_mirrored_image_has_mirrored_maps():
    image, tags, weight = random_case(2)
    mirrored = multi_scale_cam(toy(weight), image.flip(-1), tags)
    torch.testing.assert_close(
        mirrored.flip(-1), multi_scale_cam(toy(weight), image, tags), rtol=0, atol=1e-5
    )


def test_a_permutation_of_the_classes_permutes_the_maps():
    image, tags, weight = random_case(3)
    order = torch.tensor([4, 0, 3, 1, 2])
    found = multi_scale_cam(toy(weight), image, tags)
    torch.testing.assert_close(
        multi_scale_cam(toy(weight[order]), image, tags[:, order]),
        found[:, order],
        rtol=0,
        atol=1e-6,
    )


def test_absent_classes_are_zero_whatever_the_network_says():
    image, tags, weight = random_case(4)
    tags = torch.tensor([[True, False, True, True, False], [False] * 5])
    found = multi_scale_cam(toy(weight), image, tags)
    weight[1], weight[4] = torch.nan, 1e9
    other = multi_scale_cam(toy(weight), image, tags)
    torch.testing.assert_close(other, found, rtol=0, atol=1e-6)
    assert not other[~tags].any() and other[tags].amax(dim=(1, 2)).min() > 0.99


def test_one_class_one_pixel_and_a_flat_map():
    for size in ((16, 16), (1, 1)):
        found = multi_scale_cam(
            toy(torch.ones(1, 3), cell=1),
            torch.full((2, 3, *size), 0.5),
            torch.ones(2, 1),
            scales=(1.0,),
        )
        assert found.shape == (2, 1, *size) and not found.any()


def test_no_gradient_float32_and_the_same_every_time():
    image, tags, weight = random_case(5)
    weight.requires_grad_()
    found = multi_scale_cam(lambda views: toy(weight)(views).bfloat16(), image, tags)
    assert not found.requires_grad and found.dtype == torch.float32
    assert torch.equal(
        multi_scale_cam(toy(weight), image, tags), multi_scale_cam(toy(weight), image, tags)
    )


def test_a_batch_equals_each_image_alone():
    image, tags, weight = random_case(6, batch=3)
    together = multi_scale_cam(toy(weight), image, tags)
    for b in range(3):
        torch.testing.assert_close(
            multi_scale_cam(toy(weight), image[b : b + 1], tags[b : b + 1]),
            together[b : b + 1],
            rtol=0,
            atol=1e-6,
        )


def slow_label(cam, background):
    out = np.empty((cam.shape[0], *cam.shape[2:]), np.int64)
    for b, y, x in np.ndindex(*out.shape):
        values = cam[b, :, y, x].tolist()
        best = max(range(len(values)), key=lambda k: (values[k], -k))
        out[b, y, x] = best + 1 if values[best] > background else 0
    return torch.from_numpy(out)


@pytest.mark.parametrize("classes", [1, 4])
def test_labels_equal_the_loop(classes):
    draw = torch.Generator().manual_seed(classes)
    # few values, so that some are equal and some lie on a threshold
    cam = torch.randint(0, 9, (2, classes, 6, 7), generator=draw) / 8
    for background in (0.375, 0.5, 0.625):
        found = cam_label(cam, background)
        assert found.dtype == torch.int64
        assert torch.equal(found, slow_label(cam, background))
    assert torch.equal(cam_label(cam), slow_label(cam, 0.45))


def test_an_image_without_tags_is_background():
    cam = only_tagged(torch.rand(2, 3, 4, 5), torch.tensor([[0, 0, 0], [0, 1, 0]]))
    assert not cam_label(cam)[0].any()
    assert set(cam_label(cam)[1].unique().tolist()) <= {0, 2}


def test_labels_match_the_fixture(shared):
    file = np.load(shared("fixtures/random_walk.npz"))
    z = {key: torch.tensor(value) for key, value in file.items()}
    cam = only_tagged(z["in_cams_full"], z["in_cls_labels"])
    assert torch.equal(cam, z["out_valid_cam"])
    for percent in cases(z, r"out_cam_label_bkg(\d+)"):
        assert torch.equal(cam_label(cam, int(percent) / 100), z[f"out_cam_label_bkg{percent}"])
    # certain against both backgrounds, and 255 on padding
    high, low = (cam_label(cam, z[level].item()) for level in ("cfg_high", "cfg_low"))
    expected = torch.full_like(high, IGNORE)
    for b, (top, bottom, left, right) in enumerate(z["in_img_box"].tolist()):
        box = (b, slice(top, bottom), slice(left, right))
        expected[box] = torch.where((high == 0) & (low > 0), IGNORE, high)[box]
    assert torch.equal(expected, z["out_pseudo_label_ignoremid"])
