from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.fixtures import assert_close
from harness.released_mit import released_mit
from u2pl.errors import UserError
from u2pl.networks import attention
from u2pl.networks.attention import (
    AffinityHead,
    Attention,
    attention_blocks,
    attention_of,
    build_affinity,
)
from u2pl.networks.build import build_segmentor
from u2pl.networks.config import NetworkConfig
from u2pl.networks.encoders.mit import MixTransformer
from u2pl.networks.encoders.pyramid import Pyramid
from u2pl.networks.segmentor import Segmentor


@pytest.fixture
def fixture(shared: Callable[[str], Path]) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(value) for key, value in np.load(shared("fixtures/mit.npz")).items()
    }


def by_head(rows_BnD: Tensor, heads: int) -> Tensor:
    return rows_BnD.unflatten(2, (heads, -1)).transpose(1, 2)


def slow_affinity(head: AffinityHead, blocks: list[Attention], heads: int) -> Tensor:
    """The map of every head, as the released code has it."""
    maps = torch.cat(
        [by_head(block.query_BnD, heads) @ by_head(block.key_BnD, heads).mT for block in blocks],
        dim=1,
    )
    return torch.sigmoid(torch.einsum("h,bhij->bij", head.weight, maps + maps.mT) + head.bias)


def random_attention(
    seed: int, images: int = 2, tokens: int = 6, heads: int = 3, size: int = 5, blocks: int = 2
) -> list[Attention]:
    draw = torch.Generator().manual_seed(seed)
    rows = [
        torch.randn(images, tokens, heads * size, generator=draw).requires_grad_()
        for _ in range(2 * blocks)
    ]
    return [Attention(*pair) for pair in zip(rows[::2], rows[1::2], strict=True)]


