"""Which version of a file a browser or a proxy has already."""

from __future__ import annotations

import pytest

from backend.web.downloads import is_known

ETAG = '"0031"'


@pytest.mark.parametrize("header", [ETAG, f'"x", {ETAG}', f"W/{ETAG}", "*"])
def test_what_a_browser_has_already_is_not_sent_again(header: str) -> None:
    assert is_known(header, ETAG)


@pytest.mark.parametrize("header", ["", '"x"', "0031", 'W/"x", "y"'])
def test_another_version_is_sent(header: str) -> None:
    assert not is_known(header, ETAG)
