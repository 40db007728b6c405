"""Trainers that always die: each death can be read of at once, and the run is given up, or paused for a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import UUID

import psutil
import pytest

from backend.commands.access import Access, make_token
from backend.commands.client import Client
from backend.core.models import State
from tests.faults.drives import broken_promises, kill_trainer
from tests.faults.history import Struck
from tests.faults.people import Follower
from tests.faults.test_worker_claims import ENDLESS
from tests.support.figures import Note
from tests.support.hosts import Lab
from tests.support.labs import MakeLab
from tests.support.webs import web_over

PATIENCE_SECONDS = 300.0
SHOWN_SECONDS, BUSY = 5.0, 4.0
"""How soon a death is to be read of, and how much longer a machine may take that other tests keep busy."""
DIED = "The trainer died. It was killed"


@pytest.fixture
def lab(make_lab: MakeLab) -> Iterator[Lab]:
    with make_lab() as lab:
        yield lab


def kill_newest(lab: Lab, run_id: UUID, number: int) -> Struck:
    """The trainer of this attempt, as soon as there is one."""
    file = lab.home / "runs" / str(run_id) / f"attempt-{number}" / "trainer.json"
    lab.wait(lambda: file.exists() and file.stat().st_size > 0, f"trainer {number}", PATIENCE_SECONDS)
    return kill_trainer(run_id, number, int(json.loads(file.read_text())["pid"]))


def kill_and_hear(lab: Lab, follower: Follower, number: int, struck: list[Struck]) -> float:
    """Seconds from the death of the trainer to when somebody has it from the API with its cause."""
    struck.append(kill_newest(lab, UUID(follower.run_id), number))
    told = lambda: [each.at for each in follower.seen if DIED in each.data.get("text", "")]  # noqa: E731
    lab.wait(lambda: len(told()) == number, "the death to be heard of", SHOWN_SECONDS * BUSY)
    return told()[-1] - struck[-1].at


@pytest.fixture
def client(lab: Lab) -> Iterator[Client]:
    """Somebody who asks a web of the lab's own."""
    services = {"DATABASE_URL": lab.database_url, "REDIS_URL": lab.redis_url}
    with web_over(lab.home, services) as web, Client(Access(web.address, make_token(lab.database_url))) as client:
        yield client


@pytest.fixture
def followed(lab: Lab, client: Client) -> Iterator[Follower]:
    """A run that waits for its host, and who follows it."""
    run = str(lab.launch(**ENDLESS))
    follower = Follower(client, run, run)
    follower.start()
    yield follower
    follower.is_closed = True


def test_trainers_that_always_die_are_given_up_after_three_with_the_cause(
    lab: Lab, followed: Follower, figure: Note
) -> None:
    run_id, struck = UUID(followed.run_id), list[Struck]()
    with lab.host() as host:
        heard = [kill_and_hear(lab, followed, number, struck) for number in (1, 2, 3)]
        run = lab.wait_for(run_id, State.FAILED, seconds=PATIENCE_SECONDS)
        figure("the death of a trainer can be read over the API", max(heard), "s", SHOWN_SECONDS)
        assert run.attempt == 3
        assert run.cause is not None
        assert "died 3 times in a row at step 0. It was killed" in run.cause["message"]
        assert all("It was killed" in str(attempt.cause) for attempt in lab.attempts(run_id))
        children = psutil.Process(host.pid).children(recursive=True)
        zombies = [child for child in children if child.status() == psutil.STATUS_ZOMBIE]
        assert zombies == []
    assert broken_promises(lab, run_id, struck=struck) == []


def test_a_run_that_gets_nowhere_is_paused_for_a_person_whatever_the_reason(lab: Lab) -> None:
    lab.environment |= {"STUDIO_CRASH_LIMIT": "100", "STUDIO_ATTEMPT_LIMIT": "10"}
    with lab.host():
        run_id = lab.launch(**ENDLESS)
        for number in range(1, 11):
            kill_newest(lab, run_id, number)
        run = lab.wait_for(run_id, State.PAUSED, seconds=PATIENCE_SECONDS)
    assert run.attempt == 10
    assert run.cause is not None
    assert run.cause["message"] == "It was tried 10 times without getting any further."
