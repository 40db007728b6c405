"""`make hostile`: the table of hostile inputs, measured by the clock on a machine that should have nothing else to do.

    python -m tests.hostile [anything for pytest]

Its figures are printed last, and kept in `benchmarks/results/hostile.md` where all of it was measured and answered as it has to
be, each row within two seconds and 512 MB, of a commit as it is, on a machine that had nothing else to do as it began; else it is
told why they are not. The exit status is 0 where each row holds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.hostile.report import RESULT, goals, page, printed, reasons_against_keeping, taken
from tests.hostile.studio import costs_of_all
from tests.support.figures import ROOT, all_hold


def main(arguments: list[str]) -> int:
    load, commit = os.getloadavg()[0], described()
    quiet = ["-q", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    failed = pytest.main([*quiet, str(Path(__file__).parent), *arguments])
    costs = costs_of_all()
    found = taken(costs)
    against = reasons_against_keeping(found, commit, load) + (
        ["a test of the table failed, see above"] if failed else []
    )
    if not against:
        RESULT.write_text(page(costs, commit, load))
    print("\n".join([*printed(costs), *(f"NOT KEPT: {why}" for why in against)]))
    return 0 if all_hold(goals(found)) and not failed else 1


def described() -> str:
    """The commit, marked where something was changed since; outside of git the version of the package."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return told or version("finetune-studio")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
