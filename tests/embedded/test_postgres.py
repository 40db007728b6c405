"""The embedded Postgres: real, reached by a socket alone, durable through kill -9, and gone when its parent is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from backend.embedded.account import AS_NOBODY, NAMESPACED, NOBODY, OURSELVES, Account, namespaces_work
from backend.embedded.postgres import Postgres, PostgresUnavailable, start_postgres
from tests.support.processes import arguments, is_alive, processes_of, wait_until

is_root = os.geteuid() == 0
ACCOUNTS = [
    pytest.param(OURSELVES, id="a user", marks=pytest.mark.skipif(is_root, reason="Postgres refuses to be root")),
    pytest.param(
        NAMESPACED,
        id="root in a namespace",
        marks=pytest.mark.skipif(not (is_root and namespaces_work()), reason="needs root and user namespaces"),
    ),
    pytest.param(AS_NOBODY, id="root as nobody", marks=pytest.mark.skipif(not is_root, reason="needs root")),
]

HANG = """
import sys, time
from pathlib import Path
from backend.embedded.account import Account, choose_account
from backend.embedded.postgres import start_postgres
home, *given = sys.argv[1:]
account = Account(tuple(given[1].split()), int(given[0]) if given[0] else None) if given else choose_account()
service = start_postgres(Path(home), fast=True, account=account)
print(service.process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("account", ACCOUNTS)
def test_what_was_committed_is_found_again_after_kill_9(home: Path, account: Account) -> None:
    first = start_postgres(home, account=account)
    with psycopg.connect(first.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 41 AS n")
    first.process.kill()
    first.process.wait()
    second = start_postgres(home, account=account)
    with psycopg.connect(second.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (41,)
    second.stop()


@pytest.mark.parametrize("account", ACCOUNTS)
def test_no_process_is_left_when_the_parent_is_killed(home: Path, account: Account) -> None:
    uid = "" if account.uid is None else str(account.uid)
    command = [sys.executable, "-c", HANG, str(home), uid, " ".join(account.prefix)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    postmaster = psutil.Process(int(parent.stdout.readline()))
    family = [postmaster, *postmaster.children()]
    parent.kill()
    parent.communicate()
    assert len(family) > 3
    wait_until(lambda: not any(map(is_alive, family)), seconds=2, what="the end of every process")


@pytest.mark.skipif(not (is_root and namespaces_work()), reason="needs root and user namespaces")
def test_the_data_are_the_same_when_namespaces_come_or_go(home: Path) -> None:
    for account, count in ((NAMESPACED, 1), (AS_NOBODY, 2), (NAMESPACED, 3)):
        service = start_postgres(home, fast=True, account=account)
        with psycopg.connect(service.url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS starts (n int)")
            connection.execute("INSERT INTO starts VALUES (1)")
            assert connection.execute("SELECT count(*) FROM starts").fetchone() == (count,)
        service.stop()


def test_it_listens_on_a_private_socket_and_no_port(home: Path) -> None:
    service = start_postgres(home, fast=True)
    with psycopg.connect(service.url) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW password_encryption").fetchone() == ("scram-sha-256",)
    assert (home / "run").stat().st_mode & 0o777 == 0o700
    service.stop()


def test_a_wrong_password_is_refused(home: Path) -> None:
    service = start_postgres(home, fast=True)
    wrong = service.url.replace(Postgres(home).password, "guess")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    service.stop()


def test_the_password_is_in_one_private_file_and_in_no_arguments_and_no_log(home: Path) -> None:
    service = start_postgres(home, fast=True)
    password = Postgres(home).password
    assert (home / "postgres" / "password").stat().st_mode & 0o777 == 0o600
    assert all(password not in arguments(process) for process in processes_of(home))
    assert password not in (home / "logs" / "postgres.log").read_text()
    service.stop()


def test_a_pid_file_that_now_names_another_program_does_not_stop_a_start(home: Path) -> None:
    service = start_postgres(home, fast=True)
    service.process.kill()
    service.process.wait()
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    wait_until(lambda: not processes_of(home), what="the end of the backends")
    pid_file.write_text(pid_file.read_text().replace(str(service.process.pid), str(os.getpid()), 1))
    start_postgres(home, fast=True).stop()


def test_an_interrupted_first_start_is_made_again(home: Path) -> None:
    half = home / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    service = start_postgres(home, fast=True)
    assert not half.exists()
    service.stop()


def test_data_of_another_major_version_are_refused_in_words(home: Path) -> None:
    data = home / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresUnavailable, match="written by PostgreSQL 9, which is not installed"):
        start_postgres(home)


def test_a_home_with_a_long_path_gets_its_socket_elsewhere(home: Path) -> None:
    deep = home / ("long-" * 24)
    service = start_postgres(deep, fast=True)
    with psycopg.connect(service.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    sockets = Postgres(deep).sockets
    assert deep not in sockets.parents
    service.stop()
    sockets.rmdir()


@pytest.mark.skipif(not is_root, reason="only root can become another user; a user runs all of the above as itself")
@pytest.mark.parametrize("uid", [pytest.param(NOBODY, id="with a name"), pytest.param(12345, id="without a name")])
def test_a_user_without_rights_runs_it(home: Path, uid: int) -> None:
    os.chown(home, uid, uid)
    candidates = [sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"]
    python = next((path for path in candidates if _may_run(path, uid)), None)
    if python is None:
        pytest.skip(f"other users can run neither {sys.executable} nor a Python of the system")
    parent = _as_user(uid, [python, "-c", HANG, str(home)])
    assert parent.stdout is not None
    postmaster = psutil.Process(int(parent.stdout.readline()))
    assert postmaster.uids().effective == uid
    parent.kill()
    parent.communicate()
    wait_until(lambda: not is_alive(postmaster), seconds=2, what="the end of Postgres")


def _as_user(uid: int, command: list[str]) -> subprocess.Popen[bytes]:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.defpath}
    return subprocess.Popen(
        command, user=uid, group=uid, extra_groups=[], stdout=subprocess.PIPE, env=environment, cwd="/"
    )


def _may_run(python: str, uid: int) -> bool:
    """A Python below root's own folder is closed to others."""
    try:
        return _as_user(uid, [python, "-c", "import psycopg, backend.embedded.postgres"]).wait() == 0
    except PermissionError:
        return False
