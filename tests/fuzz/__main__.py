"""`make fuzz`: the long form of every fuzzer. It goes on where the last call stopped, and prints its figures last.

    python -m tests.fuzz [api|life|uploading|parsers …] [--cases 12000] [--minutes 30] [--seed 1]

`--cases` is how many requests the campaign over the API is to reach over all calls; parsers and machines take their share
of it in each. What is found is kept under `.fuzz/`, each with what repeats it, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine

from backend.core.models import Role
from tests.fuzz import api, life, machines, parsers, uploading
from tests.fuzz.findings import KEPT, Figures, Progress
from tests.support.databases import own_postgres
from tests.support.models import save_base

ROLES: tuple[Role | None, ...] = (Role.ADMIN, Role.MEMBER, Role.ADMIN, Role.VIEWER, Role.MEMBER, None)
"""As whom the rounds of a campaign are tried, in turn."""
ROUND_CASES = 2000
LIVES = 100
PARSED = 2000


@dataclass(frozen=True)
class Campaign:
    """How much is wanted, and until when."""

    cases: int
    until: float
    seed: int

    def has_time(self) -> bool:
        return time.monotonic() < self.until

    def progress(self, name: str) -> Progress:
        return Progress.of(KEPT / f"{name}-{self.seed}.json")


def over_api(campaign: Campaign) -> Figures:
    """Rounds over the API, each as somebody else, in a studio of its own."""
    figures, reached, described = Figures(), Counter[str](), set[str]()
    progress = campaign.progress("api")
    while progress.cases < campaign.cases and campaign.has_time():
        role = ROLES[progress.rounds % len(ROLES)]
        seconds = max(30, int(campaign.until - time.monotonic()))
        cases = min(ROUND_CASES, campaign.cases - progress.cases)
        plan = api.Plan(role, cases, campaign.seed * 1000 + progress.rounds, examples=20, seconds=seconds)
        with api.worked_in() as web:
            seen = api.fuzz(web, plan)
        print(f"round {progress.rounds} as {plan.person}: {seen.figures}", flush=True)
        progress.advance(seen.figures.cases)
        figures.add(seen.figures)
        reached += seen.reached
        described |= seen.described
    print(f"api: {progress.cases:,} of {campaign.cases:,} cases over all calls")
    print(f"only refused in this call: {', '.join(sorted(described - set(reached))) or 'no operation'}")
    return figures


def over_life(campaign: Campaign) -> Figures:
    """Lives of a run on a Postgres of their own."""
    with own_postgres() as engine:
        return _lives(campaign, "life", type("RunLife", (life.RunLife,), {"engine": engine}))


def over_uploading(campaign: Campaign) -> Figures:
    return _lives(campaign, "uploading", uploading.Uploading)


def _lives(campaign: Campaign, name: str, machine: type[RuleBasedStateMachine]) -> Figures:
    figures, progress = Figures(), campaign.progress(name)
    wanted = progress.cases + campaign.cases // 20
    while progress.cases < wanted and campaign.has_time():
        lived = machines.campaign(machine, LIVES, campaign.seed * 1000 + progress.rounds)
        progress.advance(lived.cases)
        figures.add(lived)
    return figures


def over_parsers(campaign: Campaign) -> Figures:
    """Every reader in turn, from where the last call stopped."""
    figures, progress = Figures(), campaign.progress("parsers")
    logging.disable(logging.CRITICAL)  # readers tell what they pass over
    with tempfile.TemporaryDirectory() as folder:
        base = save_base(Path(folder) / "base")
        for _ in range(max(1, campaign.cases // PARSED)):
            for name in parsers.TARGETS:
                if campaign.has_time():
                    first = progress.rounds * PARSED
                    figures.add(parsers.fuzz(name, PARSED, campaign.seed, Path(folder), base, first=first))
            progress.advance(PARSED * len(parsers.TARGETS))
    logging.disable(logging.NOTSET)
    return figures


FUZZERS: dict[str, Callable[[Campaign], Figures]] = {
    "api": over_api,
    "life": over_life,
    "uploading": over_uploading,
    "parsers": over_parsers,
}


def main(arguments: list[str]) -> int:
    reader = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    reader.add_argument("fuzzers", nargs="*", metavar="FUZZER", help=f"of {', '.join(FUZZERS)}; all by default")
    reader.add_argument("--cases", type=int, default=12_000, help="requests over all calls (default: %(default)s)")
    reader.add_argument("--minutes", type=float, default=30.0, help="for each fuzzer (default: %(default)s)")
    reader.add_argument("--seed", type=int, default=1, help="another seed is another campaign (default: %(default)s)")
    wanted = reader.parse_args(arguments)
    unknown = set(wanted.fuzzers) - set(FUZZERS)
    if unknown:
        reader.error(f"there is no fuzzer {', '.join(sorted(unknown))}")
    found = {name: _run(name, wanted) for name in wanted.fuzzers or FUZZERS}
    for name, figures in found.items():
        print(f"{name}: {figures}")
    return 1 if any(figures.findings for figures in found.values()) else 0


def _run(name: str, wanted: argparse.Namespace) -> Figures:
    begun = time.monotonic()
    figures = FUZZERS[name](Campaign(wanted.cases, begun + wanted.minutes * 60, wanted.seed))
    figures.seconds = time.monotonic() - begun
    for finding in figures.findings.values():
        print(f"found by {name}: {finding} (see {finding.keep(KEPT / name)})")
    return figures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
