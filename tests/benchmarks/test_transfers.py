"""What the benchmark of transfers demands: of both sides, and of an nginx that is set up as the README says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.transfers import (
    ACCEL_PREFIX,
    OF_THE_CONNECTION,
    Sent,
    answered,
    check_part,
    in_front,
    location,
    published,
    refuse_strangers,
    upload_rows,
)
from tests.support.webs import Web, running_web

NGINX = shutil.which("nginx")
KEPT_BY_NGINX = {"accept-ranges", "cache-control", "content-disposition", "content-type"}
"""What it takes along from an answer that has it send a file, though nobody tells it to."""


@dataclass(frozen=True)
class Offered:
    """A file that the studio has a proxy send, and who may take it."""

    web: Web
    artifact: str
    folder: str
    file: Path
    cookie: dict[str, str]

    @property
    def path(self) -> str:
        return f"{self.artifact}/files/{self.file.name}"


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Offered]:
    file = tmp_path_factory.mktemp("sent") / "rows.jsonl"
    file.write_bytes(bytes(range(256)) * 40)
    with running_web(STUDIO_ACCEL_PREFIX=ACCEL_PREFIX) as web:
        artifact, cookie = published(web, file), {"Cookie": f"studio={web.sign_in('ada').cookie}"}
        yield Offered(web, f"/api/v1/artifacts/{artifact.id}", artifact.folder, file, cookie)


@pytest.mark.parametrize(("of_peer", "holds"), [("as sent", True), ("otherwise", False), ("", False)])
def test_an_upload_is_faster_only_where_the_peer_received_the_same_bytes(of_peer: str, *, holds: bool) -> None:
    ours = Sent(3e6, 1, "as sent")
    rounds = [{"peer": Sent(1e6, 1, each), "put": ours, "send": ours} for each in ("as sent", of_peer)]
    for row in upload_rows(rounds, "as sent", "fastapi 1"):
        assert (row.ratio, row.holds) == (3, holds)
        assert ("; the same bytes arrived; " if holds else "; OTHER BYTES ARRIVED; ") in row.beside


def test_the_readmes_lines_pass_on_whatever_the_studio_says_of_a_file(offered: Offered) -> None:
    said, _nothing = answered(offered.web.address, offered.path, offered.cookie)
    lost = {name.lower() for name in said} - OF_THE_CONNECTION - KEPT_BY_NGINX
    passed = re.findall(r"add_header (\S+) \$upstream_http_(\w+) always;", location(offered.web.home))
    assert {name.lower(): variable for name, variable in passed} == {name: name.replace("-", "_") for name in lost}


@pytest.mark.skipif(NGINX is None, reason="no nginx on the path; the benchmark 7c fetches one, and demands the same")
def test_a_range_and_what_the_studio_says_of_a_file_reach_whoever_takes_it_from_nginx(offered: Offered) -> None:
    with in_front(offered.web, NGINX or "") as proxy:
        refuse_strangers(proxy, offered.artifact, offered.folder)
        check_part(offered.web, proxy, offered.path, offered.cookie, offered.file)
