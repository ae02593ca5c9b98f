from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.fixtures import assert_close, cases
from u2pl.maps import top_class
from u2pl.mixing.blend import paste


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32])
def test_paste_chooses_pixel_by_pixel(channels, dtype):
    draw = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 4, 5, generator=draw) < 0.5
    inside, outside = (
        torch.randint(0, 2, (2, *channels, 4, 5), generator=draw).to(dtype) for _ in range(2)
    )
    found = paste(mask, inside, outside)
    assert found.dtype == dtype
    for b in range(2):
        assert torch.equal(found[b][..., mask[b]], inside[b][..., mask[b]])
        assert torch.equal(found[b][..., ~mask[b]], outside[b][..., ~mask[b]])


def test_pasted_pseudo_labels_match_the_fixture(shared):
    """UniMatch's: labels, confidence and ignored pixels of two weak views, mixed by CutMix."""
    z = np.load(shared("fixtures/unimatch.npz"))
    weak, mixed = (torch.tensor(z[f"in_pred_u_w{end}"]).softmax(dim=1) for end in ("", "_mix"))
    ignored, ignored_mixed = (torch.tensor(z[f"in_ignore_mask{end}"]) for end in ("", "_mix"))
    for number in cases(z, r"in_cutmix_box(\d+)"):
        box = torch.tensor(z[f"in_cutmix_box{number}"]) == 1
        label = paste(box, top_class(mixed), top_class(weak))
        assert np.array_equal(label.numpy(), z[f"out_mask_cutmixed{number}"])
        confidence = paste(box, mixed.amax(dim=1), weak.amax(dim=1))
        assert_close(confidence, z[f"out_conf_cutmixed{number}"], name=number)
        without = paste(box, ignored_mixed, ignored)
        assert np.array_equal(without.numpy(), z[f"out_ignore_cutmixed{number}"])
