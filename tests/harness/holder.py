"""Another program that has a run's folder for itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Locks a folder, says so, and lets it go when it is told to.
HOLD = """
import sys
from pathlib import Path
from u2pl.training.run_lock import locked

with locked(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.readline()
print(flush=True)
sys.stdin.readline()
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another program that writes into the folder."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "\n"
        yield holder
        holder.kill()
