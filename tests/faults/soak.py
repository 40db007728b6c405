"""A studio under steady load for a long while: `python -m tests.faults.soak --minutes 20`.

Points through the real journal, event streams, uploads, pages and runs at once, and meanwhile a look at every process each
few seconds. It prints its figures last and exits with 1 where a goal is missed. `benchmarks/results/soak.md` keeps those of
twenty minutes and more: a shorter one says nothing of growth.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import psutil

from backend.embedded.postgres import Postgres
from backend.embedded.valkey import Valkey
from tests.faults.history import name_of
from tests.faults.load import Feeder, People, Readers, Tally, in_threads
from tests.journeys.materials import Material, write_alpaca
from tests.support.figures import RESULTS, Row, all_hold, head, table
from tests.support.models import save_base
from tests.support.processes import processes_of
from tests.support.studios import Studio, running_studio

RESULT = RESULTS / "soak.md"
LASTING = ("web", "supervisor", "feeder", "celery", "valkey", "postgres", "studio")
"""Parts that run from the start to the end; trainers and helpers come and go."""
MIB = 1 << 20
KEPT_MINUTES = 20.0
MOST_GROWTH, MOST_DELAY_SECONDS = 0.05, 1.0
FLAT, SPARE_DESCRIPTORS, SPARE_PROCESSES = 0.01, 3, 2
LOOKED_AT = 0.6
"""The part of the time that lies between the middles of the fifths that are compared: growth is told of the whole."""
ASKED = ("look", "launch", "follow")
"""What people ask for again and again, none of which is to be refused."""
LEAST_LOAD = 0.95
"""The part of the load that must have been there for the other figures to mean anything."""


@dataclass
class Meter:
    """Memory and descriptors of each part over time, summed over its processes; Postgres without what they share."""

    home: Path
    every_seconds: float
    memory: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    descriptors: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    others: list[float] = field(default_factory=list)
    """How many processes there are beside those: trainers, readers of files, and who waits for work."""
    first: set[tuple[str, float]] = field(default_factory=set)
    newest: set[tuple[str, float]] = field(default_factory=set)
    """Each process of a part, by its name and its start, at the first look and at the newest."""

    def look(self) -> None:
        self.newest, others = set(), 0
        memory, descriptors = dict.fromkeys(LASTING, 0.0), dict.fromkeys(LASTING, 0.0)
        for process in processes_of(self.home):
            try:
                name = name_of(process)
                if name not in LASTING:
                    others += 1
                    continue
                memory[name] += own_bytes(process.pid) if name == "postgres" else process.memory_info().rss
                descriptors[name] += process.num_fds()
                if name != "postgres":  # its backends come and go with connections
                    self.newest.add((name, process.create_time()))
            except (psutil.Error, OSError):
                continue
        self.first = self.first or self.newest
        self.others.append(others)
        for name in LASTING:
            self.memory[name].append(memory[name])
            self.descriptors[name].append(descriptors[name])


def own_bytes(pid: int) -> int:
    """Memory of a process' own; of what it still shares with its parent, its part. Postgres' shared memory has a fixed size and
    is left out: a page of it counts as private where only one process has touched it so far."""
    words = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
    return int(words[words.index("Pss_Anon:") + 1]) << 10


def fifths(values: Sequence[float]) -> tuple[float, float]:
    """The means of the second and of the last fifth: the first is warming up."""
    size = max(1, len(values) // 5)
    return statistics.fmean(values[size : 2 * size] or values), statistics.fmean(values[-size:])


def figures(tally: Tally, meter: Meter, stored: int, failures: Sequence[str], rate: float, streams: int) -> list[Row]:
    """Every goal with what was found."""
    fed = tally.sent_points / tally.fed_seconds if tally.fed_seconds else 0.0
    unexpected = {key: count for key, count in tally.statuses.items() if key[1] >= 500}
    refused = sum(count for (what, status), count in tally.statuses.items() if what == "stream" and status != 200)
    delays = sorted(tally.delays)
    late = delays[int(0.95 * len(delays))] if delays else float("inf")
    answers = ", ".join(f"{what} {status}: {count:,}" for (what, status), count in sorted(tally.statuses.items()))
    whole, uploaded = sum(stream.is_whole for stream in tally.streams), _uploaded(tally)
    ended = ", ".join(f"{count} {state}" for state, count in tally.ended_runs.items())
    return [
        Row("answers", answers),
        Row("answers of 500 and above", str(sum(unexpected.values())), "0", not unexpected),
        Row("connections that broke", str(sum(tally.broken.values())), "0", not tally.broken),
        _refused(tally),
        Row("streams that were refused", str(refused), "0", not refused),
        Row(
            "uploads that were due and taken",
            f"{tally.due_uploads:,} and {uploaded:,}",
            f"≥ {LEAST_LOAD:.0%}",
            0 < LEAST_LOAD * tally.due_uploads <= uploaded,
        ),
        Row(
            "streams that received every event once",
            f"{whole} of {streams}",
            "all",
            whole == streams > 0,
        ),
        Row("events received", f"{len(delays):,}"),
        Row("delay of an event, p95", f"{late:.3f} s", f"≤ {MOST_DELAY_SECONDS:g} s", late <= MOST_DELAY_SECONDS),
        Row("points a second", f"{fed:.1f}", f"≥ {LEAST_LOAD * rate:g}", fed >= LEAST_LOAD * rate),
        Row("points sent and stored", f"{tally.sent_points:,} and {stored:,}", "equal", tally.sent_points == stored),
        Row("runs", ended, "some, and none failed", set(tally.ended_runs) == {"succeeded"}),
        Row("load that stopped", "; ".join(failures) or "none", "none", not failures),
        *_growth(meter),
    ]


def _refused(tally: Tally) -> Row:
    """Somebody who is turned away at every look, or never looks, is no load."""
    asked = {key: count for key, count in tally.statuses.items() if key[0] in ASKED}
    refused = sum(count for (_, status), count in asked.items() if not 200 <= status < 300)
    found = f"{refused:,} of {sum(asked.values()):,}"
    is_good = not refused and {what for what, _ in asked} == set(ASKED)
    return Row("looks and launches that were refused", found, "none of some", is_good)


def _uploaded(tally: Tally) -> int:
    return sum(count for (what, status), count in tally.statuses.items() if what == "upload" and status < 300)


def _growth(meter: Meter) -> list[Row]:
    found = []
    for name in LASTING:
        early, late = fifths(meter.memory[name])
        grown = (late / early - 1) / LOOKED_AT if early else float("inf")  # what was not there was not measured
        memory = f"{early / MIB:.1f} → {late / MIB:.1f} MiB ({grown:+.1%})"
        found.append(Row(f"memory of {name}", memory, f"< {MOST_GROWTH:.0%}", grown < MOST_GROWTH))
        before, after = fifths(meter.descriptors[name])
        is_flat = after - before <= max(SPARE_DESCRIPTORS, FLAT * before)
        found.append(Row(f"descriptors of {name}", f"{before:.0f} → {after:.0f}", "flat", is_flat))
    before, after = fifths(meter.others)
    is_flat = after - before <= SPARE_PROCESSES
    found.append(Row("processes that come and go", f"{before:.1f} → {after:.1f} at a time", "flat", is_flat))
    died = sorted(name for name, _ in meter.first - meter.newest)
    return [*found, Row("parts that died", ", ".join(died) or "none", "none", not died)]


def soak(studio: Studio, material: Material, minutes: float, rate: float, streams: int) -> list[Row]:
    """Everything at once for so long."""
    tally, seconds = Tally(), minutes * 60
    meter = Meter(studio.home, every_seconds=min(5.0, seconds / 60))
    feeder = Feeder(studio.home, Postgres(studio.home).url, Valkey(studio.home).url, rate)
    try:
        feeder.wait()
        failures = _load(studio, material, feeder, streams, tally, meter, seconds)
    finally:
        feeder.stop()
    feeder.tell(tally)
    return figures(tally, meter, feeder.stored_points(), failures, rate, streams)


def _load(
    studio: Studio, material: Material, feeder: Feeder, streams: int, tally: Tally, meter: Meter, seconds: float
) -> list[str]:
    """All that reads, looks, uploads and trains meanwhile; what of it stopped, and why."""
    with studio.client() as client:
        client.put_dataset("rows", material.file, on_bytes=lambda _count: None)
        people = People(client, material, feeder.run_ids, tally)
        token = {"Authorization": f"Bearer {client.bearer.token}"}
        readers = Readers(studio.address, token, feeder, streams, tally)
        with in_threads(readers.read, people.upload, people.look, people.train) as failures:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                meter.look()
                time.sleep(meter.every_seconds)
    return failures


def report(found: Sequence[Row], minutes: float, rate: float, streams: int) -> str:
    """The figures as a page."""
    intro = (
        f"# A studio under steady load\n\n`python -m tests.faults.soak --minutes {minutes:g}`, {date.today():%d %B %Y}, "
        f"{os.cpu_count()} cores, commit {head()}: {rate:g} points a second, {streams} event streams, an upload every five "
        "seconds, a look every second, one run after the other. Memory and descriptors are the means of the second and of "
        "the last fifth of the time, summed over a part's processes; growth is that of the whole time at the same pace; Postgres "
        "without the memory that its processes share.\n\n"
    )
    return intro + "\n".join(table(found)) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=KEPT_MINUTES)
    parser.add_argument("--rate", type=float, default=200.0, help="points a second")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--into", type=Path, help="the file that keeps the figures")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = save_base(Path(folder) / "tiny")
        material = Material(base, write_alpaca(Path(folder) / "rows.json"), rows=60)
        with running_studio(base) as studio:
            found = soak(studio, material, asked.minutes, asked.rate, asked.streams)
            if not all_hold(found):
                print(studio.logs(), file=sys.stderr)
    page = report(found, asked.minutes, asked.rate, asked.streams)
    if into := asked.into or (RESULT if asked.minutes >= KEPT_MINUTES else None):
        into.write_text(page)
    print(page)
    return 0 if all_hold(found) else 1


if __name__ == "__main__":
    sys.exit(main())
