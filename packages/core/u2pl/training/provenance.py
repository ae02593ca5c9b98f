"""What results depend on besides the config: versions, commit, machine."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

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
    """Versions of Python and of the packages that affect results."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def commit() -> str | None:
    """The commit of this checkout, with `-dirty` if it has changes; None outside a checkout."""
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
    """Precision of the networks, as in `train.precision`."""
    names = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
    return names.get(accelerator.mixed_precision, accelerator.mixed_precision)


def processor() -> str:
    """The CPU's model, architecture and vector instructions, on which rounding depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or "CPU"
    return f"{model} ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def circumstances(accelerator: Accelerator) -> dict[str, object]:
    """Processes, threads, device, precision, peak memory, versions and commit, for the summary."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
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
