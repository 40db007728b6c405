from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.orm import Session

from backend.core import operations, people
from backend.core.datasets import store
from backend.core.db import engine as make_engine
from backend.core.errors import Unavailable
from backend.core.models import DatasetVersion, Operation, Role, User
from backend.core.operations import Operations, run_operation
from backend.core.settings import Settings, settings
from tests.core.datasets.files import alpaca, jsonl
from tests.core.datasets.test_store import received
from tests.support.bucket import Bucket, running_bucket
from tests.support.processes import wait_until

pytestmark = pytest.mark.usefixtures("studio_home")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = make_engine(database_url)
    yield made
    made.dispose()


def begin(engine: Engine, content: str, name: str = "large", owner: User | None = None) -> UUID:
    with Session(engine) as session, session.begin():
        standing = store.newest(session, name)
        choices = {"owner_id": owner and owner.id, "dataset_id": standing and standing.dataset_id}
        upload = store.upload(name, "a.jsonl", received(content), **choices)
        return operations.begin(session, upload).id


def somebody(engine: Engine, name: str, role: Role = Role.MEMBER) -> User:
    with Session(engine, expire_on_commit=False) as session, session.begin():
        return people.create(session, name, "no password", role, by=None)


def stored(engine: Engine, operation_id: UUID) -> Operation:
    with Session(engine, expire_on_commit=False) as session:
        return session.get_one(Operation, operation_id)


def ended(engine: Engine, operation_id: UUID) -> Operation:
    deadline = time.monotonic() + 90
    while (found := stored(engine, operation_id)).ended_at is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_an_operation_makes_the_version_and_says_which(engine: Engine) -> None:
    operation_id = begin(engine, jsonl(alpaca(50)))
    work = Operations(engine, settings())
    work.submit(operation_id)
    done = ended(engine, operation_id)
    work.close()
    assert (done.state, done.done, done.error) == ("succeeded", done.total, None)
    with Session(engine) as session:
        version = store.version(session, "large")
        assert done.result == {"dataset": "large", "version": 1, "version_id": str(version.id)}
        assert version.rows == 50
    assert list(settings().folder("uploads").iterdir()) == []


def test_a_file_is_read_by_one_operation_however_often_it_is_handed_in(engine: Engine) -> None:
    upload = store.upload("large", "a.jsonl", received(jsonl(alpaca(5))))
    with Session(engine) as session, session.begin():
        first, again = operations.begin(session, upload).id, operations.begin(session, upload).id
        other = operations.begin(session, store.upload("large", "a.jsonl", received(jsonl(alpaca(5))))).id
    assert first == again != other
    run_operation(engine, settings(), first)
    with Session(engine) as session, session.begin():
        assert operations.begin(session, upload).id == first, "nor is it read anew once that has ended"


def test_a_file_that_was_read_goes_though_its_reader_died_before_it_could_remove_it(engine: Engine) -> None:
    operation_id = begin(engine, jsonl(alpaca(5)))
    (file,) = settings().folder("uploads").iterdir()
    run_operation(engine, settings(), operation_id)
    file.write_text("as it was")
    work = Operations(engine, settings())
    work.resume()
    work.close()
    assert not file.exists()


