"""Parts of `studio up`: one for each home, one address, and plain words where it cannot start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backend.core.errors import StudioError
from backend.embedded.home import Locked
from backend.embedded.studio import address_of, answers, listen, only_one
from backend.web.security import client_address


def test_a_home_is_served_once_and_the_second_hears_by_whom(home: Path) -> None:
    with only_one(home), pytest.raises(Locked, match=f"already serves {home}: process {os.getpid()}"), only_one(home):
        pass
    with only_one(home):
        pass


def test_a_taken_port_is_refused_with_the_setting_that_changes_it() -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(StudioError) as refusal:
        listen("127.0.0.1", listener.getsockname()[1])
    assert "in use" in refusal.value.message
    assert "STUDIO_PORT" in refusal.value.hint


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
def test_the_address_is_one_that_a_browser_here_can_open(host: str, shown: str) -> None:
    with listen(host, 0) as listener:
        assert address_of(host, listener) == f"http://{shown}:{listener.getsockname()[1]}"


def test_whoever_comes_by_ipv4_to_a_studio_on_ipv6_has_the_address_that_is_theirs() -> None:
    """Sign-ins are counted by it, and the audit names it."""
    with listen("::", 0) as listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
        connection, peer = listener.accept()
        connection.close()
    assert peer[0] == "::ffff:127.0.0.1"
    assert client_address({"client": peer[:2]}) == "127.0.0.1"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands these settings on")
def test_connections_are_looked_after_so_that_one_to_a_computer_that_was_closed_ends() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            numbers = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [connection.getsockopt(socket.IPPROTO_TCP, each) for each in numbers] == [10, 5, 2]


def test_a_socket_that_nobody_serves_does_not_answer() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert not answers(address_of("127.0.0.1", listener))


@pytest.mark.parametrize("command", ["web", "worker", "migrate"])
def test_a_part_without_services_says_which_to_set(home: Path, command: str) -> None:
    environment = {**os.environ, "STUDIO_HOME": str(home), "DATABASE_URL": "", "REDIS_URL": ""}
    done = subprocess.run(
        [sys.executable, "-m", "backend.cli", command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Set DATABASE_URL and REDIS_URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["web", "worker"])
def test_no_part_starts_over_a_restore_that_broke_off(home: Path, command: str) -> None:
    (home / ".restore-x").mkdir()
    nowhere = {"DATABASE_URL": "postgresql://localhost:1/none", "REDIS_URL": "redis://localhost:1/0"}
    environment = {**os.environ, "STUDIO_HOME": str(home), "STUDIO_PORT": "0", **nowhere}
    done = subprocess.run(
        [sys.executable, "-m", "backend.cli", command], env=environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1
    assert "Run `studio migrate`" in done.stderr


def test_up_on_a_taken_port_starts_nothing(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environment = {**os.environ, "STUDIO_HOME": str(home), "STUDIO_PORT": port}
        done = subprocess.run(
            [sys.executable, "-m", "backend.cli", "up"], env=environment, capture_output=True, text=True
        )
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in done.stderr
    assert not (home / "postgres").exists()
