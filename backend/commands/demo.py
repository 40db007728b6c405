"""`studio demo`: a whole fine-tuning in two minutes, by the same API and the same studio that everybody uses.

It makes a small base model, serves the studio, sends a data set, launches a QLoRA run, follows it, and shows what changed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from backend.commands.access import local_access, local_address
from backend.commands.client import Client
from backend.commands.dataset import send
from backend.commands.following import display, watch
from backend.commands.output import console
from backend.core.assignment import ARTIFACTS
from backend.core.errors import StudioError
from backend.core.settings import Settings
from backend.embedded.home import prepare_home, private_folder, rotated_log
from backend.embedded.service import last_words, stop_process
from backend.embedded.spawn import spawn
from backend.embedded.studio import answers, listen
from backend.web.shapes.runs import RunDetailOut, SampleOut
from worker.demo_base import demo_recipe, demo_rows

MODEL, DATASET = "demo-base", "pirate-demo"
START_SECONDS, STOP_SECONDS = 90.0, 150.0
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Report:
    """What the demonstration showed. `seconds` counts from the command to the proved merge; paths are folders."""

    run: str
    state: str
    first_loss: float
    last_loss: float
    samples: int
    adapter: str
    merged: str
    merge_max_logit_diff: float
    quantised_layers: int
    seconds: float


def demo(settings: Settings, *, ends: bool) -> None:
    """Show everything, then serve until Ctrl-C; with `ends`, stop everything and print the report as JSON, last."""
    begun = time.monotonic()
    out = console()
    home = prepare_home(settings.root)
    with serving(settings, home) as process:
        make_base(home, out)
        address = wait_until_ready(process, home)
        with Client(local_access(settings)) as client:
            run = train(client, out)
            report = report_on(client, run, settings, time.monotonic() - begun)
            tell(client.samples(run.name), report, out)
        if not ends:
            invite(home, address, out)
            wait_for_ctrl_c(process)
    if ends:
        print(json.dumps(asdict(report)), flush=True)


# ---- the studio ------------------------------------------------------------------------------------------------------


@contextmanager
def serving(settings: Settings, home: Path) -> Iterator[subprocess.Popen[bytes] | None]:
    """`studio up` over this home while the context lasts; None where one serves it already, which then goes on."""
    if is_served(home):
        yield None
        return
    log = rotated_log(home, "up")
    environment = {**os.environ, "STUDIO_HOME": str(home), "STUDIO_PORT": str(free_port(settings))}
    command = [sys.executable, "-m", "backend.cli", "up"]
    process = spawn(command, env=environment, log=log, on_our_death=signal.SIGTERM)
    try:
        yield process
    finally:
        stop_process(process, signal.SIGTERM, STOP_SECONDS)


def is_served(home: Path) -> bool:
    try:
        return answers(local_address(home))
    except StudioError:
        return False


def free_port(settings: Settings) -> int:
    """The usual port, or 0, which takes a free one, where somebody has it."""
    try:
        listen(settings.host, settings.port).close()
    except StudioError:
        return 0
    return settings.port


def wait_until_ready(process: subprocess.Popen[bytes] | None, home: Path) -> str:
    """The studio's address. Raises `StudioError` with its last words where it ended."""
    log = home / "logs" / "up.log"
    deadline = time.monotonic() + START_SECONDS
    while not is_served(home):
        if process is None or process.poll() is not None or time.monotonic() > deadline:
            raise StudioError(f"The studio did not start: {last_words(log)}", hint=f"See {log}.", code="start")
        time.sleep(LOOK_SECONDS)
    return local_address(home)


def wait_for_ctrl_c(process: subprocess.Popen[bytes] | None) -> None:
    """Nothing to wait for where somebody else's studio served."""
    try:
        if process is not None:
            process.wait()
    except KeyboardInterrupt:
        print()


# ---- the base model --------------------------------------------------------------------------------------------------


