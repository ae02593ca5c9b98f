"""How long the rank statistics of a step's pixels take, by selection and by sorting all channels.

    uv run benchmarks/rank_weight.py [--threads 1] [--json results/benchmark-rank-weight.json]

Ours selects each feature's highest channels and looks them up in a table of the classes' channels;
`sort` sorts all channels of features and prototypes and compares the first ones, as the released
code does. Both get the same features at a quarter of the image's size.
"""

from __future__ import annotations

import torch
from measure import (
    alternate,
    arguments,
    environment,
    milliseconds,
    peak_bytes,
    ratios,
    spread,
    times,
    write,
)
from torch import Tensor

from u2pl.maps import enlarge
from u2pl.pseudo.rank_statistics import shared_channels


def by_sorting(feature: Tensor, prototype: Tensor, label: Tensor, top: int) -> Tensor:
    """The channels that both orders begin with, counted pair by pair."""
    own = feature.argsort(dim=1, descending=True)[:, :top]
    theirs = prototype.argsort(dim=1, descending=True)[:, :top]
    own = enlarge(own, label.shape[-2:])
    of_label = theirs[label].permute(0, 3, 1, 2)
    return (own.unsqueeze(2) == of_label.unsqueeze(1)).sum(dim=(1, 2))


def main() -> None:
    """Measure, print, and write the figures if a file was named."""
    options = arguments(__doc__, batch=8, size=128, classes=21, width=256, channels=5, repeats=7)
    generator = torch.Generator().manual_seed(options.seed)
    side = -(-options.size // 4)
    feature = torch.rand(options.batch, options.width, side, side, generator=generator)
    prototype = torch.rand(options.classes, options.width, generator=generator)
    shape = options.batch, options.size, options.size
    label = torch.randint(options.classes, shape, generator=generator)
    given = [part.to(options.device) for part in (feature, prototype, label)]
    rivals = {
        "ours": lambda: shared_channels(*given, options.channels),
        "sort": lambda: by_sorting(*given, options.channels),
    }
    assert torch.equal(rivals["ours"](), rivals["sort"]())
    seconds = alternate(rivals, options.repeats, options.device)
    figures = environment(options) | {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "over_ours": ratios(seconds["sort"], seconds["ours"]),
        "peak_bytes": {name: peak_bytes(run, options.device) for name, run in rivals.items()},
    }
    print(
        f"{options.batch} images of {options.size} pixels, {options.width} channels of which "
        f"{options.channels} are compared, C = {options.classes}, on {figures['device']} with "
        f"{figures['threads']} thread(s); {figures['clock']}, medians of {options.repeats} rounds "
        "(min … max); the same counts"
    )
    for name, figure in figures["seconds"].items():
        peak = figures["peak_bytes"][name] / 2**20
        over = f"; {times(figures['over_ours'])} times ours" if name == "sort" else ""
        print(f"{name:>8} {milliseconds(figure)}; peak extra memory {peak:.0f} MiB{over}")
    write(options.json, figures)


if __name__ == "__main__":
    main()
