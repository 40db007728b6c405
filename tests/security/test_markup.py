"""Markup in whatever a person, a file, a model or a worker can make the studio show, in a real browser.

Label Studio CVE-2024-26152 (a cell) and CVE-2026-22033; Open WebUI CVE-2026-44549 (a preview), CVE-2026-109291
(`javascript:`) and CVE-2026-54013 (SVG); Gradio CVE-2024-47872; Jupyter CVE-2026-44727.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, Dialog, Page, Route, expect
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.core import people
from backend.core.assignment import Amendment, LineKind, Outcome
from backend.core.errors import Problem
from backend.core.models import (
    ApiToken,
    Artifact,
    Attempt,
    Dataset,
    DatasetVersion,
    Device,
    Operation,
    Role,
    Run,
    SavedRecipe,
    SignIn,
    User,
    Worker,
)
from backend.core.settings import Settings
from backend.web.app import create_app
from tests.security.world import MODEL, ROW, TAUGHT, World
from tests.support.hub import Shelf, hub_of
from tests.support.routes import declared_routes
from tests.support.showcase import Shipper
from tests.support.trouble import Trouble, settle
from tests.support.webs import running_web
from tests.worker.exports.runs import finished_run
from worker.exports.card import card
from worker.exports.context import DataFact, ExportContext

EVIL = (
    "<script data-evil>alert(1)</script>"
    "<img data-evil src=x onerror=alert(1)><svg data-evil onload=alert(1)>"
    "</script></textarea></title><iframe data-evil srcdoc='<script>alert(1)</script>'></iframe>"
    "\"'><b data-evil onmouseover=alert(1)>\u202egpj</b>"
    "<a data-evil href=javascript:alert(1)>x</a><img data-evil src='data:image/svg+xml,<svg onload=alert(1)>'>"
    "{{1337*1337}}${1337*1337}{% debug %}<form data-evil action=//evil.test><input data-evil autofocus onfocus=alert(1)>"
)
PATIENCE_MS = 60_000
HANDLED = "<img src=x onerror='alert(1)'>"
INSERTED = """(markup) => {
  try { document.querySelector("main").insertAdjacentHTML("beforeend", markup); } catch { /* as it has to be */ }
}"""
NOTE_VIOLATIONS = "addEventListener('securitypolicyviolation', () => { window.wasTold = true; })"
UNTIL_TOLD = "() => new Promise((told) => { setInterval(() => window.wasTold && told(), 20); })"
COMPUTED = f"{1337 * 1337}"
ADDRESS = "javascript:alert(1)"
CREATED = """() => [...document.querySelectorAll(
  '[data-evil], [href^="javascript:" i], [src^="javascript:" i], [action*="evil.test"], iframe, object, embed, ' +
  '[href^="data:" i]:not([rel=icon])'
)].map((each) => each.outerHTML.slice(0, 200))"""
OPENED = "() => document.querySelectorAll('details').forEach((each) => { each.open = true; })"
NAMED = "<img data-evil src=x onerror=alert(1)><svg data-evil onload=alert(1)>"
"""What an address can hold: with a slash it would lead to another page."""
LICENSED = "free words"
HOSTILE_CARD = f"---\nlicense: {NAMED}\nlicense_name: <{ADDRESS}>\ntags: ['{ADDRESS}']\n---\n# {EVIL}\n[x]({ADDRESS})\n"
"""What a folder's author says of the model; what the card names is no licence."""
FAR = "owls/evil"
CLAIMS: dict[str, Any] = {
    "tags": [EVIL, f"license:{NAMED}"],
    "safetensors": {"parameters": {NAMED: 1 << 20, EVIL: 7}},
    "config": {"architectures": [EVIL], "tokenizer_config": {"chat_template": EVIL}},
    "siblings": [{"rfilename": EVIL}, {"rfilename": f"{NAMED}.safetensors"}],
    "gated": EVIL,
    "downloads": EVIL,
    "author": EVIL,
}
"""What a hub says of a model; an id of such words is none."""


