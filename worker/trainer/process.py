"""The trainer as a process: frozen environment, heavy imports beforehand, one accelerator at a time."""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.machine import machine
from worker.trainer.journal import Journal
from worker.trainer.parent import watch_stdin

FROZEN = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads slow their neighbours, the web process among them, up to 40 times
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is a GPU must not touch it
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCHDYNAMO_DISABLE": "1",  # no step is compiled here, and to promise it, bitsandbytes would import all of Inductor
    "TQDM_DISABLE": "1",  # the journal tells how far things are
}
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "worker.trainer.train")


def freeze_environment() -> None:
    """Set what libraries read once, at import. What the supervisor set already stands."""
    for name, value in FROZEN.items():
        os.environ.setdefault(name, value)


def wait_for_assignment() -> Path | None:
    """Import everything heavy, say `ready` on stdout, and wait for the path of an assignment on stdin.

    None where stdin closes instead. Stdout belongs to the supervisor, so whatever libraries print goes to stderr.
    """
    supervisor = os.dup(1)
    os.dup2(2, 1)
    import_heavy()
    os.write(supervisor, b"ready\n")
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        return None
    watch_stdin()
    return Path(line.strip())


def import_heavy() -> None:
    """Import the libraries (3 to 15 s) without touching an accelerator."""
    gc.disable()  # what is imported stays: looking for garbage in it would take a quarter of the time
    for name in HEAVY:
        importlib.import_module(name)
    transformers = importlib.import_module("transformers")
    for name in ("Trainer", "AutoModelForCausalLM", "AutoTokenizer", "BitsAndBytesConfig"):
        getattr(transformers, name)  # it imports what is asked for
    gc.freeze()
    gc.enable()


def run_directory() -> Path:
    """Where locks lie: `STUDIO_RUN_DIR`, else `run` under the studio's home."""
    from backend.core.settings import settings

    given = os.environ.get("STUDIO_RUN_DIR")
    return Path(given) if given else settings().folder("run")


def lock_name(device: str) -> str:
    """Hosts may share a home, and each has a `cuda:0` of its own; containers of one machine have the same one."""
    return f"device-{machine()}-{re.sub(r'[^a-z0-9]+', '-', device.lower())}.lock"


@contextmanager
def device_lock(device: str, journal: Journal) -> Iterator[None]:
    """Hold the accelerator for as long as this process works. The kernel frees it however the process ends."""
    folder = run_directory()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / lock_name(device), "wb") as file:
        if not _try_lock(file.fileno()):
            journal.phase("loading", f"Waiting for {device}: another trainer still holds it.")
            while not _try_lock(file.fileno()):
                time.sleep(0.2)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
