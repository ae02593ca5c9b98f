"""Forks a child for each command that arrives on standard input; run by `Launcher`.

A request is {"start": [file, *arguments], "threads": ..., "log": ...}, answered by the child's id,
or {"wait": id}, answered by its exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
from typing import Any

import preload
import torch
from PIL import Image

preload.everything()
importlib.import_module("u2pl.cli.commands")
Image.init()
# a child that collects what it shares with this process would copy it: half of the child's time
gc.freeze()


def child(request: dict[str, Any]) -> None:
    os.setpgid(0, 0)
    out = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    torch.set_num_threads(request["threads"])
    sys.argv = request["start"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        sys.stdout.flush()
        sys.stderr.flush()
        # taking everything down would be a third of the child's time
        os._exit(stop.code if isinstance(stop.code, int) else bool(stop.code))


for line in sys.stdin:
    request = json.loads(line)
    if "start" in request:
        pid = os.fork()
        if pid == 0:
            child(request)
            break
        print(pid, flush=True)
    else:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
else:
    os._exit(0)  # what is left to be collected at the end would be complained about