def plant(world: World) -> dict[str, str]:
    """Markup in everything that is shown, past every rule of what a name may be. Returns the names by which pages ask."""
    things = world.things()
    row = {"instruction": EVIL, "output": EVIL, EVIL[:80]: EVIL}
    with world.client("owner") as client:
        sent = client.put(
            "/api/v1/datasets/evil",
            params={
                "filename": f"{NAMED}.jsonl",
                "columns": json.dumps({"prompt": "instruction", "completion": "output"}),
            },
            content=json.dumps(row)
            + "\n"
            + json.dumps({"instruction": "x", "output": ADDRESS} | {EVIL[:80]: "y"})
            + "\n",
        )
        assert sent.status_code == 201, sent.text
        assert client.post("/api/v1/recipes", json={"name": "evil", "recipe": recipe()}).status_code == 201
    unusable = world.web.settings.folder("models") / "<img data-evil src=x onerror=alert(1)>"
    unusable.mkdir()
    (unusable / "config.json").write_text(json.dumps({"model_type": EVIL, "architectures": [EVIL]}))
    usable = shutil.copytree(unusable.parent / MODEL, unusable.parent / LICENSED)
    for folder in (unusable, usable):
        (folder / "README.md").write_text(HOSTILE_CARD)
    (usable / "LICENSE.txt").write_text(f"{NAMED}\n{EVIL}\n")  # its first line is shown where no card names a licence
    with world.web.session() as session:
        live(session, things.run)
        rename(session, world)
        session.commit()
        dataset = session.scalars(select(Dataset.id).where(Dataset.name == f"{NAMED} 1")).one()
    return {
        "run": NAMED,
        "name": str(dataset),
        "recipe": f"{NAMED} 2",
        "folder": unusable.name,
        "licensed": usable.name,
    }


def recipe() -> dict[str, Any]:
    return {"model": MODEL, "data": {"sets": [TAUGHT]}, "evaluation": {"prompts": [EVIL, ROW["instruction"]]}}


def live(session: Session, name: str) -> None:
    """A run whose every event says it, and which failed because of it."""
    run = session.query(Run).filter_by(name=name).one()
    run.recipe = run.recipe | {"evaluation": run.recipe["evaluation"] | {"prompts": [EVIL]}}
    run.note, run.notes = EVIL, [Problem("x", EVIL, EVIL, EVIL).as_json()]
    session.commit()
    shipper = Shipper(session, worker=NAMED[:60], device=NAMED[:60], place=str(run.place or "here"), run_id=run.id)
    shipper.ship(LineKind.PHASE, [0], lambda _: {"phase": "training", "text": EVIL})
    shipper.ship(
        LineKind.FACTS, [0], lambda _: {"device": EVIL, "architecture": EVIL, "total_steps": 9, "precision": EVIL}
    )
    shipper.ship(LineKind.METRICS, [1, 2], lambda step: {"values": {"loss": 1 / step, EVIL[:60]: 1.0}})
    shipper.ship(LineKind.LOG, [2], lambda _: {"level": EVIL, "text": EVIL})
    answer = {"index": 0, "prompt": EVIL, "text": EVIL, "tokens": 9, "finish": EVIL}
    shipper.ship(LineKind.SAMPLE, [2], lambda _: answer)
    shipper.ship(LineKind.CHECKPOINT, [2], lambda _: {"folder": EVIL, "manifest_sha256": EVIL, "bytes": 1})
    shipper.end(Outcome.FAILED, Problem(EVIL, EVIL, EVIL, EVIL))
    session.add(Artifact(
        run_id=run.id, attempt=1, step=2, kind=EVIL[:60], folder="x", bytes=1, sha256=EVIL,
        files=[{"name": EVIL, "bytes": 1, "sha256": EVIL, "crc32": 1}], facts={"max_logit_diff": 0.1, "dtype": EVIL},
    ))  # fmt: skip


