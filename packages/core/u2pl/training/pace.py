"""How long a run will still take: its steps, and the scoring that is still to come."""

from __future__ import annotations

import time
from collections.abc import Collection

#: A step of a later phase, in steps of the present one, until one has been timed: the student sees
#: unlabelled images beside the labelled ones, forward and backward, and the teacher forward alone.
LATER = (2 * 3 + 1) / 3


class Pace:
    """Times steps and evaluations as they happen.

    Args:
        total: steps of the run.
        evaluations: after how many steps networks are scored.
        scoring: what an evaluation costs, in steps, until one has been timed.
        phases: after how many steps another phase begins, such as the end of a warm start.
    """

    def __init__(
        self,
        total: int,
        evaluations: Collection[int],
        scoring: float,
        phases: Collection[int] = (),
    ) -> None:
        self.total, self.evaluations, self.scoring = total, evaluations, scoring
        self.phases = phases
        self.begin = time.monotonic()
        self.steps, self.seconds = 0, 0.0  # timed in this phase
        self.step_seconds: float | None = None
        self.scoring_seconds: float | None = None
        self.first = True

    def stepped(self) -> None:
        """A step is done; the first one is not timed, since much is set up in it."""
        now = time.monotonic()
        if not self.first:
            self.steps, self.seconds = self.steps + 1, self.seconds + now - self.begin
            self.step_seconds = self.seconds / self.steps
        self.first, self.begin = False, now

    def scored(self) -> None:
        """An evaluation is done, and what is written after it."""
        now = time.monotonic()
        self.scoring_seconds, self.begin = now - self.begin, now

    def restart(self) -> None:
        """Another phase begins, whose steps take another time."""
        self.steps, self.seconds = 0, 0.0

    def left(self, step: int) -> float | None:
        """Seconds that the run still takes after a number of steps; None if nobody knows yet."""
        if self.step_seconds is None:
            return None
        to_come = sum(each > step for each in self.evaluations)
        each = self.scoring_seconds
        if each is None:
            each = self.scoring * self.step_seconds
        change = min((phase for phase in self.phases if phase > step), default=self.total)
        steps = change - step + LATER * (self.total - change)
        return steps * self.step_seconds + to_come * each