@torch.no_grad()
def test_attention_and_affinity_equal_the_released_encoders(fixture: dict[str, Tensor]) -> None:
    encoder = released_mit(fixture, 16)
    with attention_of(encoder) as blocks:
        encoder(fixture["in_image"])
    head = build_affinity(encoder)
    head.load_state_dict(
        {"weight": fixture["in_aff_proj_weight"], "bias": fixture["in_aff_proj_bias"].squeeze()}
    )
    torch.testing.assert_close(head(blocks), fixture["out_affinity"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_attention_of_every_stage_equals_the_released_encoders(
    fixture: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The released code averages the queries under a key before it multiplies both."""
    encoder = released_mit(fixture, 16)
    last = attention_blocks(encoder)
    stages = [[block.attn for block in stage.blocks] for stage in encoder.model.stages]
    assert stages[-1][-len(last) :] == last
    monkeypatch.setattr(attention, "attention_blocks", lambda _: [*chain(*stages)])
    with attention_of(encoder) as taken:
        encoder(fixture["in_image"])
    every = iter(taken)
    for stage, blocks in enumerate(stages, 1):
        heads, side = (int(fixture[f"cfg_{of}"][stage - 1]) for of in ("num_heads", "sr_ratios"))
        size = fixture[f"out_s16_feature{stage}"].shape[2:]
        for index in range(len(blocks)):
            query, key = next(every)
            grid = F.avg_pool2d(query.mT.unflatten(2, size), side)
            raw = by_head(grid.flatten(2).mT, heads) @ by_head(key, heads).mT
            name = f"out_s16_rawattn_stage{stage}_block{index}"
            # the fixture is float32: computed in float64, scores of up to 23 differ by up to 7e-5
            assert_close(raw, fixture[name], name=name)


@torch.no_grad()
def test_image_level_classifier_equals_the_released_one(fixture: dict[str, Tensor]) -> None:
    weight = fixture["in_classifier_weight"]
    encoder, part = released_mit(fixture, 16), nn.Identity()
    tagger = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
    tagger.weight.copy_(weight[..., None, None])
    network = Segmentor(encoder, part, part, None, tagger=tagger)
    deep = encoder(fixture["in_image"])[-1]
    for ours, theirs in (
        (network.tag_logits(deep), fixture["out_class_logits"]),
        (network.activation(deep), fixture["out_cam"]),
    ):
        assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("heads", "size", "blocks", "tokens"), [(1, 1, 1, 1), (3, 5, 2, 6), (2, 4, 1, 9)]
)
def test_affinity_and_gradient_equal_the_maps_of_every_head(
    heads: int, size: int, blocks: int, tokens: int
) -> None:
    given = random_attention(0, 2, tokens, heads, size, blocks)
    head = AffinityHead(heads * blocks)
    leaves = [*head.parameters(), *(rows for block in given for rows in block)]
    cotangent = torch.randn(2, tokens, tokens, generator=torch.Generator().manual_seed(1))
    ours, slow = head(given), slow_affinity(head, given, heads)
    torch.testing.assert_close(ours, slow)
    grads, expected = (
        torch.autograd.grad((prob * cotangent).sum(), leaves) for prob in (ours, slow)
    )
    for grad, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-5)


def test_gradient_is_that_of_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    head = AffinityHead(4).double()
    rows = [
        row.detach().double().requires_grad_()
        for block in random_attention(1, 1, 3, 2, 2)
        for row in block
    ]

    def run(weight: Tensor, bias: Tensor, *rows: Tensor) -> Tensor:
        parameters, blocks = (
            {"weight": weight, "bias": bias},
            [Attention(*rows[:2]), Attention(*rows[2:])],
        )
        return torch.func.functional_call(head, parameters, (blocks,))

    assert torch.autograd.gradcheck(run, (*head.parameters(), *rows))


@torch.no_grad()
def test_affinity_is_symmetric_follows_the_tokens_and_keeps_images_apart() -> None:
    head, blocks = AffinityHead(6), random_attention(2)
    prob = head(blocks)
    # equal but for the last digit: the ends of rows are computed by other instructions
    torch.testing.assert_close(prob, prob.mT, rtol=0, atol=1e-6)
    assert (prob >= 0).all() and (prob <= 1).all()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = head(
        [Attention(block.query_BnD[:, order], block.key_BnD[:, order]) for block in blocks]
    )
    torch.testing.assert_close(moved, prob[:, order][:, :, order])
    torch.testing.assert_close(
        head([Attention(block.query_BnD[1:], block.key_BnD[1:]) for block in blocks]), prob[1:]
    )


@torch.no_grad()
def test_affinity_is_computed_in_float32() -> None:
    head, blocks = AffinityHead(6), random_attention(3)
    half = [Attention(block.query_BnD.bfloat16(), block.key_BnD.bfloat16()) for block in blocks]
    whole = [Attention(block.query_BnD.float(), block.key_BnD.float()) for block in half]
    with torch.autocast("cpu", torch.bfloat16):
        prob = head(half)
    assert prob.dtype == torch.float32 and torch.equal(prob, head(whole))


def test_first_weights_are_the_released_ones() -> None:
    torch.manual_seed(0)
    head = AffinityHead(10_000)
    assert head.weight.std().item() == pytest.approx(3**-0.5, rel=0.05) and head.bias.item() == 0


@pytest.fixture(scope="module")
def network() -> Segmentor:
    torch.manual_seed(0)
    config = NetworkConfig(
        decoder="segformer",
        encoder="mit_b0",
        encoder_weights="none",
        width=16,
        embed_dim=0,
        tag_classes=3,
    )
    return build_segmentor(config, 4).eval()


def photo(*size: int) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_there_is_a_weight_for_every_head_of_the_last_two_blocks(network: Segmentor) -> None:
    assert build_affinity(network.encoder).weight.shape == (16,)
    assert attention_blocks(network.encoder) == [
        block.attn for block in network.encoder.model.stages[3].blocks
    ]
    deep = MixTransformer((1, 1, 1, 4), (8, 8, 8, 16), (1, 1, 1, 2))
    assert attention_blocks(deep) == [deep.model.stages[3].blocks[index].attn for index in (2, 3)]


def test_gradient_reaches_head_and_encoder(network: Segmentor) -> None:
    head = build_affinity(network.encoder)
    with attention_of(network.encoder) as blocks:
        output = network(photo(64, 96))
    prob = head(blocks)
    tokens = output.deep.shape[-2] * output.deep.shape[-1]
    assert prob.shape == (2, tokens, tokens)
    prob.square().mean().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in head.parameters()
    )
    for block in attention_blocks(network.encoder):
        dim = block.q.out_features
        assert block.q.weight.grad.any() and block.kv.weight.grad[:dim].any()
    assert network.encoder.model.patch_embed.proj.weight.grad.any()
    network.zero_grad(set_to_none=True)


@torch.no_grad()
def test_looking_changes_nothing_and_leaves_nothing(network: Segmentor) -> None:
    image, before = photo(64, 64), hooks(network)
    plain = network(image)
    with attention_of(network.encoder) as blocks:
        assert hooks(network) == before + 4
        looked = network(image)
    copied = copy.deepcopy(network)
    assert torch.equal(plain.logits, looked.logits) and hooks(network) == hooks(copied) == before
    first = blocks[0].query_BnD
    network(photo(32, 32))
    assert blocks[0].query_BnD is first and len(blocks) == 2
    with attention_of(network.encoder) as anew:
        copied(image)
        network(photo(32, 32))
        network(image)
    assert torch.equal(
        anew[0].query_BnD, first
    )  # the last forward of this encoder, not of its copy


def test_hooks_go_when_the_forward_fails(network: Segmentor) -> None:
    with pytest.raises(ZeroDivisionError), attention_of(network.encoder):
        raise ZeroDivisionError
    assert hooks(network) == 0


def test_nothing_is_held_from_step_to_step(network: Segmentor) -> None:
    def step() -> list[weakref.ref[Tensor]]:
        with attention_of(network.encoder) as blocks:
            network(photo(32, 32))
        return [weakref.ref(rows) for block in blocks for rows in block]

    gc.disable()
    try:
        assert [reference() for reference in step()] == [None] * 4
    finally:
        gc.enable()


@torch.no_grad()
def test_under_autocast_attention_is_that_of_the_forward(network: Segmentor) -> None:
    with torch.autocast("cpu", torch.bfloat16), attention_of(network.encoder) as blocks:
        network(photo(32, 32))
    assert all(rows.dtype == torch.bfloat16 for block in blocks for rows in block)
    assert build_affinity(network.encoder)(blocks).dtype == torch.float32


@pytest.mark.parametrize("use", [build_affinity, lambda encoder: attention_of(encoder).__enter__()])
def test_an_encoder_without_attention_is_refused(use: Any) -> None:
    with pytest.raises(UserError, match=r"network\.encoder=mit_b1") as caught:
        use(Pyramid("test_resnet", 16))
    assert "\n" not in str(caught.value)
