"""The hub, asked over HTTP: one of our own stands in for it, and answers well and badly."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from backend.core import bases, hub, operations, people
from backend.core.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from backend.core.memory import shape_of
from backend.core.models import Operation, Role
from backend.core.recipe import ModelChoice
from backend.core.settings import Settings
from tests.support.hub import COMMIT, Shelf, hub_in_place, hub_of


@pytest.fixture
def shelf(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    shelf = Shelf({"owls/tiny-instruct": tiny_base, "owls/tiny": tiny_base}, downloads={"owls/tiny": 4321})
    with hub_in_place(shelf, tmp_path / "hf", monkeypatch):
        yield shelf


pytestmark = pytest.mark.usefixtures("shelf")


def test_a_search_tells_size_licence_and_shape_before_a_download(shelf: Shelf, tiny_base: Path) -> None:
    found = {each.id: each for each in hub.find("tiny")}
    tiny = found["owls/tiny"]
    assert (tiny.revision, tiny.licence, tiny.downloads, tiny.gated, tiny.problem) == (
        COMMIT, "apache-2.0", 4321, False, None,
    )  # fmt: skip
    local = bases.inspect(tiny_base)
    assert tiny.parameters == local.parameters
    shape, known = shape_of(tiny.facts), shape_of(local.as_json())
    assert shape
    assert known
    assert (shape.hidden, shape.linear_parameters) == (known.hidden, known.linear_parameters)
    assert not any("safetensors" in path for path in shelf.asked), "no weights were asked for"


@pytest.mark.parametrize(
    "words", ["owls/tiny", " owls/tiny ", "https://huggingface.co/owls/tiny/tree/main", "http://x.org/owls/tiny"]
)
def test_an_id_or_an_address_finds_the_one_model_with_its_exact_size(tiny_base: Path, words: str) -> None:
    [found] = hub.find(words)
    assert found.id == "owls/tiny"
    assert found.bytes == sum(path.stat().st_size for path in tiny_base.iterdir())


def test_a_name_that_the_hub_does_not_know_is_told() -> None:
    with pytest.raises(NotFound, match="no model “owls/none”"):
        hub.find("owls/none")
    with pytest.raises(NotFound, match="no id of a model"):
        hub.look("../../etc/passwd")
    assert hub.find("nothing of that name") == []


def test_gated_models_and_pickles_are_refused_before_a_download(shelf: Shelf, tiny_base: Path, tmp_path: Path) -> None:
    shelf.gated.add("owls/tiny")
    gated = hub.look("owls/tiny")
    assert gated.gated
    with pytest.raises(Forbidden, match="accept their terms"):
        hub.refuse_unusable(gated)
    shutil.copytree(tiny_base, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    shelf.models["owls/pickled"] = tmp_path / "pickled"
    with pytest.raises(Invalid, match="pickled weights"):
        hub.refuse_unusable(hub.look("owls/pickled"))


def test_a_model_with_code_of_its_own_is_refused_before_a_download(
    shelf: Shelf, tiny_base: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "coded"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Evil"}}))
    shelf.models["owls/coded"] = folder
    with pytest.raises(Invalid, match="auto_map"):
        hub.refuse_unusable(hub.look("owls/coded"))


def test_a_configuration_that_did_not_come_is_asked_for_again(shelf: Shelf) -> None:
    shelf.gated.add("owls/tiny")
    assert hub.look("owls/tiny").problem
    shelf.gated.clear()
    assert hub.look("owls/tiny").problem is None


def test_a_disk_that_is_too_small_is_told_before_a_download() -> None:
    huge = hub.HubModel("a/b", COMMIT, 1, 1 << 60, 0, None, False, "", {}, None)
    with pytest.raises(Invalid, match="disk is too small"):
        hub.refuse_unusable(huge)


def test_a_redirect_to_another_host_is_never_followed(shelf: Shelf) -> None:
    with hub_of(Shelf({})) as elsewhere:
        shelf.redirects["/api/models/owls/tiny"] = f"{elsewhere}/api/models/owls/tiny"
        with pytest.raises(Unavailable, match="cannot be reached"):
            hub.look("owls/tiny")
    shelf.redirects["/api/models/owls/tiny"] = "/api/models/owls/tiny-instruct"  # a model that was renamed
    assert hub.look("owls/tiny").id == "owls/tiny-instruct"


def test_a_hub_that_is_away_or_forbidden_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="cannot be reached"):
        hub.find("tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Unavailable, match="HF_HUB_OFFLINE is set"):
        hub.find("tiny")


def test_an_answer_that_is_too_long_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ANSWER_BYTES", 100)
    with pytest.raises(Unavailable, match="cannot be reached"):
        hub.find("tiny")


def test_a_configuration_that_is_far_too_long_keeps_its_model_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "CONFIG_BYTES", 100)
    [found] = hub.find("owls/tiny")
    assert found.problem
    assert found.problem.code == "model.no_config"


def test_figures_that_no_model_has_are_not_believed() -> None:
    told = {"parameters": {"F32": 10**400, "BF16": 7, "F16": True}}
    siblings = [{"rfilename": "model.safetensors", "size": 10**400}, {"rfilename": "config.json", "size": 12}]
    judged = hub._judged({"id": "owls/tiny", "sha": COMMIT, "safetensors": told, "siblings": siblings, "downloads": -1})
    assert (judged.parameters, judged.bytes, judged.downloads) == (7, 12, 0)


def test_an_answer_that_is_no_list_of_models_is_told(shelf: Shelf) -> None:
    shelf.redirects["/api/models"] = "/owls/tiny/resolve/main/config.json"
    with pytest.raises(Unavailable, match="cannot be read"):
        hub.find("tiny")


# ---- downloading ----------------------------------------------------------------------------------------------------


def begun(engine: Engine, hub_id: str) -> UUID:
    with Session(engine) as session, session.begin():
        owner = people.create(session, f"ada {time.monotonic_ns()}", "no password", Role.MEMBER, by=None)
        return operations.begin_download(session, hub.look(hub_id), owner.id).id


def state(engine: Engine, operation_id: UUID) -> Operation:
    with Session(engine, expire_on_commit=False) as session:
        return session.get_one(Operation, operation_id)


def test_a_download_ends_with_a_model_that_can_be_trained(shelf: Shelf, engine: Engine, tmp_path: Path) -> None:
    here = Settings(home=tmp_path / "home")
    operation_id = begun(engine, "owls/tiny")
    operations.run_operation(engine, here, operation_id)
    done = state(engine, operation_id)
    assert (done.state, done.error, done.result) == ("succeeded", None, {"model": "owls/tiny", "revision": COMMIT})
    assert [(each.path, each.revision) for each in bases.list_bases(here)] == [("owls/tiny", COMMIT)]
    asked = len(shelf.asked)
    found = bases.find(ModelChoice(path="owls/tiny"), here)
    assert (found.revision, len(shelf.asked)) == (COMMIT, asked), "what lies here is taken without asking again"


def test_a_second_download_of_the_same_model_joins_the_first(engine: Engine) -> None:
    assert begun(engine, "owls/tiny") == begun(engine, "owls/tiny")
    assert begun(engine, "owls/tiny") != begun(engine, "owls/tiny-instruct")


def test_while_a_model_is_fetched_at_one_commit_another_commit_of_it_is_refused_in_words(
    shelf: Shelf, engine: Engine
) -> None:
    first = begun(engine, "owls/tiny")
    shelf.claims["owls/tiny"] = {"sha": "f" * 40}
    with pytest.raises(Conflict, match=f"“owls/tiny” is being downloaded at another commit, {COMMIT}"):
        begun(engine, "owls/tiny")
    with Session(engine) as session, session.begin():
        session.get_one(Operation, first).state = "cancelled"
    assert state(engine, begun(engine, "owls/tiny")).input["revision"] == "f" * 40


def test_the_disk_is_promised_to_one_download_only(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = hub.look("owls/tiny").bytes
    assert needed
    room = Room(free=hub.SPARE_BYTES + needed * 3 // 2)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: room)  # type: ignore[attr-defined]
    first = begun(engine, "owls/tiny")
    with pytest.raises(Invalid, match="The disk is too small"):
        begun(engine, "owls/tiny-instruct")
    assert begun(engine, "owls/tiny") == first
    with Session(engine) as session, session.begin():
        session.get_one(Operation, first).state = "cancelled"
    assert begun(engine, "owls/tiny-instruct") != first


@dataclass(frozen=True)
class Room:
    """What `shutil.disk_usage` tells."""

    free: int


def test_a_download_tells_how_far_it_is_can_be_called_off_and_goes_on_later(
    shelf: Shelf, engine: Engine, tmp_path: Path
) -> None:
    shelf.slow_seconds = 0.15
    operation_id = begun(engine, "owls/tiny")
    here = Settings(home=tmp_path / "home")
    work = threading.Thread(target=operations.run_operation, args=(engine, here, operation_id))
    work.start()
    until(lambda: state(engine, operation_id).done > 0)
    with Session(engine) as session, session.begin():
        session.get_one(Operation, operation_id).state = "cancelled"
    work.join(10)
    assert not work.is_alive()
    assert state(engine, operation_id).state == "cancelled"
    shelf.slow_seconds = 0
    again = begun(engine, "owls/tiny")
    operations.run_operation(engine, here, again)
    assert state(engine, again).state == "succeeded"
    assert bases.find(ModelChoice(path="owls/tiny"), here).facts.parameters


def test_a_model_that_is_taken_away_before_its_download_fails_in_words(
    shelf: Shelf, engine: Engine, tmp_path: Path
) -> None:
    operation_id = begun(engine, "owls/tiny")
    shelf.models.clear()
    operations.run_operation(engine, Settings(home=tmp_path / "home"), operation_id)
    failed = state(engine, operation_id)
    assert failed.state == "failed"
    assert failed.error
    assert "There is no model “owls/tiny”" in failed.error["message"]


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_hub_says_of_a_model_can_always_be_told_on() -> None:
    odd = {"id": "owls/odd", "sha": "\ud800", "safetensors": {"parameters": {"\0\ud800": 3}}}
    told = hub._judged(odd)
    assert told.revision == ""
    assert told.facts["dtype"] == "\\0\\ud800"
    assert told.problem
