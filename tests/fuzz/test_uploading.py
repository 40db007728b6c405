"""Resumable uploads, in every order that chance brings."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fuzz.machines import SHORT
from tests.fuzz.uploading import Uploading


def test_an_upload_keeps_exactly_what_was_sent_whatever_breaks() -> None:
    run_state_machine_as_test(Uploading, settings=settings(SHORT, max_examples=60))
