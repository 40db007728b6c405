"""Files on their way in, as a person sees it: dropped, looked at, mapped, sent, cut off, gone on with, refused, taken back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core import people, uploads
from backend.core.datasets import store
from backend.core.models import DatasetVersion, Operation, Role, User
from backend.core.settings import Settings
from backend.core.uploads import Received
from tests.support.trouble import signed_in
from tests.web.conftest import account

ROW = {"instruction": "Who eats mice?", "output": "The owl."}
TWO_PIECES = re.compile(r"^[1-9]\d\d KiB of 7\.8 MiB$")
DROP = """
  ([files]) => {
    const data = new DataTransfer();
    for (const [name, text] of files) data.items.add(new File([text], name));
    const send = (type) => document.querySelector("h1").dispatchEvent(
      new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
    send("dragenter");
    const isShown = !document.querySelector("[data-drop-over]").hidden;
    send("drop");
    return isShown && document.querySelector("[data-drop-over]").hidden;
  }
"""


@pytest.fixture
def here(studio_home: Path, database_url: str, valkey_url: str) -> Settings:
    """Files above a megabyte are read in the background."""
    return Settings(home=studio_home, DATABASE_URL=database_url, REDIS_URL=valkey_url, inline_mib=1)


@pytest.fixture
def context(browser: Browser, served: str, session: Session) -> Iterator[BrowserContext]:
    """Somebody who may write is signed in."""
    with signed_in(browser, served, account(session, Role.MEMBER).cookie) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Page:
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto("/datasets")
    return page


def rows(count: int, answer: str = "The owl.") -> str:
    return "".join(json.dumps(ROW | {"instruction": f"Who {n}?", "output": answer}) + "\n" for n in range(count))


def choose(page: Page, name: str, text: str) -> Locator:
    """Through the zone's own field. Returns the file's line."""
    page.set_input_files("[data-files]", {"name": name, "mimeType": "", "buffer": text.encode()})
    return page.locator("[data-arrival]").last


def large(folder: Path) -> Path:
    """Several pieces' worth."""
    file = folder / "large.jsonl"
    file.write_text(rows(900, "The owl. " * 1000))
    return file


def stored(session: Session) -> list[tuple[str, int]]:
    found = [(each.dataset.name, each.newest.rows) for each in store.listing(session)]
    session.rollback()
    return found


def test_several_files_are_dropped_anywhere_and_each_has_its_line(page: Page, session: Session) -> None:
    files = [("owls.jsonl", rows(5)), ("cats.jsonl", rows(7)), ("noise.jsonl", '{"instruction": "a"\n')]
    assert page.evaluate(DROP, [files]), "the page shows that it takes what is dragged over it"
    lines = page.locator("[data-arrival]")
    expect(lines).to_have_count(3)
    expect(lines.first.locator("[data-guess]")).to_have_text("Looks like Alpaca: Task = instruction, Answer = output")
    expect(lines.first.locator(".first-row").first.locator(".ink")).to_have_text("The owl.")
    expect(lines.nth(1).locator("[data-guess]")).to_contain_text("Alpaca")
    expect(lines.nth(2).locator("[role=alert]")).to_contain_text(
        "1 of 1 row cannot be used."
    )  # so it is not sent at all
    expect(lines.nth(2).locator("[data-skip]")).to_be_hidden()
    page.click("[data-send-all]")
    expect(lines.nth(0).locator("[data-said]")).to_contain_text("5 rows are there as version 1. SHA-256")
    expect(lines.nth(1).locator("[data-open]")).to_have_attribute("href", "/datasets/cats")
    assert sorted(stored(session)) == [("cats", 7), ("owls", 5)]
    lines.nth(2).locator("[data-cancel]").click()
    expect(lines).to_have_count(2)


def test_a_name_that_is_taken_is_asked_about(page: Page, session: Session) -> None:
    choose(page, "owls.jsonl", rows(2)).locator("[data-send]").click()
    page.wait_for_url("**/datasets/owls")
    page.goto("/datasets")
    line = choose(page, "owls.jsonl", rows(3))
    expect(line.locator("[data-becomes]")).to_contain_text("this becomes its version 2")
    expect(line.locator("[data-send]")).to_have_text("Add as version 2")
    line.locator("[data-apart]").click()
    expect(line.locator("[data-as]")).to_have_value("owls 2")
    expect(line.locator("[data-send]")).to_have_text("Upload")
    line.locator("[data-as]").press("Enter")
    page.wait_for_url("**/datasets/owls%202")
    assert sorted(stored(session)) == [("owls", 2), ("owls 2", 3)]


def test_what_a_name_stands_for_stays_open_until_it_is_known_and_what_arrived_is_not_sent_again(page: Page) -> None:
    choose(page, "owls.jsonl", rows(2)).locator("[data-send]").click()
    page.wait_for_url("**/datasets/owls")
    page.goto("/datasets")
    line = choose(page, "cats.jsonl", rows(3))
    send, name = line.locator("[data-send]"), line.locator("[data-as]")
    expect(send).to_have_text("Upload")
    late: list[Route] = []
    page.route("**/api/v1/datasets?name=owls", lambda route: late.append(route), times=1)
    with page.expect_request("**/api/v1/datasets?name=owls"):
        name.fill("owls")
    with page.expect_response("**/api/v1/datasets?name=finch"):
        name.fill("finch")
    late[0].continue_()
    page.wait_for_timeout(300)  # long enough to be told what came late
    expect(send).to_have_text("Upload")
    page.route("**/api/v1/datasets?name=owls", lambda route: route.fulfill(status=503), times=1)
    name.fill("owls")
    expect(send).to_have_text("Send")
    expect(send).to_have_text("Add as version 2")
    page.route(
        "**/api/v1/datasets/owls", lambda route: route.abort() if route.request.method == "GET" else route.continue_()
    )
    send.click()
    expect(line).to_have_attribute("data-state", "done")
    expect(line.locator("[data-said]")).to_have_text("It is read.")
    expect(line.locator("[data-open]")).to_have_attribute("href", "/datasets/owls")


def test_columns_are_given_their_roles_and_the_rows_follow_at_once(page: Page, session: Session) -> None:
    line = choose(page, "fragen.csv", "Frage\r,Antwort,Quelle\r\n" + "Wer jagt?,Die Eule.,7\r\n" * 3)
    expect(line.locator("[data-guess]")).to_contain_text("No known shape has these columns")
    expect(line.locator("[data-send]")).to_be_disabled()
    line.locator("[data-shape]").select_option("prompt_completion")
    line.locator("[data-role=prompt]").select_option("Quelle")
    line.locator("[data-role=completion]").select_option("Antwort")
    expect(line.locator(".first-row").first.locator(".pencil")).to_have_text("7")
    line.locator("[data-role=prompt]").focus()
    line.locator("[data-role=prompt]").select_option("Frage")
    expect(line.locator(".first-row").first.locator(".pencil")).to_have_text("Wer jagt?")
    expect(line.locator("[data-role=prompt]")).to_be_focused()
    line.locator("[data-send]").click()
    page.wait_for_url("**/datasets/fragen")
    facts = session.scalars(select(DatasetVersion)).one().facts
    assert facts["mapping"] == {"prompt": "Frage", "completion": "Antwort"}


def test_a_refused_file_names_its_rows_and_goes_in_without_them(page: Page, session: Session) -> None:
    line = choose(page, "holes.jsonl", rows(2) + rows(1, "") + "{oops\n")
    expect(line.locator(".bad-ahead")).to_contain_text("2 of the first 4 rows cannot be used")
    line.locator("[data-send]").click()
    expect(line.locator("[data-message]")).to_have_text("2 of 4 rows cannot be used.")
    told = line.locator("[data-problems] li")
    assert [each.split(".")[0] for each in told.all_inner_texts()] == [
        "Row 3 has an empty target: the answer is empty",
        "Line 4 is not valid JSON: Expecting property name enclosed in double quotes at character 2",
    ]
    line.locator("[data-remap]").click()
    expect(line.locator("[data-role=output]")).to_be_visible()
    line.locator("[data-send]").click()
    line.locator("[data-skip]").click()
    page.wait_for_url("**/datasets/holes")
    assert stored(session) == [("holes", 2)]


def test_what_is_no_data_at_all_is_refused_before_it_is_sent(page: Page) -> None:
    line = choose(page, "pixels.jsonl", "%PDF-1.7 and so on")
    expect(line.locator("[role=alert] [data-message]")).to_contain_text("The file is a PDF document.")
    expect(line.locator("[data-send]")).to_be_hidden()


def test_calls_of_tools_and_speakers_are_shown_before_the_upload_in_the_readers_language(page: Page) -> None:
    page.goto("/datasets?lang=zh")
    call = {"name": "look_up", "arguments": {"word": "owl"}}
    turns = [{"from": "human", "value": "Who?"}, {"from": "function_call", "value": json.dumps(call)}]
    turns += [{"from": "observation", "value": "The owl."}, {"from": "gpt", "value": "The owl does."}]
    line = choose(page, "calls.jsonl", json.dumps({"conversations": turns}) + "\n")
    expect(line.locator("[data-guess]")).to_contain_text("对话 = conversations")
    row = line.locator(".first-row")
    expect(row.locator(".who")).to_have_text(["用户", "助手", "工具", "助手"])
    expect(row.locator(".ink").first).to_contain_text("look_up")


def test_pasted_rows_are_looked_at_like_a_file(page: Page, session: Session) -> None:
    page.click("[data-opens=paste-rows]")
    page.fill("#pasted", "question,answer\nWho?,The owl.\nWhere?,Here.\n")
    page.get_by_role("button", name="Look at them").click()
    line = page.locator("[data-arrival]")
    expect(line.locator("[data-guess]")).to_have_text(
        "Looks like Prompt and completion: Question or prompt = question, Answer or completion = answer"
    )
    line.locator("[data-send]").click()
    page.wait_for_url("**/datasets/pasted%20rows")
    assert stored(session) == [("pasted rows", 2)]


class Cut:
    """Cuts the line after some pieces, until it is mended."""

    def __init__(self, page: Page, after: int) -> None:
        self.left = after
        page.route("**/api/v1/uploads/*", self.pass_or_cut)

    def pass_or_cut(self, route: Route) -> Any:
        if self.left <= 0 and route.request.method != "DELETE":
            return route.abort()
        self.left -= route.request.method == "PATCH"
        return route.continue_()

    def mend(self) -> None:
        self.left = 1000


def test_a_lost_line_is_told_and_the_upload_goes_on_by_itself(page: Page, session: Session, tmp_path: Path) -> None:
    cut = Cut(page, after=2)
    file = large(tmp_path)
    page.set_input_files("[data-files]", file)
    line = page.locator("[data-arrival]")
    line.locator("[data-send]").click()
    expect(line.locator("[data-pace]")).to_contain_text("It goes on by itself.")
    expect(line.locator("[data-sent]")).to_have_text(TWO_PIECES)
    cut.mend()
    page.evaluate("() => dispatchEvent(new Event('online'))")
    page.wait_for_url("**/datasets/large", timeout=30_000)
    version = session.scalars(select(DatasetVersion)).one()
    assert version.source_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert version.rows == 900


def test_a_closed_tab_is_gone_on_with_in_another(context: BrowserContext, page: Page, tmp_path: Path) -> None:
    Cut(page, after=2)
    file = large(tmp_path)
    page.set_input_files("[data-files]", file)
    page.locator("[data-send]").click()
    expect(page.locator("[data-pace]")).to_contain_text("It goes on by itself.")
    page.close()
    second = context.new_page()
    second.goto("/datasets")
    left = second.locator("[data-unfinished]")
    expect(left.locator(".flow p")).to_have_text(TWO_PIECES)
    left.locator("input").set_input_files({"name": "large.jsonl", "mimeType": "", "buffer": b"another"})
    expect(left.locator(".error-line")).to_contain_text("That is another file")
    offsets: list[int] = []
    second.on("request", lambda each: offsets.append(int(each.headers.get("upload-offset", -1))))
    left.locator("input").set_input_files(file)
    second.wait_for_url("**/datasets/large", timeout=30_000)
    assert min(each for each in offsets if each >= 0) >= 384 << 10, "what had come was not sent again"


def test_an_unfinished_upload_is_discarded(page: Page, tmp_path: Path) -> None:
    cut = Cut(page, after=1)
    page.set_input_files("[data-files]", large(tmp_path))
    page.locator("[data-send]").click()
    expect(page.locator("[data-pace]")).to_contain_text("It goes on by itself.")
    cut.mend()
    page.unroute("**/api/v1/uploads/*")
    page.goto("/datasets")
    page.locator("[data-unfinished] [data-discard]").click()
    expect(page.locator("[data-unfinished]")).to_have_count(0)
    page.reload()
    expect(page.locator("[data-unfinished]")).to_have_count(0)


def test_what_came_whole_and_could_not_be_read_is_read_without_its_file(
    page: Page, session: Session, here: Settings
) -> None:
    body, folder = json.dumps(ROW).encode() + b"\n", here.folder("uploads")
    owner = session.scalars(select(User.id).where(User.name == f"the {Role.MEMBER}")).one()
    left = uploads.create(folder, len(body), {"dataset": "owls", "filename": "owls.jsonl"}, str(owner), 1 << 30)
    (folder / f"{left.id}.part").write_bytes(body)
    (here.root / "datasets").write_text("in the way of a folder")
    page.reload()
    line = page.locator("[data-unfinished]")
    expect(line).to_contain_text("It is all here, and not read yet.")
    line.get_by_role("button", name="Read it now").click()
    expect(line.locator(".error-line")).to_contain_text("could not be stored")
    (here.root / "datasets").unlink()
    line.get_by_role("button", name="Read it now").click()
    expect(page.locator("#sets")).to_contain_text("owls")
    expect(line).to_have_count(0)
    assert stored(session) == [("owls", 1)]


def test_a_refusal_that_does_not_pass_is_shown_after_some_tries_and_not_repeated_for_ever(
    page: Page, tmp_path: Path
) -> None:
    pieces = []
    page.on("request", lambda each: pieces.append(each.url) if each.method == "PATCH" else None)
    page.route("**/api/v1/uploads/*", partial(refused_at_the_end, size=large(tmp_path).stat().st_size))
    page.clock.install()
    page.set_input_files("[data-files]", large(tmp_path))
    line = page.locator("[data-arrival]")
    line.locator("[data-send]").click()
    for _ in range(60):
        page.clock.run_for(2000)
        if line.get_by_text("Is the disk full?").count():
            break
    expect(line).to_contain_text("Is the disk full?")
    assert len(pieces) < 30


def refused_at_the_end(route: Route, *, size: int) -> None:
    """The studio has every byte, and cannot take the file in."""
    if route.request.method == "PATCH":
        words = {"code": "storage.refused", "message": "The file could not be stored.", "hint": "Is the disk full?"}
        return route.fulfill(status=507, json={"error": words})
    if route.request.method == "HEAD":
        return route.fulfill(status=200, headers={"Upload-Offset": str(size), "Upload-Length": str(size)})
    return route.continue_()


def test_an_upload_is_paused_cancelled_and_taken_back(page: Page, session: Session, tmp_path: Path) -> None:
    cut = Cut(page, after=1)
    page.set_input_files("[data-files]", large(tmp_path))
    line = page.locator("[data-arrival]")
    line.locator("[data-send]").click()
    expect(line.locator("[data-pace]")).to_contain_text("It goes on by itself.")
    line.get_by_role("button", name="Pause").click()
    expect(line.locator("[data-pace]")).to_contain_text("Paused at")
    line.locator("[data-cancel]").click()
    expect(line.locator("[data-said]")).to_contain_text("Cancelled.")
    expect(line.locator("[data-again]")).to_be_focused()
    cut.mend()
    line.locator("[data-again]").press("Enter")
    page.wait_for_url("**/datasets/large", timeout=30_000)
    assert stored(session) == [("large", 900)]


def test_what_was_cancelled_is_dropped_when_the_page_is_left(page: Page, tmp_path: Path) -> None:
    Cut(page, after=1)
    page.set_input_files("[data-files]", large(tmp_path))
    line = page.locator("[data-arrival]")
    line.locator("[data-send]").click()
    expect(line.locator("[data-pace]")).to_contain_text("It goes on by itself.")
    line.locator("[data-cancel]").click()
    page.goto("/runs")
    page.goto("/datasets")
    expect(page.locator("[data-unfinished]")).to_have_count(0)


def running(session: Session, here: Settings, count: int) -> Operation:
    """A reading that nobody carries out yet, as a process leaves it that was killed."""
    file = here.folder("uploads") / "left.body"
    file.write_text(rows(count))
    found = store.upload("slow", "slow.jsonl", Received(file, "0" * 64, file.stat().st_size))
    operation = store_operation(session, found)
    session.commit()
    return operation


def store_operation(session: Session, upload: store.Upload) -> Operation:
    row = Operation(kind="ingest", state="running", input=upload.as_json(), total=upload.bytes, done=upload.bytes // 2)
    row.owner_id = people.find(session, "the member").id
    session.add(row)
    session.flush()
    return row


def test_reading_is_followed_after_a_reload_and_called_off(page: Page, session: Session, here: Settings) -> None:
    operation = running(session, here, 50)
    page.reload()
    line = page.locator(f'[data-operation="{operation.id}"]')
    expect(line.locator("[role=progressbar]")).to_have_attribute("aria-valuenow", "50")
    operation.done = operation.total or 0
    session.commit()
    expect(line.locator("[role=progressbar]")).to_have_attribute("aria-valuenow", "100")
    line.locator("[data-cancel]").click()
    expect(line.locator("[data-cancel]")).to_have_count(0)
    expect(line.locator("[data-sent]")).to_have_text("The reading was called off.")
    session.refresh(operation)
    assert operation.state == "cancelled"


def test_a_reading_that_is_there_no_more_is_asked_for_no_more(page: Page, session: Session, here: Settings) -> None:
    operation = running(session, here, 50)
    page.reload()
    line = page.locator(f'[data-operation="{operation.id}"]')
    expect(line.locator("[role=progressbar]")).to_have_attribute("aria-valuenow", "50")
    session.delete(operation)
    session.commit()
    expect(line.locator("[data-cancel]")).to_have_count(0)
    expect(line.locator("[data-sent]")).to_contain_text("There is no")


def test_a_reading_that_ends_meanwhile_is_opened_from_its_line(page: Page, session: Session, here: Settings) -> None:
    operation = running(session, here, 50)
    page.reload()
    operation.state = "succeeded"
    session.commit()
    page.locator(f'[data-operation="{operation.id}"]').get_by_role("link", name="Open").click()
    page.wait_for_url("**/datasets/slow")


def test_a_large_file_is_read_in_the_background_and_then_shown(page: Page, tmp_path: Path) -> None:
    page.set_input_files("[data-files]", large(tmp_path))
    with page.expect_request("**/api/v1/operations/*"):
        page.locator("[data-send]").click()
    page.wait_for_url("**/datasets/large", timeout=30_000)


def test_the_list_is_searched_as_one_types_and_a_deletion_is_undone(page: Page) -> None:
    choose(page, "owls.jsonl", rows(2)).locator("[data-send]").click()
    page.wait_for_url("**/datasets/owls")
    page.goto("/datasets")
    page.fill("#sets input[name=q]", "nothing")
    expect(page.locator("#sets")).to_contain_text("No data set is called so")
    page.fill("#sets input[name=q]", "instruct")
    expect(page.locator("#sets tbody tr")).to_have_count(1)
    expect(page.locator("#sets input[name=q]")).to_be_focused()
    page.get_by_role("link", name="Rows").click()
    page.wait_for_url("**sort=rows")
    page.get_by_role("button", name="Delete owls").click()
    expect(page.locator("[role=status].banner")).to_contain_text("owls was deleted")
    page.get_by_role("button", name="Bring it back").first.click()
    page.wait_for_url("**/datasets/owls")


def test_the_first_visit_ends_in_a_data_set_with_one_click(page: Page) -> None:
    page.get_by_role("button", name="Use this example").first.click()
    page.wait_for_url("**/datasets/pirate%20questions")


def test_the_keyboard_alone_chooses_names_and_sends(page: Page) -> None:
    page.locator("[data-files]").focus()
    line = choose(page, "owls.jsonl", rows(2))
    expect(line.locator("[data-guess]")).to_contain_text("Alpaca")
    line.locator("[data-as]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/datasets/owls")
