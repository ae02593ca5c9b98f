"""What every method must keep; each file of the methods folder is enrolled by existing."""

from __future__ import annotations

from typing import ClassVar

import torch

from harness.contract import MethodContract
from u2pl_ws.app import APP
from u2pl_ws.batches import TagBatch


class TestMethods(MethodContract):
    app = APP
    variants: ClassVar = {"u2plplus on cam": None}
    own_heads = ("affinity.",)
    unlogged = 1

    def spoilt(self, batch: TagBatch) -> dict[str, TagBatch]:
        padding, untagged = torch.zeros_like(batch.valid), torch.zeros_like(batch.tags)
        flat = torch.full_like(batch.image, 90)
        return {
            "no tag": batch._replace(tags=untagged),
            "nothing but padding": batch._replace(valid=padding),
            "an image of one colour": batch._replace(image=flat),
            "nothing at all": TagBatch(flat, untagged, padding),
        }