def make_base(home: Path, out: Console) -> None:
    """Train the small base model in a process of its own, the first time. Raises `StudioError` where that fails."""
    folder = private_folder(home / "models") / MODEL
    if folder.exists():
        return
    log = rotated_log(home, "demo-base")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    # Threads that spin while they wait would slow the studio, which starts meanwhile, and themselves.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    process = spawn([sys.executable, "-m", "worker.demo_base", folder], env=environment, log=log)
    with Progress(*columns, console=out) as bar:
        task = bar.add_task("Making a small base model", total=None)
        while process.poll() is None:
            done, total = steps_told(log)
            bar.update(task, completed=done, total=total)
            time.sleep(LOOK_SECONDS)
        bar.update(task, completed=1, total=1)
    if process.returncode:
        raise StudioError(f"The base model was not made: {last_words(log)}", hint=f"See {log}.", code="demo.base")


def steps_told(log: Path) -> tuple[int, int | None]:
    """How far the maker says it is: the last `done/total` that it wrote."""
    found = re.findall(r"(\d+)/(\d+)\s*$", log.read_text(errors="replace"))
    return (int(found[-1][0]), int(found[-1][1])) if found else (0, None)


# ---- the run ---------------------------------------------------------------------------------------------------------


def train(client: Client, out: Console) -> RunDetailOut:
    """Send the data, launch the run, watch it to its end. Raises `StudioError` where it does not succeed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pirate-demo.json"
        file.write_text(json.dumps(demo_rows(), indent=1))
        send(client, DATASET, file)
    run = client.launch(demo_recipe(MODEL, DATASET))
    run = watch(client, run.name, display(out, run.name))
    if run.state != "succeeded":
        cause = run.cause.message if run.cause else ""
        raise StudioError(f"The run is {run.state}. {cause}", hint=f"See the log of “{run.name}”.", code="demo.run")
    return run


def report_on(client: Client, run: RunDetailOut, settings: Settings, seconds: float) -> Report:
    losses = [float(value) for _, value in client.curves(run.name, "loss").curves["loss"]]
    proof = next(each.facts for each in client.artifacts(run.name) if each.kind == "merged")
    folder = settings.run_folder(run.id, run.attempt) / ARTIFACTS
    return Report(
        run=run.name,
        state=run.state,
        first_loss=losses[0],
        last_loss=losses[-1],
        samples=len(client.samples(run.name)),
        adapter=str(folder / "adapter"),
        merged=str(folder / "merged"),
        merge_max_logit_diff=proof["max_logit_diff"],
        quantised_layers=run.facts["quantised_layers"],
        seconds=round(seconds, 1),
    )


def tell(samples: list[SampleOut], report: Report, out: Console) -> None:
    """What changed, side by side, and what came of it."""
    first, last = min(each.step for each in samples), max(each.step for each in samples)
    answers_at = {(each.step, each.index): " ".join(each.text.split()) for each in samples}
    for each in (each for each in samples if each.step == first):
        out.print(Text(f"\n{each.prompt}", style="bold"))
        out.print(Text(f"  before  {answers_at[first, each.index]}", style="dim"))
        out.print(Text(f"  after   {answers_at[last, each.index]}", style="cyan"))
    out.print(
        f"\nThe loss fell from {report.first_loss:.3g} to {report.last_loss:.3g} in {report.seconds:.0f} s."
        f" {report.quantised_layers} layers were quantised to NF4."
        f"\nThe merged model answers like the one that was watched: logits differ by {report.merge_max_logit_diff:.1g}."
    )
    out.print(f"\nAdapter       {report.adapter}\nMerged model  {report.merged}", markup=False, soft_wrap=True)


def invite(home: Path, address: str, out: Console) -> None:
    """Where to look at it: the one-time link that makes the first administrator, or the sign-in page."""
    link = home / "run" / "setup-link"
    if link.exists():
        line = f"Make your account and look at it (the link works once): {address}{link.read_text().strip()}"
    else:
        line = f"Sign in and look at it: {address}"
    out.print(f"\n{line}\nCtrl-C stops the studio.", markup=False, soft_wrap=True)
