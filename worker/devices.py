"""What this host can train on. CUDA is asked through `nvidia-smi`: importing torch here would touch it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

CSV = "--format=csv,noheader,nounits"
QUERY = ["--query-gpu=index,name,memory.total", CSV]
PLACES = ["--query-gpu=index,pci.bus_id", CSV]
PROCESSES = ["--query-compute-apps=gpu_bus_id,pid,used_memory,process_name", CSV]


@dataclass(frozen=True)
class Accelerator:
    """`name` is what torch calls it: `cuda:0`, `cpu`."""

    name: str
    title: str
    memory_bytes: int


@dataclass(frozen=True)
class Occupant:
    """A process that computes on an accelerator. `memory_bytes` is 0 where the driver does not tell."""

    pid: int
    name: str
    memory_bytes: int

    def __str__(self) -> str:
        held = f", {self.memory_bytes / 2**30:.1f} GiB" if self.memory_bytes else ""
        return f"{self.name} (process {self.pid}{held})"


def found(wanted: str) -> tuple[Accelerator, ...]:
    """The devices that `STUDIO_DEVICES` asks for: `auto` takes every GPU, and the CPU where there is none."""
    if wanted == "cpu":
        return (_cpu(),)
    gpus = _gpus()
    if wanted != "auto":
        indices = {f"cuda:{index.strip()}" for index in wanted.split(",")}
        gpus = tuple(gpu for gpu in gpus if gpu.name in indices)
    return gpus or (_cpu(),)


def occupants(own: Container[int]) -> dict[str, tuple[Occupant, ...]]:
    """By device, the processes that compute on it, but for our `own`: what a dead host left, or what others run."""
    return strangers(_ask(PLACES), _ask(PROCESSES), own)


def strangers(places: Iterable[str], processes: Iterable[str], own: Container[int]) -> dict[str, tuple[Occupant, ...]]:
    """The same from the driver's answers: lines of `index, bus` and of `bus, process id, MiB, name`."""
    devices = {bus: f"cuda:{index}" for index, bus in (_parts(line, 2) for line in places)}
    told: dict[str, list[Occupant]] = defaultdict(list)
    for bus, pid, mebibytes, name in (_parts(line, 4) for line in processes):
        if bus in devices and int(pid) not in own:
            memory = int(mebibytes) << 20 if mebibytes.isdigit() else 0
            told[devices[bus]].append(Occupant(int(pid), name, memory))
    return {device: tuple(found) for device, found in told.items()}


def shared(device: str, strangers: Iterable[Occupant]) -> str:
    """Who else is on an accelerator, in words; nothing where nobody is."""
    names = ", ".join(map(str, strangers))
    return f"{device} is in use by {names}." if names else ""


def _gpus() -> tuple[Accelerator, ...]:
    return tuple(_gpu(line) for line in _ask(QUERY))


def _ask(question: Sequence[str]) -> list[str]:
    """The lines of the driver's answer; none where there is no driver, or it does not know."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run([program, *question], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    parts = question[0].count(",")
    return [line for line in answer.splitlines() if line.count(",") >= parts]


def _parts(line: str, count: int) -> list[str]:
    """The last one may hold commas itself."""
    return [part.strip() for part in line.split(",", count - 1)]


def _gpu(line: str) -> Accelerator:
    index, title, mebibytes = _parts(line, 3)
    return Accelerator(f"cuda:{index}", title, int(mebibytes) << 20)


def _cpu() -> Accelerator:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Accelerator("cpu", f"CPU, {os.cpu_count()} cores ({platform.machine()})", memory)
