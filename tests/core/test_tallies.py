"""Rows are counted while bytes flow as a reader of the whole file would count them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.tallies import CARRIED_BYTES, TELLING_BYTES, Lines, Records, Tally

TEXTS = st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b" ", b"\t", b"\v\f", b"\x00", b"\x1f", b"a", b"\xff {}"]))


def naive(text: bytes) -> int:
    return sum(1 for line in text.split(b"\n") if line.strip())


@given(TEXTS.map(b"".join), st.lists(st.integers(0, 200)))
def test_lines_are_counted_wherever_they_are_cut(text: bytes, cuts: list[int]) -> None:
    lines = Lines()
    for start, end in pairwise([0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]):
        lines.add(memoryview(text)[start:end])
        assert lines.rows == naive(text[:end])


@given(TEXTS.map(b"".join), st.integers(1, TELLING_BYTES), st.booleans())
def test_an_upload_tells_its_rows_once_its_kind_is_told(text: bytes, piece: int, is_view: bool) -> None:
    text = b"words\n \n" * (TELLING_BYTES // 8) + text
    tally = Tally("rows.txt")
    for start in range(0, len(text), piece):
        block = text[start : start + piece]
        tally.add(memoryview(bytearray(block)) if is_view else block)
    assert tally.rows == naive(text)


@pytest.mark.parametrize("length", [CARRIED_BYTES, CARRIED_BYTES + 1, CARRIED_BYTES + 9])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("piece", [1 << 12, 1 << 19, 1 << 30])
def test_a_record_too_long_to_carry_is_too_long_however_it_comes(length: int, end: bytes, piece: int) -> None:
    text = b"a\tb\n" + b"x" * length + end + b"1\t2\n"
    records = Records("\t")
    for start in range(0, len(text), piece):
        records.add(text[start : start + piece])
    assert records.rows == (None if length > CARRIED_BYTES else 2)
