"""The options of `train` that the runs of a sweep share. Cheap to import."""

from __future__ import annotations

from u2pl.run.request import Request, parameters

#: Fields of a request that each run has of its own.
OWN = ("method", "seed", "out", "resume", "baseline")


def shared_options(request: type[Request]) -> list[str]:
    """Options of `train` that the runs of a sweep can share."""
    return [name for name in parameters(request) if name not in OWN]
