"""Each reader of what strangers write, on input that is almost right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import cases, parsers

CASES = {"data_file": 150, "model_folder": 80, "shards": 80, "template": 150, "form": 80}
"""Fewer of those that take milliseconds each."""


@pytest.mark.parametrize("name", parsers.TARGETS)
def test_whatever_comes_in_out_comes_a_result_or_an_error_in_words(name: str, tmp_path: Path, tiny_base: Path) -> None:
    found = parsers.fuzz(name, CASES.get(name, 250), 1, tmp_path, tiny_base).findings.values()
    assert not found, "\n\n".join(f"{finding}\n{finding.how}" for finding in found)


def test_the_same_case_is_broken_alike_each_time(tmp_path: Path, tiny_base: Path) -> None:
    """Else nothing that is found could be repeated."""
    seen = []

    def remember(case: cases.Case) -> None:
        seen.append(case.chance.bytes_of(parsers.TEXTS))

    for number in (7, 8, 7):
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        remember(cases.Case(folder, cases.mutator(1, number), tiny_base))
    assert seen[0] == seen[2] != seen[1]


def test_what_is_no_error_in_words_is_found_with_its_place(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_case: cases.Case) -> None:
        raise LookupError("as a careless reader would")

    monkeypatch.setitem(parsers.TARGETS, "careless", breaks)
    found = parsers.attempt("careless", 0, 1, tmp_path, tiny_base)
    assert found
    assert found.what.startswith("LookupError at test_parsers.py:breaks")
