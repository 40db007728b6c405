"""`python -m worker.trainer [ASSIGNMENT.json]`: a warm spare that waits for its assignment, or a run by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from worker.trainer.parent import die_with_parent


def main(arguments: list[str]) -> int:
    die_with_parent()
    from worker.trainer.process import freeze_environment, wait_for_assignment

    freeze_environment()
    path = Path(arguments[0]) if arguments else wait_for_assignment()
    if path is None:
        return 0
    from worker.trainer.train import carry_out  # torch and all: after the environment is frozen

    return carry_out(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
