"""`u2pl-ws` by path: `accelerate launch apps/weak/cli.py train …` works from any directory, installed or not."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    # In front of what is installed, so that app and core come from one checkout.
    sys.path[:0] = [str(ROOT / "packages" / "core"), str(ROOT / "apps" / "weak")]
    from u2pl_ws.app import main

    main()