def test_a_failed_operation_carries_the_problems(engine: Engine) -> None:
    operation_id = begin(engine, jsonl([*alpaca(2), {"instruction": "Q", "output": ""}]))
    run_operation(engine, settings(), operation_id)
    failed = stored(engine, operation_id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error["problems"][0]["where"] == "row 3"
    assert list(settings().folder("uploads").iterdir()) == []


def test_what_somebody_sent_stays_when_their_account_is_removed_before_it_is_read(engine: Engine) -> None:
    ann, admin = somebody(engine, "ann"), somebody(engine, "admin", Role.ADMIN)
    operation_id = begin(engine, jsonl(alpaca(5)), owner=ann)
    with Session(engine) as session, session.begin():
        by = people.find_session(session, people.sign_in(session, session.get_one(User, admin.id), "", hours=1))
        assert by
        people.remove(session, people.find(session, "ann"), by=by)
    run_operation(engine, settings(), operation_id)
    done = stored(engine, operation_id)
    assert (done.state, done.error) == ("succeeded", None)
    with Session(engine) as session:
        assert (store.find(session, "large").owner_id, store.version(session, "large").created_by) == (None, None)


@pytest.mark.parametrize("is_removed", [True, False])
def test_what_an_administrator_sent_to_anothers_data_set_outlives_their_rights(
    engine: Engine, is_removed: bool
) -> None:
    run_operation(engine, settings(), begin(engine, jsonl(alpaca(7)), owner=somebody(engine, "ben")))
    ann, admin = somebody(engine, "ann", Role.ADMIN), somebody(engine, "admin", Role.ADMIN)
    operation_id = begin(engine, jsonl(alpaca(5)), owner=ann)
    with Session(engine) as session, session.begin():
        by = people.find_session(session, people.sign_in(session, session.get_one(User, admin.id), "", hours=1))
        assert by
        user = people.find(session, "ann")
        people.remove(session, user, by=by) if is_removed else people.set_role(session, user, Role.VIEWER, by=by)
    run_operation(engine, settings(), operation_id)
    done = stored(engine, operation_id)
    assert (done.state, done.error) == ("succeeded", None)


@pytest.mark.parametrize(("role", "state"), [(Role.MEMBER, "failed"), (Role.ADMIN, "succeeded")])
def test_a_file_whose_name_became_anothers_while_it_was_read_is_no_version_of_theirs(
    engine: Engine, role: Role, state: str
) -> None:
    operation_id = begin(engine, jsonl(alpaca(5)), owner=somebody(engine, "ann", role))
    theirs = begin(engine, jsonl(alpaca(7)), owner=somebody(engine, "ben"))
    for each in (theirs, operation_id):
        run_operation(engine, settings(), each)
    done = stored(engine, operation_id)
    assert (done.state, stored(engine, theirs).state) == (state, "succeeded")
    with Session(engine) as session:
        assert len(store.versions(session, store.find(session, "large").id)) == (2 if state == "succeeded" else 1)
    if state == "failed":
        assert done.error
        assert done.error["message"] == "“large” became somebody else's while the file was read."


@pytest.mark.parametrize("is_older", [False, True])
def test_a_data_set_that_is_brought_back_while_a_file_is_read_gets_no_version_from_another(
    engine: Engine, is_older: bool
) -> None:
    """Nor from a file of which nobody wrote down what stood when it was sent."""
    ann, ben = somebody(engine, "ann"), somebody(engine, "ben")
    run_operation(engine, settings(), begin(engine, jsonl(alpaca(7)), owner=ben))
    with Session(engine) as session, session.begin():
        dataset_id = store.delete(session, "large").id
    operation_id = begin(engine, jsonl(alpaca(5)), owner=ann)
    with Session(engine) as session, session.begin():
        store.restore(session, dataset_id)
        if is_older:
            operation = session.get_one(Operation, operation_id)
            operation.input = {key: value for key, value in operation.input.items() if key != "dataset_id"}
    run_operation(engine, settings(), operation_id)
    done = stored(engine, operation_id)
    assert done.error
    assert done.error["message"] == "“large” became somebody else's while the file was read."
    with Session(engine) as session:
        assert [each.number for each in store.versions(session, dataset_id)] == [1]


@pytest.mark.parametrize("after_seconds", [0.0, 1.0])
def test_a_cancelled_operation_makes_nothing(engine: Engine, after_seconds: float) -> None:
    operation_id = begin(engine, jsonl(alpaca(200_000)))
    thread = threading.Thread(target=run_operation, args=(engine, settings(), operation_id))
    thread.start()
    time.sleep(after_seconds)
    with Session(engine) as session, session.begin():
        session.execute(update(Operation).where(Operation.id == operation_id).values(state="cancelled"))
    thread.join(20)
    assert not thread.is_alive()
    cancelled = stored(engine, operation_id)
    assert (cancelled.state, cancelled.error) == ("cancelled", None)
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(DatasetVersion)) == 0
    assert list(settings().folder("uploads").iterdir()) == []


