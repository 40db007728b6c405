"""What this host can train on. CUDA is asked through `nvidia-smi`: importing torch here would touch it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass

QUERY = ["--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class Accelerator:
    """`name` is what torch calls it: `cuda:0`, `cpu`."""

    name: str
    title: str
    memory_bytes: int


def found(wanted: str) -> tuple[Accelerator, ...]:
    """The devices that `STUDIO_DEVICES` asks for: `auto` takes every GPU, and the CPU where there is none."""
    if wanted == "cpu":
        return (_cpu(),)
    gpus = _gpus()
    if wanted != "auto":
        indices = {f"cuda:{index.strip()}" for index in wanted.split(",")}
        gpus = tuple(gpu for gpu in gpus if gpu.name in indices)
    return gpus or (_cpu(),)


def _gpus() -> tuple[Accelerator, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        answer = subprocess.run([program, *QUERY], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(_gpu(line) for line in answer.splitlines() if line.count(",") == 2)


def _gpu(line: str) -> Accelerator:
    index, title, mebibytes = (part.strip() for part in line.split(","))
    return Accelerator(f"cuda:{index}", title, int(mebibytes) << 20)


def _cpu() -> Accelerator:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Accelerator("cpu", f"CPU, {os.cpu_count()} cores ({platform.machine()})", memory)
