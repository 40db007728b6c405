"""The database's address, and what is said where it leads nowhere."""

from __future__ import annotations

import pytest

from backend.core import db
from backend.core.errors import StudioError, Unavailable


@pytest.mark.parametrize("url", ["postgres://u:p@host/x", "postgresql://u:p@host/x", "postgresql+psycopg://u:p@host/x"])
def test_each_spelling_of_an_address_is_understood(url: str) -> None:
    assert db.driver_url(url).render_as_string(hide_password=False) == "postgresql+psycopg://u:p@host/x"


@pytest.mark.parametrize("url", ["nonsense canary", "postgresql://u:canary@host:port/x", "mysql://u:canary@host/x", ""])
def test_an_address_that_is_none_is_told_without_repeating_it(url: str) -> None:
    with pytest.raises(StudioError, match="DATABASE_URL") as told:
        db.driver_url(url)
    assert "canary" not in str(told.value)


def test_a_database_that_is_not_there_is_told_in_words() -> None:
    with pytest.raises(Unavailable, match="cannot be reached") as told:
        db.migrate("postgresql://u:canary@127.0.0.1:1/x")
    assert "canary" not in str(told.value)