def test_what_a_stopped_process_left_is_taken_up_by_the_next(engine: Engine) -> None:
    operation_id = begin(engine, jsonl(alpaca(100_000)))
    first = Operations(engine, settings())
    first.submit(operation_id)
    time.sleep(0.5)
    first.close()
    assert stored(engine, operation_id).state == "running"
    second = Operations(engine, settings())
    second.resume()
    assert ended(engine, operation_id).state == "succeeded"
    second.close()


def test_two_processes_never_work_on_the_same_one(engine: Engine) -> None:
    operation_id = begin(engine, jsonl(alpaca(20)))
    with operations._alone(engine, operation_id) as first, operations._alone(engine, operation_id) as second:
        assert (first, second) == (True, False)
    run_operation(engine, settings(), operation_id)
    assert stored(engine, operation_id).state == "succeeded"


def test_an_operation_that_an_error_ends_can_be_taken_up_again(engine: Engine) -> None:
    operation_id = begin(engine, jsonl(alpaca(20)))
    with pytest.raises(ConnectionError), operations._alone(engine, operation_id):
        raise ConnectionError
    with engine.connect(), operations._alone(engine, operation_id) as is_alone:  # on another connection than before
        assert is_alone


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """One that takes nothing yet."""
    with running_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        bucket.always = "403"
        yield bucket


@pytest.fixture
def far(engine: Engine, bucket: Bucket, studio_home: Path) -> Iterator[Operations]:
    """A process that keeps its data sets in that bucket."""
    work = Operations(engine, Settings(home=studio_home, storage_url=bucket.url))
    yield work
    work.close()


def submitted(work: Operations, *operation_ids: UUID) -> None:
    """They are being carried out, and each has said that it waits for its bucket."""
    for each in operation_ids:
        work.submit(each)
    for each in operation_ids:
        wait_until(partial(is_told, work.engine, each), seconds=60, what="a word of what it waits for")
        waiting = stored(work.engine, each)
        assert (waiting.state, waiting.error and waiting.error["code"]) == ("running", "storage")


def is_told(engine: Engine, operation_id: UUID) -> bool:
    return stored(engine, operation_id).error is not None


def test_files_that_were_taken_wait_for_their_bucket_and_say_so(
    engine: Engine, far: Operations, bucket: Bucket
) -> None:
    both = [begin(engine, jsonl(alpaca(rows)), name=f"of {rows}") for rows in (50, 60)]
    submitted(far, *both)
    bucket.always = ""
    done = [ended(engine, each) for each in both]
    assert [(each.state, each.error) for each in done] == [("succeeded", None)] * 2
    assert len(bucket.objects) == 2
    assert list(settings().folder("uploads").iterdir()) == []


def test_what_waits_for_its_bucket_is_not_read_again(engine: Engine, far: Operations, bucket: Bucket) -> None:
    operation_id = begin(engine, jsonl(alpaca(50)))
    submitted(far, operation_id)
    (draft,) = settings().folder("uploads").glob("*.parquet")
    os.utime(draft, (0, 0))
    for uploaded in settings().folder("uploads").glob("*.body"):
        uploaded.unlink()
    asked = len(bucket.requests)
    wait_until(lambda: len(bucket.requests) > asked, seconds=60, what="another try")
    assert draft.stat().st_mtime > 0, "what nobody touches is taken for a leftover"
    bucket.always = ""
    assert ended(engine, operation_id).state == "succeeded"


def test_what_waits_for_its_bucket_can_be_called_off(engine: Engine, far: Operations) -> None:
    operation_id = begin(engine, jsonl(alpaca(50)))
    submitted(far, operation_id)
    with Session(engine) as session, session.begin():
        session.execute(update(Operation).where(Operation.id == operation_id).values(state="cancelled"))
    assert ended(engine, operation_id).state == "cancelled"
    wait_until(lambda: not list(settings().folder("uploads").iterdir()), what="its files to go")


