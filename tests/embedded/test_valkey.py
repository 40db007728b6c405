"""The embedded Valkey: behind a password, on a socket alone, and with a file that survives kill -9."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from backend.embedded.valkey import Valkey, start_valkey
from tests.support.processes import arguments, processes_of


def test_what_is_older_than_a_second_survives_kill_9(home: Path) -> None:
    first = start_valkey(home)
    with redis.Redis.from_url(first.url) as client:
        client.rpush("celery", "a hint")
    time.sleep(1.2)  # the file is synced each second
    first.process.kill()
    first.process.wait()
    second = start_valkey(home)
    with redis.Redis.from_url(second.url) as client:
        assert client.lrange("celery", 0, -1) == [b"a hint"]
    second.stop()


def test_it_asks_for_the_password_and_has_no_port(home: Path) -> None:
    service = start_valkey(home)
    with redis.Redis(unix_socket_path=str(Valkey(home).socket)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.Redis.from_url(service.url) as client:
        assert client.config_get("port") == {"port": "0"}
    service.stop()


def test_the_password_is_in_one_private_file_and_in_no_arguments_and_no_log(home: Path) -> None:
    service = start_valkey(home)
    password = Valkey(home).password
    assert (home / "valkey" / "password").stat().st_mode & 0o777 == 0o600
    assert all(password not in arguments(process) for process in processes_of(home))
    assert password not in (home / "logs" / "valkey.log").read_text()
    service.stop()


def test_a_folder_name_with_a_space_and_a_quote_is_no_trouble(home: Path) -> None:
    service = start_valkey(home / 'my "studio" home')
    with redis.Redis.from_url(service.url) as client:
        assert client.ping()
    service.stop()
