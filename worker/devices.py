"""What this host can train on. CUDA is asked through `nvidia-smi`: importing torch here would touch it."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

CSV = "--format=csv,noheader,nounits"
QUERY = ["--query-gpu=index,name,memory.total", CSV]
PLACES = ["--query-gpu=index,pci.bus_id", CSV]
PROCESSES = ["--query-compute-apps=gpu_bus_id,pid,used_memory,process_name", CSV]
TRIES, PAUSE_SECONDS = 5, 3.0
"""How often a driver is asked for its GPUs that stumbles: a host may be up before it is."""
ANSWER_SECONDS = 20.0
"""How long it may take to answer."""


class Unanswered(Exception):
    """The driver is there and did not answer: nobody knows what it would have told."""


@dataclass(frozen=True)
class Accelerator:
    """`name` is what torch calls it: `cuda:0`, `cpu`."""

    name: str
    title: str
    memory_bytes: int


@dataclass(frozen=True)
class Occupant:
    """A process that computes on an accelerator. `pid` and `memory_bytes` are 0 where the driver does not tell."""

    pid: int
    name: str
    memory_bytes: int

    def __str__(self) -> str:
        held = f", {self.memory_bytes / 2**30:.1f} GiB" if self.memory_bytes else ""
        return f"{self.name} (process {self.pid}{held})" if self.pid else self.name


class Driver:
    """NVIDIA's driver, asked through its own program.

    One that hangs in the kernel cannot be killed. It is left behind, and the driver counts as silent until it is gone: others
    would hang beside it.
    """

    def __init__(self) -> None:
        self._hung: subprocess.Popen[str] | None = None

    def gpus(self) -> tuple[Accelerator, ...]:
        """None where there is no driver, or where it stumbles for long: that is logged."""
        for tries_left in reversed(range(TRIES)):
            try:
                return tuple(_gpu(line) for line in self._ask(QUERY))
            except Unanswered as error:
                log.warning("%s: %s", "it is asked again" if tries_left else "no GPU is used", error)
                time.sleep(PAUSE_SECONDS if tries_left else 0)
        return ()

    def occupants(self, own: Container[int]) -> dict[str, tuple[Occupant, ...]]:
        """By device, the processes that compute on it, but for our `own`: what a dead host left, or what others run. Raises
        `Unanswered`."""
        return strangers(self._ask(PLACES), self._ask(PROCESSES), own)

    def _ask(self, question: Sequence[str]) -> list[str]:
        """The lines of the driver's answer; none where there is no driver. Raises `Unanswered`."""
        program = shutil.which("nvidia-smi")
        if program is None:
            return []
        if self._hung is not None and self._hung.poll() is None:
            raise Unanswered(f"The driver's nvidia-smi hangs (process {self._hung.pid}).")
        try:
            answer = self._run([program, *question])
        except (OSError, subprocess.SubprocessError) as error:
            raise Unanswered(f"The driver's nvidia-smi does not answer: {error}") from error
        parts = question[0].count(",")
        return [line for line in answer.splitlines() if line.count(",") >= parts]

    def _run(self, command: Sequence[str]) -> str:
        asked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
        try:
            answer, complaint = asked.communicate(timeout=ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            asked.kill()
            self._hung = asked  # nobody waits for its end: it may never come
            raise
        if asked.returncode:
            told = " ".join(f"{answer} {complaint}".split())
            raise Unanswered(f"The driver's nvidia-smi failed (code {asked.returncode}). {told}".strip())
        return answer


def found(wanted: str, driver: Driver) -> tuple[Accelerator, ...]:
    """The devices that `STUDIO_DEVICES` asks for: `auto` takes every GPU, and the CPU where there is none. Blocks while the
    driver stumbles."""
    if wanted == "cpu":
        return (_cpu(),)
    gpus = driver.gpus()
    if wanted != "auto":
        indices = {f"cuda:{index.strip()}" for index in wanted.split(",")}
        gpus = tuple(gpu for gpu in gpus if gpu.name in indices)
    return gpus or (_cpu(),)


def strangers(places: Iterable[str], processes: Iterable[str], own: Container[int]) -> dict[str, tuple[Occupant, ...]]:
    """The same from the driver's answers: lines of `index, bus` and of `bus, process id, MiB, name`."""
    devices = {bus: f"cuda:{index}" for index, bus in (_parts(line, 2) for line in places)}
    told: dict[str, list[Occupant]] = defaultdict(list)
    for bus, pid, mebibytes, name in (_parts(line, 4) for line in processes):
        number = _number(pid)
        if bus in devices and number not in own:
            told[devices[bus]].append(Occupant(number, name, _number(mebibytes) << 20))
    return {device: tuple(found) for device, found in told.items()}


def shared(device: str, strangers: Iterable[Occupant]) -> str:
    """Who else is on an accelerator, in words; nothing where nobody is."""
    names = ", ".join(map(str, strangers))
    return f"{device} is in use by {names}." if names else ""


def _parts(line: str, count: int) -> list[str]:
    """The last one may hold commas itself."""
    return [part.strip() for part in line.split(",", count - 1)]


def _gpu(line: str) -> Accelerator:
    index, title, mebibytes = _parts(line, 3)
    return Accelerator(f"cuda:{index}", title, _number(mebibytes) << 20)


def _number(text: str) -> int:
    """0 where the driver does not tell, which it writes as `[N/A]`."""
    return int(text) if text.isdecimal() else 0


def _cpu() -> Accelerator:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Accelerator("cpu", f"CPU, {os.cpu_count()} cores ({platform.machine()})", memory)
