"""Run the benchmarks that are named, by name or by the id of a row, or all; keep their figures and print them last. It ends
with 1 where one could not be measured, or a row misses its goal."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.rows import LATEST, Asked, Row, keep, measured_commit, missed, table


@dataclass(frozen=True)
class Benchmark:
    """A module of this package with `measure(asked)`, and the ids of the rows that it returns."""

    module: str
    ids: tuple[str, ...]

    def measure(self, asked: Asked) -> Sequence[Row]:
        measured: Sequence[Row] = importlib.import_module(f"benchmarks.{self.module}").measure(asked)
        return measured


BENCHMARKS = (
    Benchmark("training", ("1a", "1b", "1a-growth", "1b-growth")),
    Benchmark("loss_head", ("1c", "1c-growth")),
    Benchmark("accelerator", ("1d", "1e")),
    Benchmark("merging", ("5a", "5a-growth", "5a-large")),
    Benchmark("first_step", ("click", "click-cold", "click-growth")),
    Benchmark("logging_call", ("2a", "2a-step", "2a-growth")),
    Benchmark("durable_points", ("2b", "2b-growth")),
    Benchmark("live", ("2c", "2c-growth")),
    Benchmark("charts", ("3a", "3a-redraw", "3a-growth")),
    Benchmark("long_curves", ("3b", "3b-growth")),
    Benchmark("web_start", ("7a", "7a-growth")),
    Benchmark("transfers", ("7b", "7c", "7b-growth", "7c-growth")),
    Benchmark("first_screen", ("7d",)),
    Benchmark("pages", ("pages", "pages-growth")),
)


def chosen(names: Sequence[str]) -> list[Benchmark]:
    """Those that are named, or all. Raises `ValueError` with the names that nothing has."""
    known = {name for each in BENCHMARKS for name in (each.module, *each.ids)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [each for each in BENCHMARKS if not names or {each.module, *each.ids} & set(names)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a benchmark, or the id of a row; all without one")
    parser.add_argument("--long", action="store_true", help="also what takes many minutes")
    arguments = parser.parse_args()
    try:
        benchmarks = chosen(arguments.names)
    except ValueError as problem:
        parser.error(str(problem))
    found: list[Row] = []
    broken: list[str] = []
    unkept: list[str] = []
    for benchmark in benchmarks:
        print(f"measuring {benchmark.module} …", flush=True)
        ids = frozenset(arguments.names) & set(benchmark.ids)
        commit = measured_commit()
        try:
            rows = benchmark.measure(Asked(ids, arguments.long))
        except Exception:  # a peer that cannot be fetched today must not take the others' figures with it
            traceback.print_exc()
            broken.append(benchmark.module)
            continue
        if not keep(rows, measured_commit(before=commit), LATEST):
            unkept.append(benchmark.module)
        found += rows
    print(f"\n{table(found)}\n")
    print(f"not kept, for no commit holds what was measured: {', '.join(unkept)}" if unkept else f"kept in {LATEST}")
    print(missed(found))
    print(f"not measured: {', '.join(broken)}" if broken else "all of them were measured")
    return 1 if broken or any(each.holds is False for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
