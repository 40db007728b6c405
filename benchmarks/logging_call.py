"""What telling a step's eight metrics costs the training: our journal beside trackio.

The call is timed where a trainer makes it, between two pieces of work of a few milliseconds, so that whatever thread
writes the metrics has its turns. The sides take turns in who begins, and both are then asked what they stored, to the last bit.

The share of a step cannot be read off two noisy runs of long steps, one with and one without: it would need a hundredth of a
percent. What telling adds to a step of a real trainer (the batch counted, loss and norm asked for, the call, the thread that
writes) is measured in one run of short steps (`benchmarks/telling.py`) and divided by the time of a longer one of the same
model (`benchmarks/sft.py`).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import in_turns
from benchmarks.peers import ONE_THREAD, environment, told, versions
from benchmarks.rows import Asked, Row, growth, row

STEPS, ROUNDS = 300, 3
GROWTH = (200, 2_000, 20_000)
MOST_PERCENT = 0.1
NAMES = ("loss", "grad_norm", "learning_rate", "tokens_per_second", "memory_gib", "accuracy", "entropy", "tokens")
HEAD = """
import json, statistics, sys, time
steps, names = int(sys.argv[1]), sys.argv[2].split(",")
def value(step, at):
    return 1.0 / (step * 8 + at + 3)
def work():
    until = time.perf_counter() + 0.003
    while time.perf_counter() < until:
        sum(range(100))
def timed(tell):
    times = []
    for step in range(1, steps + 1):
        values = {name: value(step, at) for at, name in enumerate(names)}
        work()
        began = time.perf_counter()
        tell(step, values)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6
"""
OURS = """
import tempfile
from pathlib import Path
from worker.trainer.journal import Journal
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "events.jsonl"
    with Journal(path) as journal:
        def tell(step, values):
            journal.step = step
            journal.metrics(values, 0.0)
        median = timed(tell)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    stored = [[line["step"], line["data"]["values"]] for line in lines if line["kind"] == "metrics"]
print(json.dumps({"median": median, "stored": stored}))
"""
PEER = """
import contextlib, io, sqlite3, tempfile, os, glob
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp()
with contextlib.redirect_stdout(io.StringIO()):
    import trackio
    trackio.init(project="steps", name="run", auto_log_gpu=False)
    median = timed(lambda step, values: trackio.log(values, step=step))
    trackio.finish()
[path] = glob.glob(os.environ["TRACKIO_DIR"] + "/*.db")
rows = sqlite3.connect(path).execute("SELECT step, metrics FROM metrics ORDER BY step")
print(json.dumps({"median": median, "stored": [[step, json.loads(text)] for step, text in rows]}))
"""


def measure(_asked: Asked) -> Sequence[Row]:
    with environment("trackio") as python:
        sides = {"ours": partial(side_run, sys.executable, OURS), "trackio": partial(side_run, python, PEER)}
        rounds = [(each["ours"], each["trackio"]) for each in in_turns(sides, ROUNDS)]
        known = versions(python, "trackio")
    ours, peer = (statistics.median(each["median"] for each in side) for side in zip(*rounds, strict=True))
    equal = all(one["stored"] == other["stored"] for one, other in rounds)
    points = STEPS * len(NAMES)
    beside = f"{points:,} values stored on each side, {'equal to the last bit' if equal else 'NOT the same'}; {known}"
    call = row("2a", "telling 8 metrics", "µs", ours, peer, least_ratio=8, most=5, equal=equal, beside=beside)
    costs = [1e6 * statistics.median(cost_of_telling(steps) for _ in range(ROUNDS)) for steps in GROWTH]
    what, unit = "telling a step's metrics in a run of 100 times the steps", "µs of processor a step"
    grown = growth("2a-growth", what, costs, at=GROWTH, of="steps", unit=unit, digits=0)
    return [call, share_of_a_step(), grown]


def side_run(python: str | Path, program: str, _round: int) -> dict[str, Any]:
    command = [python, "-c", HEAD + program, str(STEPS), ",".join(NAMES)]
    answer: dict[str, Any] = told(command, TRACKIO_DISABLE_TELEMETRY="1")
    return answer


def share_of_a_step() -> Row:
    """Telling costs at most its mean and twice its error: the row tells the share of that."""
    found = told([sys.executable, "-W", "ignore", "-m", "benchmarks.telling"], **ONE_THREAD)
    most, step = (found["telling"] + 2 * found["error"]) / 1e6, cost_of_a_step()
    shortest = 100 * most / MOST_PERCENT
    beside = (
        f"{found['telling']:.0f} ± {found['error']:.0f} µs of processor, in steps of {found['step'] / 1e3:.0f} ms that are told "
        f"and untold in turns; a step of LoRA, 2,048 tokens, of the same 4-layer model {step * 1e3:.0f} ms; it holds for steps "
        f"of {shortest * 1e3:.0f} ms and more; on a processor: an accelerator has to be waited for where the loss is asked for"
    )
    what = "what telling adds to a small model's step, at most"
    return row("2a-step", what, "%", 100 * most / step, most=MOST_PERCENT, beside=beside)


def cost_of_telling(steps: int) -> float:
    """Processor seconds of one step's metrics in a run of so many: the call, and the thread that writes."""
    from worker.trainer.journal import Journal

    values = {name: 1 / (at + 3) for at, name in enumerate(NAMES)}
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "events.jsonl") as journal:
        began = time.process_time()
        for journal.step in range(1, steps + 1):
            journal.metrics(values, 0.0)
        journal.log("info", "all of them are written before this")
        return (time.process_time() - began) / steps


def cost_of_a_step() -> float:
    """Processor seconds of a step of a run of LoRA, of 2,048 tokens: far less than that of any model that people train."""
    from benchmarks import sft

    longest, rows, steps = 512, 4, 12
    with tempfile.TemporaryDirectory() as given:
        lengths = [longest] * (rows * steps)
        sft.write_work(Path(given), lengths, longest=longest, packing=False, rows_a_step=rows)
        found = told([sys.executable, "-W", "ignore", "-m", "benchmarks.sft", "ours", given, "0"], **ONE_THREAD)
    return float(found["seconds"] / found["timed_steps"])
