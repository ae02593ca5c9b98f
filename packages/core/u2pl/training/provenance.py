"""What a number depends on besides its config: versions, commit, machine."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from u2pl import distributed

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "accelerate",
    "numpy",
    "pillow",
)


def versions() -> dict[str, str]:
    """Python and the packages that decide about results."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def commit() -> str | None:
    """The commit of the checkout this code runs from, with `-dirty` when it has changes; None outside of one."""
    line = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
    ]
    try:
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def precision(accelerator: Accelerator) -> str:
    """The floating type that networks compute in, as `accelerate launch --mixed_precision` names it; float32 without it."""
    return "float32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision


def circumstances(accelerator: Accelerator) -> dict[str, Any]:
    """Processes, threads, device, precision, memory, versions and commit, for a summary."""
    device = accelerator.device
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU ({platform.machine()})"
    )
    return {
        "world_size": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "device": name,
        "precision": precision(accelerator),
        **(
            {"peak_gpu_bytes": torch.cuda.max_memory_allocated(device)}
            if device.type == "cuda"
            else {}
        ),
        "versions": versions(),
        "commit": commit(),
    }
