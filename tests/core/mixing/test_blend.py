from __future__ import annotations

import pytest
import torch

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