def rename(session: Session, world: World) -> None:
    """Names that no form takes, as a restored or an older database might hold them."""
    session.execute(update(Run).where(Run.note == EVIL).values(name=NAMED))
    session.execute(update(Dataset).where(Dataset.name == "evil").values(name=f"{NAMED} 1"))
    session.execute(update(DatasetVersion).values(source_name=EVIL))
    session.execute(update(SavedRecipe).where(SavedRecipe.name == "evil").values(name=f"{NAMED} 2"))
    session.execute(update(SignIn).values(user_agent=f"{EVIL[:200]} Firefox/142"))
    session.execute(update(Attempt).values(worker=NAMED))
    session.add(Worker(name=NAMED, place=EVIL, facts={"version": EVIL}))
    session.flush()
    session.add(Device(worker=NAMED, name=EVIL[:60], title=EVIL, memory_bytes=1 << 34))
    guest = people.create(session, "guest", people.NO_PASSWORD, Role.VIEWER, by=None)
    token = people.create_token(session, guest, "laptop", role=Role.VIEWER, days=9, by=None)
    people.audit(session, guest.id, EVIL, EVIL, field=EVIL, role=EVIL, version=EVIL, via=EVIL)
    session.flush()
    session.execute(update(ApiToken).where(ApiToken.id == token.row.id).values(name=EVIL))
    session.execute(update(User).where(User.id == guest.id).values(name=NAMED, language=EVIL))
    owner = world.people["admin"].id
    error = {"code": EVIL, "message": EVIL, "hint": EVIL, "problems": [Problem("x", EVIL, EVIL, EVIL).as_json()]}
    for state in ("failed", "running"):
        words = {"name": EVIL, "id": EVIL, "source_name": EVIL, "total": 9}
        session.add(Operation(kind="ingest", state=state, input=words, error=error, owner_id=owner))


PAGES = (
    "/",
    "/datasets",
    "/datasets/{name}",
    "/datasets/{name}?model=tiny-qwen3&wait=1",
    "/datasets/{name}/compare?before=1&after=1",
    "/models",
    "/models?q={evil}&model={evil}",
    "/models?q=owls&model={licensed}",
    "/models?model={folder}",
    "/runs",
    "/runs?q={evil}&owner={evil}&did=pause&run={evil}",
    "/runs/new?dataset={name}&model={evil}&view=advanced",
    "/runs/new?recipe={recipe}&view=yaml",
    "/runs/new?clone={run}&view=advanced",
    "/runs/{run}",
    "/runs/{run}?q={run}&level=warn",
    "/compare?run={run}&run={run}",
    "/recipes",
    "/recipes/{recipe}",
    "/search?q={evil}",
    "/help",
    "/settings/you",
    "/settings/people",
    "/settings/tokens",
    "/settings/sessions",
    "/settings/workers",
    "/settings/storage",
    "/settings/audit",
    "/signin?next={evil}",
    "/setup?token={evil}",
    "/invitation?token={evil}",
    "/runs/{evil}",
)
TELL_NOTHING = ("/help", "/settings/you", "/settings/sessions", "/settings/storage", "/runs/{evil}")
"""Pages without a word that was planted: they tell sizes, the kinds of browsers, an address that leads nowhere."""
PARTS = (
    "/datasets/{name}/measured",
    "/datasets/{name}/preview",
    "/datasets/{name}/quality",
    "/datasets/{name}/verdict",
    "/runs/new/row",
    "/runs/{run}/artifacts",
    "/runs/{run}/history",
    "/runs/{run}/log",
    "/runs/{run}/memory",
    "/runs/{run}/note",
    "/runs/{run}/status",
)
"""What pages fetch anew of themselves: the same templates as in the whole."""
NO_PAGES = ("/healthz", "/people", "/settings")
"""An answer to machines, and addresses that lead on."""


