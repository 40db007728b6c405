"""`make hostile`: the table of hostile inputs, measured by the clock on a machine that should have nothing else to do.

    python -m tests.hostile [anything for pytest]

Its figures are printed last, and kept in `benchmarks/results/hostile.md` where all of it was measured and answered as it has to
be. The exit status is 0 where that is so, and each row took at most two seconds and 512 MB.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.hostile.report import RESULT, goals, page, printed, taken
from tests.hostile.studio import costs_of_all
from tests.support.figures import ROOT, all_hold


def main(arguments: list[str]) -> int:
    load, commit = os.getloadavg()[0], described()
    quiet = ["-q", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    failed = pytest.main([*quiet, str(Path(__file__).parent), *arguments])
    costs = costs_of_all()
    found = goals(taken(costs))
    if not failed and found[0].holds:
        RESULT.write_text(page(costs, commit, load))
    print("\n".join([*printed(costs), *(["FAILED: a test of the table, see above"] if failed else [])]))
    return 0 if all_hold(found) and not failed else 1


def described() -> str:
    """The commit, marked where something was changed since; outside of git the version of the package."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return told or version("finetune-studio")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
