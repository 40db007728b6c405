"""How the state machines are run: short and the same each time in the suite, long and by a seed of one's own in a campaign."""

from __future__ import annotations

import random
import time
import traceback

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test

from tests.fuzz.findings import Figures, Finding

SHORT = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def campaign(machine: type[RuleBasedStateMachine], examples: int, first_seed: int) -> Figures:
    """So many lives of the machine, from a seed. Those that were really begun are counted, and their steps, as are those
    by which a finding is made smaller."""
    figures, begun_at = Figures(), time.monotonic()

    def begin(life: RuleBasedStateMachine) -> None:
        figures.cases += 1
        figures.steps -= 1  # invariants hold at the beginning too, before there was a step
        machine.__init__(life)

    def step(_life: RuleBasedStateMachine) -> None:
        figures.steps += 1

    counted = type(machine.__name__, (machine,), {"__init__": begin, "step_is_counted": invariant()(step)})
    chosen = settings(SHORT, derandomize=False, max_examples=examples)
    number = random.Random(first_seed).getrandbits(64)
    try:
        run_state_machine_as_test(seed(number)(counted), settings=chosen)
    except Exception as error:  # what a machine asserts, and whatever a function of the product raised unforeseen
        for each in error.exceptions if isinstance(error, ExceptionGroup) else (error,):
            figures.found(_finding(machine, each, number))
    figures.seconds = time.monotonic() - begun_at
    return figures


def _finding(machine: type, error: BaseException, number: int) -> Finding:
    what = f"{type(error).__name__}: {str(error)[:200]}"
    notes = "\n".join(getattr(error, "__notes__", ()))
    return Finding(machine.__name__, what, f"seed {number}\n{notes}\n{''.join(traceback.format_exception(error))}")
