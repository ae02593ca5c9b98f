"""`u2pl-ws` by path, installed or not: `accelerate launch apps/weak/cli.py train …`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    # Before installed packages, so that app and core come from this checkout.
    sys.path[:0] = [str(ROOT / "packages" / "core"), str(ROOT / "apps" / "weak")]
    from u2pl_ws.app import main

    main()
