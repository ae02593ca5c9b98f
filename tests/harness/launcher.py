"""Forks a child for each command that arrives on standard input; run by `Launcher`.

A request is {"start": [file, *arguments], "threads": ..., "log": ..., "dies": [number, share]},
answered by the child's id, or {"wait": id}, answered by its exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from typing import Any, BinaryIO, NoReturn

import preload
import torch
from PIL import Image

from u2pl import files

preload.everything()
importlib.import_module("u2pl.cli.commands")
Image.init()
# a child that collects what it shares with this process would copy it: half of the child's time
gc.freeze()


def die_in_a_file(number: int, share: float) -> None:
    """Let this process, or one that it forks, die without a word while it writes a file.

    Args:
        number: which file, from 1, of those that are written beside their place.
        share: of its bytes that are written by then.
    """
    write, begun = files._fill, []

    def fill(file: BinaryIO, content: files.Content) -> None:
        begun.append(file)
        if len(begun) < number:
            write(file, content)
            return
        whole = files.in_memory(content)
        file.write(whole[: round(share * len(whole))])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    files._fill = fill


def child(request: dict[str, Any]) -> NoReturn:
    os.setpgid(0, 0)
    out = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    torch.set_num_threads(request["threads"])
    if request["dies"]:
        die_in_a_file(*request["dies"])
    preload.execute(request["start"])


for line in sys.stdin:
    request = json.loads(line)
    if "start" in request:
        pid = os.fork()
        if pid == 0:
            child(request)
        print(pid, flush=True)
    else:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
os._exit(0)  # what is left to be collected at the end would be complained about
