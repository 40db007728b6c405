"""`make fuzz`: the long form of every fuzzer. It goes on where the last call stopped, prints its figures last, and keeps
them in `benchmarks/results/fuzz.md` once the whole campaign was tried on one commit.

    python -m tests.fuzz [api|life|uploading|parsers …] [--cases 16000] [--minutes 60] [--seed 1]

`--cases` is how many requests the API of today's commit is to get over all calls; parsers and machines take their share of it.
Time may cut a round over the API short: what it asked counts, and the next call tries that round again, which takes some five
minutes at most. What is found is kept under `build/fuzz/`, each with what repeats it. The exit status is 0 once today's commit,
with nothing changed since, went through all of it and nothing was found.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine

from backend.core.models import Role
from tests.fuzz import api, life, machines, parsers, report, uploading
from tests.fuzz.api import Phase
from tests.fuzz.findings import Figures, Finding
from tests.fuzz.reach import End
from tests.fuzz.records import KEPT, Record, Records, cases
from tests.fuzz.report import GOAL_INPUTS, GOAL_LIVES
from tests.support.databases import own_postgres
from tests.support.figures import CHANGED, head
from tests.support.models import save_base
from tests.support.webs import Web

ROLES: tuple[Role | None, ...] = (Role.ADMIN, Role.MEMBER, Role.VIEWER, None)
ROUNDS = tuple((role, phase) for role in ROLES for phase in (Phase.FUZZING, Phase.STATEFUL, Phase.COVERAGE))
"""As whom, and what: a phase has a round of its own, since one that is long would leave nothing to the others."""
MOST_CASES = {Phase.FUZZING: 2000, Phase.STATEFUL: 1500, Phase.COVERAGE: 4000}
"""A bound for each: fuzzing and coverage end by themselves before, once every operation was tried."""
EXAMPLES = {Phase.FUZZING: 10, Phase.STATEFUL: 500, Phase.COVERAGE: 1}
"""Of each operation; of sequences in all."""
LEAST_SECONDS = 30
"""Of a round over the API, however little time is left."""
TRIES = 3
"""How often a studio is started that does not come up."""
CASES = 16_000
"""Of the whole campaign over the API; other fuzzers reach their goals with it."""
LIVES = 100
PARSED = 1000


class ChangedUnderway(Exception):
    """This process tries code that is no longer there."""


@dataclass(frozen=True)
class Campaign:
    """How much is wanted, until when, and what was done before."""

    cases: int
    until: float
    seed: int
    records: Records
    commit: str = field(default_factory=head)
    """Whose code this process has read, and tries."""

    def has_time(self) -> bool:
        return time.monotonic() < self.until

    def done(self, fuzzer: str) -> list[Record]:
        """On any commit: what comes next is something else."""
        return self.records.of(fuzzer, self.seed)

    def today(self, fuzzer: str, what: str = "") -> list[Record]:
        """On today's commit: that alone counts."""
        return [each for each in self.done(fuzzer) if each.commit == self.commit and what in ("", each.what)]

    def share(self, goal: int) -> int:
        return max(1, goal * self.cases // CASES)

    def keep(self, record: Record, figures: Figures) -> None:
        """Write a round down at once, and every finding with what repeats it."""
        changed = (now := head()) != self.commit
        commit = f"{self.commit.removesuffix(CHANGED)}{CHANGED}" if changed else self.commit
        self.records.add(replace(record, commit=commit))
        print(f"{' '.join(filter(None, (record.fuzzer, record.what, record.who)))}: {figures}", flush=True)
        for finding in figures.findings.values():
            print(f"found by {record.fuzzer}: {finding} (see {finding.keep(KEPT / record.fuzzer)})", flush=True)
        if changed:
            raise ChangedUnderway(
                f"{self.commit} was to be tried and is {now} now: start again, once nothing changes any more"
            )


def over_api(campaign: Campaign) -> None:
    """Rounds over the API, each as somebody and in one phase, in a studio of its own. They end behind one as the last person in
    the last phase, so that none was left out."""
    while (due := _due(campaign.today("api"), campaign.cases)) and campaign.has_time():
        done = len(campaign.done("api"))
        role, phase = due
        with studio() as web:
            seconds = max(LEAST_SECONDS, campaign.until - time.monotonic())
            seed = campaign.seed * 1000 + done
            plan = api.Plan(role, MOST_CASES[phase], seed, EXAMPLES[phase], (phase,), seconds)
            seen = api.fuzz(web, plan)
        if not seen.figures.cases and seen.end is not End.CLOCK:
            seen.figures.found(Finding(f"the phase {phase}", f"nothing was tried as {plan.person}", ""))
        record = Record.of("api", campaign.seed, phase, seen.figures, plan.person)
        campaign.keep(replace(record, end=seen.end, reach=seen.reach), seen.figures)
        print(f"{seen.end}: {seen.reach}", flush=True)


def _due(today: Sequence[Record], wanted: int) -> tuple[Role | None, Phase] | None:
    """The round over the API that is to come, none once there were enough. One that was cut short comes again."""
    turns, behind = divmod(sum(not each.was_cut for each in today), len(ROUNDS))
    return ROUNDS[behind] if cases(today) < wanted or behind or not turns else None


@contextmanager
def studio() -> Iterator[Web]:
    """A studio that has come up; one that does not is told of, and another is started."""
    with ExitStack() as stack:
        for attempt in range(1, TRIES + 1):
            try:
                web = stack.enter_context(api.worked_in())
                break
            except Exception as error:
                print(f"a studio did not come up, {attempt} of {TRIES}: {error}", flush=True)
                if attempt == TRIES:
                    raise
        yield web


def over_life(campaign: Campaign) -> None:
    """Lives of a run on a Postgres of their own."""
    with own_postgres() as engine:
        _lives(campaign, "life", type("RunLife", (life.RunLife,), {"engine": engine}))


def over_uploading(campaign: Campaign) -> None:
    _lives(campaign, "uploading", uploading.Uploading)


def _lives(campaign: Campaign, name: str, machine: type[RuleBasedStateMachine]) -> None:
    while cases(campaign.today(name)) < campaign.share(GOAL_LIVES) and campaign.has_time():
        lived = machines.campaign(machine, LIVES, campaign.seed * 1000 + len(campaign.done(name)))
        campaign.keep(Record.of(name, campaign.seed, machine.__name__, lived), lived)


def over_parsers(campaign: Campaign) -> None:
    """Every reader in turn, from where the last call stopped."""
    logging.disable(logging.CRITICAL)  # readers tell what they pass over
    with tempfile.TemporaryDirectory() as folder:
        base = save_base(Path(folder) / "base")
        while (behind := _behind(campaign)) and campaign.has_time():
            for name in behind:
                if campaign.has_time():
                    first = cases([each for each in campaign.done("parsers") if each.what == name])
                    figures = parsers.fuzz(name, PARSED, campaign.seed, Path(folder), base, first=first)
                    campaign.keep(Record.of("parsers", campaign.seed, name, figures), figures)
    logging.disable(logging.NOTSET)


def _behind(campaign: Campaign) -> list[str]:
    """The readers that are still to get more."""
    wanted = campaign.share(GOAL_INPUTS)
    return [name for name in parsers.TARGETS if cases(campaign.today("parsers", name)) < wanted]


FUZZERS: dict[str, Callable[[Campaign], None]] = {
    "api": over_api,
    "life": over_life,
    "uploading": over_uploading,
    "parsers": over_parsers,
}


def main(arguments: list[str]) -> int:
    reader = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    reader.add_argument("fuzzers", nargs="*", metavar="FUZZER", help=f"of {', '.join(FUZZERS)}; all by default")
    reader.add_argument("--cases", type=int, default=CASES, help="requests on today's commit (default: %(default)s)")
    reader.add_argument("--minutes", type=float, default=60.0, help="for each fuzzer (default: %(default)s)")
    reader.add_argument("--seed", type=int, default=1, help="another seed is another campaign (default: %(default)s)")
    wanted = reader.parse_args(arguments)
    unknown = set(wanted.fuzzers) - set(FUZZERS)
    if unknown:
        reader.error(f"there is no fuzzer {', '.join(sorted(unknown))}")
    records, commit = Records(), head()
    broke = list(_broke(wanted, records, commit))
    tried = [each for each in records.load() if each.seed == wanted.seed]
    if report.is_whole(tried, commit):
        report.RESULT.write_text(report.page(tried, commit))
    print("\n".join([*report.printed(tried, commit), *(f"FAILED: {name}" for name in broke)]))
    return 0 if report.is_clean(tried, commit) and not broke else 1


def _broke(wanted: argparse.Namespace, records: Records, commit: str) -> Iterator[str]:
    """The fuzzers that did not come to their end. What each found until it broke is kept, and the others have their turn, unless
    the code changed underway: then nothing that this process tries counts any more."""
    for name in wanted.fuzzers or FUZZERS:
        until = time.monotonic() + wanted.minutes * 60
        try:
            FUZZERS[name](Campaign(wanted.cases, until, wanted.seed, records, commit))
        except ChangedUnderway as changed:
            yield f"{name}: {changed}"
            return
        except Exception:
            traceback.print_exc()
            yield name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
