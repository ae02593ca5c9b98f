"""Write what the baselines score on the built-in demos into the apps, from the files in results/.

    uv run benchmarks/recorded.py            # writes recorded.json of each app
    uv run benchmarks/recorded.py --check    # exit code 1 if one differs from the results

A demo run compares itself with them if no baseline was trained beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from u2pl.run.app import APPS
from u2pl.run.baseline import RECORDED

ROOT = Path(__file__).parent.parent
#: The demo study of each app.
STUDIES = {"semi": "demo", "domain_adapt": "adapt-demo", "weak": "tags-demo"}
#: What is kept of a result.
KEPT = ("method", "data_fingerprint", "split", "seed", "steps", "networks", "device", "commit")


def recorded(app: str) -> str:
    """The content of an app's file."""
    baseline = import_module(APPS[app]).APP.baseline
    entries = []
    for path in sorted((ROOT / "results" / STUDIES[app]).glob(f"{baseline}-seed*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        options = {k: v for k, v in found["options"].items() if k != "method"}
        entries.append({**{key: found[key] for key in KEPT}, "options": options})
    return json.dumps(entries, indent=1) + "\n"


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()
    for app, module in APPS.items():
        path, text = import_module(module).APP.folder / RECORDED, recorded(app)
        if not args.check:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} is not what results/ says: run recorded.py")


if __name__ == "__main__":
    main()
