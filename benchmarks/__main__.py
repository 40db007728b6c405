"""Run the benchmarks that are named, or all."""

from __future__ import annotations

import argparse

from benchmarks import pages, web_start
from benchmarks.measure import report

BENCHMARKS = {"web_start": web_start.measure, "pages": pages.measure}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(BENCHMARKS)}; all without one")
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        report(name, BENCHMARKS[name]())


if __name__ == "__main__":
    main()
