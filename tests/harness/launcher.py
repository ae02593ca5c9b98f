"""Forks a child for each command that arrives on standard input.

Run by `Launcher` as `launcher.py CLI PACKAGE`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys

cli, package = sys.argv[1:]
folder = os.path.dirname(cli)
sys.path[:0] = [folder, os.path.join(folder, "..", "..", "packages", "core")]

from PIL import Image  # noqa: E402

# everything heavy, before the first fork
for heavy in ("u2pl.run.train", "u2pl.cli.commands", f"{package}.task"):
    importlib.import_module(heavy)
Image.init()

import small_mit  # noqa: E402

small_mit.register()
# a child that collects what it shares with this process would copy it: half of the child's time
gc.freeze()


def child(args: list[str], log: str) -> None:
    os.setpgid(0, 0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = [cli, *args]
    runpy.run_path(cli, run_name="__main__")


for line in sys.stdin:
    request = json.loads(line)
    if "start" in request:
        pid = os.fork()
        if pid == 0:
            child(request["start"], request["log"])
            break
        print(pid, flush=True)
    else:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
else:
    gc.unfreeze()  # what is left to be collected at the end is complained about
