"""What U2PL+ adds to U2PL, and in which order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from u2pl.memory.prototypes import DenoisingConfig
from u2pl.methods.batches import PairBatch
from u2pl.mixing.mixers import MixConfig
from u2pl.networks.segmentor import SegOutput
from u2pl.schedules import Progress
from u2pl_semi.methods import u2plplus
from u2pl_semi.methods.u2plplus import U2PLPlus, U2PLPlusConfig

IGNORE = 255
CLASSES = 5


class Student(nn.Module):
    embed_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.head = nn.Conv2d(3, CLASSES, 1)
        self.embedder = nn.Conv2d(3, self.embed_dim, 1)

    def forward(self, image, embed: bool = True):
        image = image if image.is_floating_point() else image / 255
        small = self.pool(image - 0.5) * 8
        return SegOutput(self.head(small), self.embedder(small) if embed else None)


def make(**options) -> U2PLPlus:
    torch.manual_seed(0)
    contrast = U2PLPlusConfig().contrast.model_copy(update={"queue": 40, "queue_background": 40})
    return U2PLPlus(
        U2PLPlusConfig(warm_start=0.0, mix=MixConfig(kind="none"), contrast=contrast, **options),
        Student(),
        CLASSES,
    )


def random_batch(seed: int) -> PairBatch:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 2, 3, 24, 28), generator=draw, dtype=torch.uint8)
    label = torch.randint(0, CLASSES, (2, 24, 28), generator=draw, dtype=torch.uint8)
    valid = torch.ones(2, 24, 28, dtype=torch.bool)
    label[:, 20:], valid[:, 20:] = IGNORE, False
    return PairBatch(images[0], label, images[1], valid, torch.full_like(label, IGNORE))


def run(
    method: U2PLPlus, monkeypatch: pytest.MonkeyPatch, steps: int = 2
) -> list[dict[str, torch.Tensor]]:
    """Take steps without an optimizer.

    Returns for each step the prototypes before it, what moved them, and the contrast's labels.
    """
    notes: list[dict[str, torch.Tensor]] = []
    update, select = method.prototypes.update, u2plplus.select_candidates

    def note_update(embed, label):
        notes[-1].update(embed=embed, moved_by=label, during=method.prototypes.center.clone())
        update(embed, label)

    def note_select(config, prob, label_l, label_u, part, alpha):
        notes[-1].update(label_u=label_u, reliable=part.reliable_BHW)
        return select(config, prob, label_l, label_u, part, alpha)

    monkeypatch.setattr(method.prototypes, "update", note_update)
    monkeypatch.setattr(u2plplus, "select_candidates", note_select)
    for step in range(steps):
        notes.append(
            {"before": method.prototypes.center.clone(), "known": method.prototypes.known.clone()}
        )
        result = method(random_batch(step), Progress(step, 10))
        assert torch.isfinite(result.loss)
    return notes


def slow_labels(
    method: U2PLPlus, batch: PairBatch, center: torch.Tensor, known: torch.Tensor, raw: bool
) -> torch.Tensor:
    """argmax of w(c) p(c), with the distances written out and both maps brought to full size."""
    output = method.teacher(batch.image_u)
    z, rows = output.embed.double(), center.double()
    if not raw:
        z, rows = (
            z / z.norm(dim=1, keepdim=True),
            rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12),
        )
    distance = (z.unsqueeze(1) - rows[None, :, :, None, None]).norm(dim=2)
    near = torch.exp(-distance) * known.view(1, -1, 1, 1)
    weight = near / near.sum(dim=1, keepdim=True)
    weight = torch.where(known.view(1, -1, 1, 1), weight, 1 / known.sum())
    full = [
        nn.functional.interpolate(x, scale_factor=4, mode="bilinear")
        for x in (output.logits.double(), weight)
    ]
    return (full[0].softmax(dim=1) * full[1]).argmax(dim=1)


@pytest.mark.parametrize("raw", [False, True])
def test_labels_are_denoised_by_the_prototypes_of_the_step_before(monkeypatch, raw):
    method = make(prototypes=DenoisingConfig(raw_distance=raw))
    first, second = run(method, monkeypatch)
    plain = [logits_of(method, step)[0].argmax(dim=1) for step in (0, 1)]
    assert not first["known"].any() and second["known"].any()
    assert torch.equal(first["label_u"], plain[0])
    expected = slow_labels(method, random_batch(1), second["before"], second["known"], raw)
    assert (second["label_u"] != expected).float().mean() < 0.002  # float32 may turn a tie
    assert (second["label_u"] != plain[1]).float().mean() > 0.01
    assert torch.equal(second["during"], second["before"])


def logits_of(method: U2PLPlus, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    output = method.teacher(random_batch(step).image_u)
    return nn.functional.interpolate(output.logits, scale_factor=4, mode="bilinear").softmax(
        dim=1
    ), output.embed


def test_prototypes_follow_labelled_and_reliable_pixels_by_their_raw_label(monkeypatch):
    method = make()
    _, second = run(method, monkeypatch)
    batch, (prob, embed_u) = random_batch(1), logits_of(method, 1)
    raw = torch.where(second["reliable"], prob.argmax(dim=1), IGNORE)
    assert torch.equal(second["moved_by"], torch.cat([batch.label_l.long(), raw])[:, 2::4, 2::4])
    assert torch.equal(second["embed"][2:], embed_u)
    assert not second["reliable"][:, 20:].any()


def test_switching_denoising_off_keeps_the_teachers_argmax(monkeypatch):
    method = make(prototypes=DenoisingConfig(denoise=False))
    for step, notes in enumerate(run(method, monkeypatch)):
        assert torch.equal(notes["label_u"], logits_of(method, step)[0].argmax(dim=1))


def test_defaults_are_the_papers():
    config = U2PLPlusConfig()
    assert (
        config.unsupervised.xi_1,
        config.unsupervised.xi_2,
        config.unsupervised.alpha_0,
        config.unsupervised.eta,
    ) == (1.0, 0.1, 0.2, 1.0)
    assert (config.lambda_c, config.prototypes.momentum, config.teacher.momentum) == (
        0.1,
        0.999,
        0.99,
    )
