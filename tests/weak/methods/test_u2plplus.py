from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.contract import TOTAL, Build
from u2pl.schedules import Progress
from u2pl_ws.activation_maps import activation_maps
from u2pl_ws.methods.afa import Afa
from u2pl_ws.methods.cam import Cam
from u2pl_ws.methods.u2plplus import U2PLPlus
from u2pl_ws.selection import TagNegativesConfig, select_by_tags

HOSTS = [("afa", "u2plplus", Afa), ("cam", "u2plplus on cam", Cam)]
STEPS = (0, 3, 4, 6)


@pytest.mark.parametrize(("host", "name", "kind"), HOSTS)
def test_it_adds_exactly_its_contrast_to_its_host(
    host: str, name: str, kind: type[Cam], build: Build
) -> None:
    changes: dict[str, Any] = {"network_dropout": 0}
    (alone, batch), (both, same) = (
        build(host, **changes),
        build(name, method_lambda_c=0.25, **changes),
    )
    assert all(torch.equal(one, other) for one, other in zip(batch, same, strict=True))
    both.load_state_dict(alone.state_dict(), strict=False)
    shared = both.state_dict()
    assert all(torch.equal(value, shared[key]) for key, value in alone.state_dict().items())
    assert type(alone) is kind and isinstance(both, U2PLPlus)
    for step in STEPS:
        results = []
        for method in (alone, both):
            torch.manual_seed(step)  # of DropPath
            results.append(method(batch, Progress(step, TOTAL)))
        theirs, ours = results
        for key, value in theirs.scalars.items():
            assert torch.equal(ours.scalars[key], value), (step, key)
        contrast = ours.scalars.get("loss/contrast", torch.zeros(()))
        assert (contrast > 0) == (step >= 3)
        torch.testing.assert_close(ours.loss, theirs.loss + 0.25 * contrast)


@pytest.mark.parametrize("name", ["u2plplus", "u2plplus on cam"])
def test_prototypes_are_the_means_of_the_anchors_embeddings(name: str, build: Build) -> None:
    method, batch = build(name)
    method.eval()
    embed: Tensor = method.student(batch.image).embed
    cam = activation_maps(method.student, batch.image, batch.tags, (1.0, 0.5, 1.5))
    chosen = select_by_tags(cam, batch.tags, batch.valid, (8, 8), 0.45, TagNegativesConfig())
    method(batch, Progress(3, TOTAL))
    found, seen = method.prototypes.center, []
    for c in range(3):
        members = embed.movedim(1, -1)[chosen.anchor_Bhw == c]
        if len(members):
            torch.testing.assert_close(found[c], members.mean(dim=0))
            seen.append(c)
        else:
            assert not found[c].any()
    assert seen and method.prototypes.known.nonzero().flatten().tolist() == seen
    assert not found.requires_grad


def test_queues_and_prototypes_are_of_the_foreground_and_wait_for_the_warm_start(
    build: Build,
) -> None:
    method, batch = build("u2plplus on cam")
    assert method.contrast.queue.filled.shape == (3,) and method.prototypes.center.shape == (3, 16)
    method(batch, Progress(2, TOTAL))
    assert not method.contrast.queue.filled.any() and not method.prototypes.seen.any()
    method(batch, Progress(3, TOTAL))
    assert (method.contrast.queue.filled == 16).all()  # method.contrast.keys


def test_on_cam_nothing_of_the_affinity_is_built(build: Build) -> None:
    names = [key for key, _ in build("u2plplus on cam")[0].named_parameters()]
    assert not [key for key in names if key.startswith("affinity")]
    assert [key for key, _ in build("u2plplus")[0].named_parameters() if key.startswith("affinity")]