@pytest.fixture
def spoiled(tiny_base: Path, tmp_path: Path) -> Iterator[World]:
    """A studio of this test's own, and a hub: what is planted would be in the way of others."""
    far = tmp_path / "far"
    far.mkdir()
    (far / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": [NAMED]}))
    nameless = {"id": EVIL}
    shelf = Shelf({FAR: far, "owls/nameless": far}, claims={FAR: CLAIMS, "owls/nameless": CLAIMS | nameless})
    with hub_of(shelf) as hub, running_web(tiny_base, HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "hub")) as web:
        world = World(web)
        world.teach()
        yield world


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportContext:
    return finished_run(tiny_base, tmp_path_factory.mktemp("run"), {"kind": "lora", "r": 4})


def test_every_page_is_looked_at(here: Settings) -> None:
    declared = {path for method, path in declared_routes(create_app(here)) if method == "GET"}
    looked = {address.partition("?")[0] for address in PAGES}
    assert sorted(path for path in declared - looked if not path.startswith("/api/")) == sorted((*PARTS, *NO_PAGES))


@contextmanager
def looking(world: World, browser: Browser) -> Iterator[Page]:
    """A page of an administrator's. At its end no script of anybody else's has opened a dialog or met the policy."""
    _, cookie = world.sign_in("admin")
    trouble, dialogs = Trouble(), list[str]()
    context = browser.new_context(base_url=world.web.address, viewport={"width": 1280, "height": 900})
    context.add_cookies([{"name": "studio", "value": cookie, "url": world.web.address}])
    trouble.watch(context)
    page = context.new_page()

    def dismiss(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    yield page
    page.evaluate("0")  # what the page told last has arrived once it answers
    context.close()
    policy = [what for what in trouble.found if what.startswith(("policy", "script"))]
    assert (dialogs, policy) == ([], [])


def with_a_handler(page: Page) -> None:
    """A page of ours, under its own policy, in which a template would have left an image its handler."""

    def spoil(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("</main>", f"{HANDLED}</main>"))

    page.add_init_script(NOTE_VIOLATIONS)
    page.route("**/help", spoil)
    page.goto("/help")
    page.evaluate(UNTIL_TOLD)


def with_a_handler_of_a_script(page: Page) -> None:
    """The same by a script of ours that would make elements of words."""
    page.goto("/help")
    page.evaluate(INSERTED, HANDLED)


def with_a_dialog(page: Page) -> None:
    page.goto("/help")
    page.evaluate("() => alert('a dialog is seen')")


BREACHES: dict[str, Callable[[Page], None]] = {
    "script-src": with_a_handler,
    "require-trusted-types-for": with_a_handler_of_a_script,
    "a dialog is seen": with_a_dialog,
}
"""What markup would do that came through, by what is told of it."""


@pytest.mark.parametrize("told", BREACHES)
def test_markup_that_came_through_would_be_noticed(world: World, browser: Browser, told: str) -> None:
    """Or the tests below could not fail."""
    with pytest.raises(AssertionError, match=told), looking(world, browser) as page:
        BREACHES[told](page)


def test_markup_is_text_on_every_page(spoiled: World, browser: Browser) -> None:
    words = plant(spoiled) | {"evil": EVIL}
    names = {name: quote(value, safe="") for name, value in words.items()}
    with looking(spoiled, browser) as page:
        wrong = [each for address in PAGES for each in looked_at(page, address, names)]
        page.goto(f"/models?model={names['folder']}")
        expect(page.locator("#one-h")).to_have_text(words["folder"])
        expect(page.locator(".error-line")).to_contain_text(
            "names <script data-evil>alert(1)</script><img data-evil src=x"
        )
        page.goto("/models?q=owls")
        rows = page.locator("#there tbody tr")
        expect(rows).to_have_count(1)  # and not what has no id
        expect(rows).to_contain_text(f"{FAR}")
        assert rows.inner_text().count("<img data-evil src=x") == 2, "its licence, and why it cannot be used"
        expect(page.locator("#here tr", has_text=LICENSED)).to_contain_text("<img data-evil src=x onerror=alert(1)>")
    assert wrong == []


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_markup_is_text_in_a_card_that_goes_along_with_a_model(
    world: World, browser: Browser, finished: ExportContext, kind: str
) -> None:
    """Read by whoever downloads it, with a reader that lets HTML through and keeps nothing from running."""
    evaluation = finished.recipe.evaluation.model_copy(update={"prompts": (EVIL, f"[x]({ADDRESS})")})
    spoiled = replace(
        finished,
        run_name=EVIL,
        base_name=EVIL,
        recipe=finished.recipe.model_copy(update={"evaluation": evaluation}),
        data=(DataFact(EVIL, 1, 3, "0" * 64), DataFact(f"[x]({ADDRESS})", 1, 3, "0" * 64)),
        metrics={EVIL: (1.0, 0.5)},
        changes=(Amendment(sequence=1, field="evaluation.prompts", value=[EVIL], step=7),),
    )
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    with looking(world, browser) as page:
        page.set_content(reader.render(card(spoiled, kind, {}).split("---\n", 2)[2]))
        assert page.evaluate(CREATED) == []
        for place in ("h1", "table:has-text('Data set')", "table:has-text('Metric')"):
            expect(page.locator(place)).to_contain_text("<script data-evil>alert(1)</script>")


def test_markup_that_comes_while_a_run_is_looked_at_is_text(spoiled: World, browser: Browser) -> None:
    """Not out of a template, but out of the stream, by which an open page changes itself."""
    with spoiled.web.session() as session, looking(spoiled, browser) as page:
        run = session.query(Run).filter_by(name=spoiled.things().run).one()
        shipper = Shipper(session, place=str(run.place or "here"), run_id=run.id)
        shipper.ship(LineKind.PHASE, [0], lambda _: {"phase": "training", "text": ""})
        shipper.ship(LineKind.METRICS, [1, 2], lambda step: {"values": {"loss": 1 / step}})
        page.goto(f"/runs/{quote(run.name)}")
        settle(page)
        assert "data-evil" not in page.content()
        page.evaluate("window.isTheSamePage = true")
        answer = {"index": 0, "prompt": EVIL, "text": EVIL, "tokens": 9, "finish": EVIL}
        shipper.ship(LineKind.PHASE, [2], lambda _: {"phase": "training", "text": EVIL})
        shipper.ship(LineKind.METRICS, [3, 4], lambda step: {"values": {"loss": 1 / step, EVIL[:60]: 1.0}})
        shipper.ship(LineKind.LOG, [4], lambda _: {"level": EVIL, "text": EVIL})
        shipper.ship(LineKind.SAMPLE, [4], lambda _: answer)
        for place in ("#log-lines", "[data-samples]"):
            expect(page.locator(place)).to_contain_text("alert(1)", timeout=PATIENCE_MS)
        settle(page)
        assert page.evaluate("window.isTheSamePage"), "it was loaded anew"
        assert (page.evaluate(CREATED), COMPUTED in page.content()) == ([], False)


def looked_at(page: Page, address: str, names: dict[str, str]) -> list[str]:
    """What was made of markup on that page, with everything on it unfolded."""
    answer = page.goto(address.format(**names))
    assert answer is not None
    assert answer.status < 500, address
    settle(page)
    page.evaluate(OPENED)
    settle(page)
    wrong, content = [f"{address}: {made}" for made in page.evaluate(CREATED)], page.content()
    if ("data-evil" in content) == (address in TELL_NOTHING):
        wrong.append(f"{address}: what was planted is {'shown' if address in TELL_NOTHING else 'not even shown'}")
    return wrong + ([f"{address}: a template was computed"] if COMPUTED in content else [])
