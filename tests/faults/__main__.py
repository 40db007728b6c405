"""`python -m tests.faults`: the fault campaign. It goes on where the last call stopped, and prints its figures last."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.faults.campaign import figures, run_campaign, violations_in
from tests.faults.history import load
from tests.faults.striking import Plan
from tests.support.models import save_base
from tests.support.studios import OUTSIDE


def main() -> int:
    given = arguments()
    if given.history:
        return check_again(given.history)
    for name in [name for name in os.environ if name.startswith(OUTSIDE)]:
        del os.environ[name]  # it would tie the studio to somebody else's
    base = given.state.parent / "base" / "tiny"
    if not base.is_dir():
        save_base(base)
    plan = Plan(given.faults, given.seed, given.first, given.minutes, given.per_segment, patience=given.patience)
    done = run_campaign(base, plan, given.state)
    print("\n".join(figures(done)))
    return 1 if any(segment.violations for segment in done) else 0


def check_again(path: Path) -> int:
    """What the checkers of today say of a history that was kept."""
    history = load(path)
    violations = violations_in(history)
    print("\n".join(f"{each.rule}: {each.what}" for each in violations) or "no violation")
    return 1 if violations else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=3000, help="how many in all, those of earlier calls included")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no further studio after so long")
    parser.add_argument("--per-segment", type=int, default=75, help="faults for each studio")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--first", type=int, default=1, help="number of the first fault: repeats faults, with another --state"
    )
    parser.add_argument("--patience", type=float, default=4.0, help="stretches what is waited for on a slow machine")
    parser.add_argument("--state", type=Path, default=Path("build/faults/state.jsonl"), help="where the count is kept")
    parser.add_argument("--history", type=Path, help="check a history that was kept, and nothing else")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
