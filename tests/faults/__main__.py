"""`python -m tests.faults`: the fault campaign. It goes on where the last call stopped, on another machine too, prints its
figures last, and keeps them in `benchmarks/results/faults.md`, beside those of single faults in their long form, which it
measures first."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.faults.campaign import Missing, missing_here, run_campaign, violations_in
from tests.faults.history import load
from tests.faults.report import (
    AWAY_SECONDS,
    GOAL_FAULTS,
    RESULT,
    is_clean,
    is_whole,
    missing,
    page,
    printed,
    singles,
)
from tests.faults.striking import Plan, Segment
from tests.support.figures import CHANGED, ROOT, head, kept_in, of_today
from tests.support.models import save_base
from tests.support.studios import OUTSIDE

STATE = RESULT.with_suffix(".jsonl")
"""The count: what each studio went through, committed as the page is."""
BUILD = ROOT / "build" / "faults"
LONG = ("test_outside_host.py", "test_worker_deaths.py", "test_worker_phases.py", "test_outside_services.py")
"""Files of tests that are longer than a test run has time for."""
OF_PAGES = ("test_outside_services.py",)
"""Those of them in which a browser looks at pages."""


def main() -> int:
    given = arguments()
    if given.history:
        return check_again(given.history)
    for name in [name for name in os.environ if name.startswith(OUTSIDE)]:
        del os.environ[name]  # it would tie the studio to somebody else's
    base = BUILD / "base" / "tiny"
    if not base.is_dir():
        save_base(base)
    return whole(given, base) if given.state.resolve() == STATE else repeat(given, base)


def repeat(given: argparse.Namespace, base: Path) -> int:
    """Some faults once more, beside the campaign: they are to break no promise."""
    done, is_unbroken = strike(given, base, given.state.parent, missing_here)
    print("\n".join(printed(done, head())))
    return 0 if is_unbroken and is_clean(done, head(), given.faults) else 1


def whole(given: argparse.Namespace, base: Path) -> int:
    """The campaign, behind the long forms of single tests."""
    return campaign(given, base, [file for file in LONG if not long_form(file, BUILD / "long")])


def campaign(given: argparse.Namespace, base: Path, failed: Sequence[str]) -> int:
    """The faults of a campaign, which keeps its page, and ends well where nothing on that is missed."""
    done, is_unbroken = strike(given, base, BUILD, lambda plan, done: missing(plan, done, head()))
    measured, commit = of_today(), head()
    given.state.with_suffix(".md").write_text(page(done, measured, commit))
    lines = [*map(str, singles(measured)), *printed(done, commit)]
    print("\n".join([*lines, *(f"FAILED in its long form: {file}" for file in failed)]))
    return 0 if is_unbroken and is_whole(done, measured, commit) and not failed else 1


def strike(given: argparse.Namespace, base: Path, histories: Path, missing: Missing) -> tuple[list[Segment], bool]:
    """All that was kept, and whether no studio broke off: one that does is told, and what the others showed is told too."""
    plan = Plan(given.faults, given.seed, given.first, given.minutes, given.per_segment, patience=given.patience)
    try:
        return run_campaign(base, plan, given.state, histories, missing=missing), True
    except Exception:
        traceback.print_exc()
        return kept_in(given.state, Segment), False


def long_form(file: str, passed: Path) -> bool:
    """Whether the tests of this file pass in their long form. Once for each commit is enough, where nothing was changed since."""
    commit = head(of_pages=file in OF_PAGES)
    mark = passed / f"{file}-{commit}"
    if mark.exists() and not commit.endswith(CHANGED):
        return True
    told = os.environ | {"STUDIO_FAULTS": "all", "FAULT_AWAY_SECONDS": f"{AWAY_SECONDS}"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", f"tests/faults/{file}"]
    if subprocess.run(command, cwd=ROOT, env=told, check=False).returncode:
        return False
    passed.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return True


def check_again(path: Path) -> int:
    """What the checkers of today say of a history that was kept."""
    history = load(path)
    violations = violations_in(history)
    print("\n".join(f"{each.rule}: {each.what}" for each in violations) or "no violation")
    return 1 if violations else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--faults",
        type=int,
        default=GOAL_FAULTS,
        help="how many in a row, those of earlier calls included; with another --state, how many on this commit",
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no further studio after so long")
    parser.add_argument("--per-segment", type=int, default=75, help="faults for each studio")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--first", type=int, default=1, help="number of the first fault: repeats faults, with another --state"
    )
    parser.add_argument("--patience", type=float, default=4.0, help="stretches what is waited for on a slow machine")
    parser.add_argument("--state", type=Path, default=STATE, help="where the count is kept")
    parser.add_argument("--history", type=Path, help="check a history that was kept, and nothing else")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
