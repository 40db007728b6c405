"""What ends an attempt is told as what it was, though Postgres is away at that moment."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker

from backend.core import db, runs
from backend.core.models import State
from backend.embedded.postgres import SOCKET_NAME
from tests.support.hosts import Lab
from tests.support.links import Connection, Link
from tests.worker.test_supervisor import held, tell, turn_until
from worker.holding import Doing, Holding


class BreakingLink(Link):
    """To Postgres. It is cut while it carries the statement that ends an attempt, once: that is rolled back."""

    ENDING = b"UPDATE attempts SET ended_at"

    def __init__(self, database_url: str) -> None:
        theirs = make_url(database_url)
        super().__init__(Path(str(theirs.query["host"])) / SOCKET_NAME)
        ours = theirs.set(host="127.0.0.1", port=self.port).difference_update_query(["host"])
        self.engine, self.has_broken = db.engine(ours.render_as_string(hide_password=False)), False

    def close(self) -> None:
        self.engine.dispose()
        super().close()

    async def _look(self, _connection: Connection, data: bytes) -> None:
        if self.ENDING in data and not self.has_broken:
            self.has_broken = True
            await self._cut()


@contextmanager
def breaking_link(lab: Lab, holding: Holding) -> Iterator[BreakingLink]:
    """Between Postgres and the host of an attempt."""
    with closing(BreakingLink(lab.database_url)) as link:
        holding.host.sessions = sessionmaker(link.engine, expire_on_commit=False)
        yield link


def fail_to_tell_the_end(holding: Holding, link: BreakingLink) -> None:
    """A person's word is heard, and the connection breaks while the end is told; the next turn still finds no Postgres."""
    with pytest.raises(OperationalError):
        holding.turn(urgent=True)
    assert link.has_broken
    with suppress(OperationalError):
        holding.turn()
    link.restore()


WORDS: dict[str, tuple[Callable[..., Any], dict[str, bool], State]] = {
    "pause": (runs.pause, {}, State.PAUSED),
    "discard": (runs.stop, {"keep": False}, State.STOPPED),
    "keep": (runs.stop, {"keep": True}, State.STOPPED),
}


@pytest.mark.parametrize("word", WORDS)
def test_a_trainer_that_is_killed_on_a_persons_word_has_not_died_though_postgres_is_away_then(
    lab: Lab, word: str
) -> None:
    """Its end is told by a later turn, which may not take it for a death: most often that is a lack of memory."""
    act, options, state = WORDS[word]
    run_id = lab.launch()
    with held(lab) as holding, breaking_link(lab, holding) as link:
        turn_until(holding, Doing.WATCHING)
        assert holding.trainer is not None
        tell(lab, run_id, act, **options)
        fail_to_tell_the_end(holding, link)
        assert holding.trainer.exit_code == -signal.SIGKILL
        turn_until(holding, Doing.OVER)
    assert lab.logged(run_id) == []
    assert (lab.run(run_id).state, lab.run(run_id).crashes) == (state, 0)
    assert [attempt.cause for attempt in lab.attempts(run_id)] == [state]


@pytest.mark.parametrize("word", ["pause", "discard"])
def test_a_run_that_is_to_rest_gets_no_trainer_though_postgres_was_away_when_that_was_told(lab: Lab, word: str) -> None:
    act, options, state = WORDS[word]
    run_id = lab.launch()
    with held(lab) as holding, breaking_link(lab, holding) as link:
        tell(lab, run_id, act, **options)
        fail_to_tell_the_end(holding, link)
        turn_until(holding, Doing.OVER)
        assert holding.trainer is None
    assert (lab.run(run_id).state, lab.run(run_id).begun) == (state, 0)
