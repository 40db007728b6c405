"""An init with two children that only sleep: `python -m tests.embedded.stand_in FOLDER`.

Each child writes its process id to `FOLDER/<name>.pid`, and on SIGTERM its name to `FOLDER/ended`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

from backend.embedded.init import Child, Init, Stopped
from backend.embedded.spawn import spawn

CHILD = """
import os, signal, sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
def end(*_):
    with open(folder / "ended", "a") as file:
        file.write(name + "\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if name == "stubborn" else end)
(folder / "pid").write_text(str(os.getpid()))
(folder / "pid").rename(folder / f"{name}.pid")
if name == "broken":
    sys.exit(3)
time.sleep(60)
"""


def child(folder: Path, name: str) -> Child:
    log = folder / f"{name}.log"

    def launch() -> subprocess.Popen[bytes]:
        return spawn([sys.executable, "-c", CHILD, str(folder), name], env=dict(os.environ), log=log)

    return Child(name, launch, log, grace_seconds=1.0)


def main(folder: Path, names: list[str]) -> None:
    logging.basicConfig(filename=folder / "init.log", level=logging.INFO, format="%(message)s")
    with contextlib.suppress(Stopped), Init() as init:
        for name in names:
            init.start(child(folder, name))
        init.watch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