def test_a_process_that_ends_leaves_to_the_next_what_waits_for_its_bucket(
    engine: Engine, far: Operations, bucket: Bucket
) -> None:
    operation_id = begin(engine, jsonl(alpaca(50)))
    submitted(far, operation_id)
    far.close()
    assert stored(engine, operation_id).state == "running"
    assert [path.suffix for path in settings().folder("uploads").iterdir()] == [".body"]
    bucket.always = ""
    following = Operations(engine, far.settings)
    following.resume()
    assert ended(engine, operation_id).state == "succeeded"
    following.close()


def test_a_storage_that_is_away_is_asked_again_after_growing_pauses(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(operations, "LONGEST_SECONDS", 0.005)
    watch = operations._Watch(engine, begin(engine, jsonl(alpaca(2))), stopping=lambda: False)
    pauses = []
    for _ in range(5):
        pauses.append(watch.pause_seconds)
        watch.wait(Unavailable("It is away."))
    assert pauses == [0.001, 0.002, 0.004, 0.005, 0.005]


def test_what_it_waited_for_stands_until_it_has_succeeded(engine: Engine) -> None:
    operation_id = begin(engine, jsonl(alpaca(100_000)))
    with Session(engine) as session, session.begin():
        session.execute(update(Operation).values(error={"code": "storage", "message": "It is away."}))
    seen = []

    def look() -> bool:
        seen.append(stored(engine, operation_id))
        return False

    run_operation(engine, settings(), operation_id, stopping=look)
    assert any(each.done for each in seen)
    assert all(each.error for each in seen)
    assert stored(engine, operation_id).error is None


def test_whose_lock_is_lost_with_its_connection_ends_without_an_error_of_its_own(engine: Engine) -> None:
    operation_id = begin(engine, jsonl(alpaca(5)))
    with operations._alone(engine, operation_id) as is_alone, engine.connect() as other:
        assert is_alone
        other.execute(text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"))
    with operations._alone(engine, operation_id) as is_alone:
        assert is_alone


def test_a_postgres_that_writes_nothing_for_a_while_costs_no_operation_its_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one does to which its place was given back too early; and so it ends a transaction in which a process stood still."""
    monkeypatch.setattr(operations, "RETRY_SECONDS", 0.2)
    operation_id = begin(engine, jsonl(alpaca(5)))
    alter = text(f'ALTER DATABASE "{engine.url.database}" SET default_transaction_read_only = on')
    reset = text(f'ALTER DATABASE "{engine.url.database}" RESET default_transaction_read_only')
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(alter)
        others = make_engine(engine.url.render_as_string(hide_password=False))
        work = Operations(others, settings())
        work.submit(operation_id)
        wait_until(lambda: "read-only transaction" in caplog.text, seconds=60, what="its words")
        assert stored(engine, operation_id).state == "running"
        connection.execute(reset)
    others.dispose()
    assert ended(engine, operation_id).state == "succeeded"
    work.close()
    others.dispose()


def test_a_file_that_its_folder_does_not_take_waits_for_it_and_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "RETRY_SECONDS", 0.5)
    content = jsonl(alpaca(20))
    known = store.prepare(store.upload("known", "a.jsonl", received(content)), settings()).key
    target = settings().root / known
    target.unlink()
    target.mkdir()  # in the way
    operation_id = begin(engine, content)
    work = Operations(engine, settings())
    work.submit(operation_id)
    wait_until(lambda: stored(engine, operation_id).error, seconds=60, what="its words")
    waiting = stored(engine, operation_id)
    assert waiting.error
    assert (waiting.state, waiting.error["code"]) == ("running", "storage.refused")
    target.rmdir()
    assert ended(engine, operation_id).state == "succeeded"
    work.close()


def test_an_upload_that_is_gone_fails_in_words(engine: Engine) -> None:
    operation_id = begin(engine, jsonl(alpaca(2)))
    for path in settings().folder("uploads").iterdir():
        path.unlink()
    run_operation(engine, settings(), operation_id)
    failed = stored(engine, operation_id)
    assert failed.error is not None
    assert failed.error["code"] == "upload.gone"
