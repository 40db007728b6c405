"""With the lease as it is set by default, a host that is gone for good costs its run less than a minute."""

from __future__ import annotations

import os
import signal
import time

from backend.core.models import State
from tests.support.figures import Note
from tests.support.labs import USUAL, MakeLab

RESUMED_SECONDS, BUSY = 60, 4
"""When the run is to go on, and how much longer its trainer may load on a machine that other tests keep busy."""
STEPS = 100_000
"""More than the run gets to."""


def test_a_host_that_is_gone_for_good_costs_its_run_less_than_a_minute(make_lab: MakeLab, figure: Note) -> None:
    with make_lab() as lab:
        lab.environment |= USUAL
        run_id = lab.launch(training={"max_steps": STEPS}, saving={"save_steps": 20})
        with lab.host("gone") as gone:
            lab.wait_for_step(run_id, 25, seconds=300)
            with lab.host("other"):
                lab.wait(lambda: "watches" in (lab.home / "logs" / "supervisor-other.log").read_text(), "a host", 120)
                trainer = lab.trainer_of(run_id)
                gone.kill()
                os.kill(trainer, signal.SIGKILL)
                began, step = time.monotonic(), lab.run(run_id).step
                lab.wait(lambda: lab.run(run_id).holder == "other", "the other host's claim", 300)
                claimed = time.monotonic() - began
                lab.wait_for(run_id, State.TRAINING, seconds=300)
                trains = time.monotonic() - began
                lab.wait(lambda: lab.run(run_id).step > step, "a step that was never trained before", 300)
    figure("a dead host's run is claimed by another", claimed, "s", RESUMED_SECONDS)
    figure("a dead host's run trains again", trains, "s", RESUMED_SECONDS)
    assert claimed <= RESUMED_SECONDS
    assert trains <= RESUMED_SECONDS * BUSY
