"""What `studio up` says when it is ready."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from backend.embedded.studio import address_of, announce, listen


def said(home: Path, host: str, capsys: pytest.CaptureFixture[str]) -> str:
    (home / "run").mkdir(exist_ok=True)
    listener: socket.socket = listen(host, 0)
    try:
        announce(home, address_of(host, listener), listener)
    finally:
        listener.close()
    return capsys.readouterr().out


def test_on_loopback_nobody_is_warned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = said(tmp_path, "127.0.0.1", capsys)
    assert "http://127.0.0.1:" in words
    assert "network" not in words


def test_off_loopback_plain_http_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "anybody there can read along" in said(tmp_path, "0.0.0.0", capsys)


def test_the_set_up_link_is_told_once_it_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "setup-link").write_text("/setup?token=x\n")
    assert "/setup?token=x" in said(tmp_path, "127.0.0.1", capsys)
