"""Which version of a file a browser or a proxy has already, and in what pieces a data set is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.web.api.dataset import SENT_BYTES, lines_of
from backend.web.downloads import is_known
from tests.support.held_rows import MIB, long_rows, most_held, written

ETAG = '"0031"'


@pytest.mark.parametrize("header", [ETAG, f'"x", {ETAG}', f"W/{ETAG}", "*"])
def test_what_a_browser_has_already_is_not_sent_again(header: str) -> None:
    assert is_known(header, ETAG)


@pytest.mark.parametrize("header", ["", '"x"', "0031", 'W/"x", "y"'])
def test_another_version_is_sent(header: str) -> None:
    assert not is_known(header, ETAG)


def test_a_data_set_is_sent_in_pieces_of_whole_lines(tmp_path: Path) -> None:
    pieces = list(lines_of(written(tmp_path / "a.parquet", long_rows(3000, 400))))
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert max(map(len, pieces)) < SENT_BYTES + 1000
    assert (len(pieces), b"".join(pieces).count(b"\n")) == (5, 3000)


def test_sending_long_rows_holds_no_more_than_a_few_of_them(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", long_rows(64))
    held = most_held(lambda: lines_of(path))
    assert held < 32 * MIB, f"{held / MIB:.0f} MiB of 64"
