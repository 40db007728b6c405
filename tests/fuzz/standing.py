"""Requests that can succeed, as one choice among random ones: what they name is made to stand first.

Some operations need what random input never holds, as the offset of an upload, the password of today, or the name of a run that
was discarded. Without these only their refusals would be tried.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from schemathesis import Case
from schemathesis.generation.meta import TestPhase
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.core import people, recipes, runs, uploads
from backend.core.datasets import store
from backend.core.models import Artifact, Operation, Role, Run, User
from backend.core.people import Identity
from backend.core.recipe import read_recipe
from backend.core.uploads import Received
from backend.web.api.uploads import PIECE
from tests.fuzz.findings import Figures, Finding
from tests.support import gallery
from tests.support.artifacts import publish
from tests.support.webs import Web

PASSWORD, NEXT_PASSWORD = "four quiet words here", "four other quiet words"
HUB_MODEL = "Qwen/Qwen3-0.6B"
SHARE = 0.5
"""Of the valid requests of operations that need something, how many get it."""
ROWS = "".join(json.dumps(row) + "\n" for row in [*gallery.rows(12), *gallery.rows(4)])
"""A file with rows that repeat, so that there is something to mend. A text of ASCII: Schemathesis takes a body of bytes that is
set by hand for one that breaks the schema."""
FILES = {"adapter_model.safetensors": b"weights", "README.md": b"# Owls\n"}


@dataclass
class Badge:
    """The token of somebody with a role. Fuzzing takes the one or the other away now and then: another person follows."""

    web: Web
    role: Role
    hash: str
    held: str = ""

    def secret(self) -> str:
        with self.web.session() as session:
            known = people.find_bearer(session, self.held) if self.held else None
            if known and known.role == self.role:
                return self.held
            who = people.create(session, f"{self.role} {secrets.token_hex(4)}", self.hash, self.role, by=None)
            self.held = people.create_token(session, who, "fuzz", role=self.role, days=9, by=who.id).secret
            session.commit()
        return self.held


@dataclass(frozen=True)
class Given:
    """What a request gets in place of what was random. What is not named here stays."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    media_type: str = "application/json"
    cookie: str = ""
    """Of a sign-in that asks instead of the token."""

    def into(self, case: Case[Any]) -> None:
        case.path_parameters.update(self.path)
        if self.query is not None:
            case.query = dict(self.query)
        case.headers.update(self.headers)
        if self.body is not None:
            case.body, case.media_type = self.body, self.media_type
        if self.cookie:
            case.headers.pop("Authorization", None)
            case.cookies["studio"] = self.cookie


@dataclass(frozen=True)
class Maker:
    """Makes what a request needs, as its asker's own."""

    web: Web
    session: Session
    who: Identity
    hash: str
    """Of `PASSWORD`."""
    draw: Random

    @property
    def user(self) -> User:
        return self.session.get_one(User, self.who.id)

    def name(self) -> str:
        return f"standing-{secrets.token_hex(4)}"

    def file(self) -> Received:
        """A file of rows that has come."""
        folder = self.web.settings.folder("uploads")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name()}.body"
        path.write_text(ROWS)
        return Received(path, hashlib.sha256(ROWS.encode()).hexdigest(), len(ROWS))

    def data_set(self) -> str:
        received = self.file()
        upload = store.upload(self.name(), "rows.jsonl", received, owner_id=self.who.id)
        store.commit_version(self.session, upload, store.prepare(upload, self.web.settings))
        received.path.unlink()
        return upload.name

    def run(self) -> Run:
        """A run that waits for a worker."""
        recipe = read_recipe(recipe_of(self.name())).recipe
        model = {"path": gallery.MODEL, "revision": None}
        return runs.create(self.session, recipe=recipe, model=model, data=[], owner_id=self.who.id)

    def artifact(self) -> Artifact:
        def write(folder: Path) -> None:
            for name, content in FILES.items():
                (folder / name).write_bytes(content)

        return publish(self.session, self.web.settings, self.run(), "adapter", write)

    def upload(self) -> uploads.Session:
        """One that waits for its first byte."""
        said = {"dataset": self.name(), "filename": "rows.jsonl"}
        return uploads.create(self.web.settings.folder("uploads"), len(ROWS), said, str(self.who.id), len(ROWS))

    def sign_in(self) -> tuple[str, Identity]:
        """A cookie, and whom it stands for."""
        cookie = people.sign_in(self.session, self.user, "Firefox on Linux", hours=1)
        found = people.find_session(self.session, cookie)
        assert found
        return cookie, found


Way = Callable[[Maker], Given]


def recipe_of(name: str) -> dict[str, Any]:
    """A recipe that this studio can launch."""
    return gallery.recipe(gallery.STORIES[0]) | {"name": name}


# ---- what each operation needs --------------------------------------------------------------------------------------


def signed_in(make: Maker, path: Mapping[str, str] | None = None, body: Any = None) -> Given:
    """Tokens may not do this, so a browser asks."""
    cookie, identity = make.sign_in()
    return Given(path=path or {}, headers={"X-CSRF-Token": identity.csrf_token}, body=body, cookie=cookie)


def another_sign_in(make: Maker) -> Given:
    _cookie, other = make.sign_in()
    return signed_in(make, {"name": other.credential[:16]})


def password(make: Maker) -> Given:
    make.user.password_hash = make.hash  # an earlier request may have changed it
    return signed_in(make, body={"old": PASSWORD, "new": NEXT_PASSWORD})


def token(make: Maker) -> Given:
    return signed_in(make, body={"name": make.name(), "role": make.who.role, "days": make.draw.choice((1, 90, None))})


def saved_recipe(make: Maker) -> Given:
    name = make.name()
    recipes.save(make.session, name, recipe_of(name), by=make.who.id)
    return Given({"recipe": name})


def recipe_to_save(make: Maker) -> Given:
    return Given(body={"name": make.name(), "recipe": recipe_of(make.name())})


def recipe_to_check(make: Maker) -> Given:
    return Given(body=recipe_of(make.name()))


def file_of_rows(make: Maker) -> Given:
    query = {"filename": "rows.jsonl", "skip_bad_rows": make.draw.choice(("true", "false"))}
    return Given({"name": make.name()}, query, body=ROWS, media_type="application/octet-stream")


def beginning_of_rows(_make: Maker) -> Given:
    query = {"filename": "rows.jsonl", "size": len(ROWS)}
    return Given(query=query, body=ROWS, media_type="application/octet-stream")


def data_set_to_mend(make: Maker) -> Given:
    return Given({"name": make.data_set()}, body={"cleaner": "repeats", "version": make.draw.choice((1, None))})


def deleted_data_set(make: Maker) -> Given:
    name = make.data_set()
    store.delete(make.session, name)
    return Given({"name": name})


def new_upload(make: Maker) -> Given:
    said = {"dataset": make.name(), "filename": "rows.jsonl"}
    words = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in said.items())
    return Given(headers={"Upload-Length": str(len(ROWS)), "Upload-Metadata": words})


def standing_upload(make: Maker) -> Given:
    return Given({"upload": str(make.upload().id)})


def piece_of_upload(make: Maker) -> Given:
    """The whole file, a beginning, or nothing."""
    upload = make.upload()
    body = ROWS[: make.draw.choice((len(ROWS), len(ROWS) // 2, 0))]
    return Given({"upload": str(upload.id)}, headers={"Upload-Offset": "0"}, body=body, media_type=PIECE)


def artifact(make: Maker) -> Given:
    return Given({"artifact": str(make.artifact().id)})


def file_of_artifact(make: Maker) -> Given:
    return Given({"artifact": str(make.artifact().id), "file": make.draw.choice(list(FILES))})


def two_runs(make: Maker) -> Given:
    """Of the oldest, which have curves."""
    oldest = make.session.scalars(select(Run.id).order_by(Run.created_at).limit(6)).all()
    return Given(query={"run": [str(each) for each in make.draw.sample(oldest, 2)]})


def run_to_amend(make: Maker) -> Given:
    return Given({"run": str(make.run().id)}, body={"field": "training.learning_rate", "value": 1e-4})


def discarded_run(make: Maker) -> Given:
    run = make.run()
    runs.stop(make.session, run.id, keep=False)
    return Given({"run": str(run.id)})


def operation(make: Maker) -> Given:
    """One that goes on, which nobody carries out."""
    about = {"name": make.name(), "source_name": "rows.jsonl"}
    row = Operation(kind="ingest", state="running", input=about, total=len(ROWS), owner_id=make.who.id)
    make.session.add(row)
    make.session.flush()
    return Given({"operation": str(row.id)})


def model_to_download(_make: Maker) -> Given:
    return Given(body={"id": HUB_MODEL})


API = "/api/v1"
WAYS: dict[str, Way] = {
    f"DELETE {API}/me/sessions": signed_in,
    f"DELETE {API}/me/sessions/{{name}}": another_sign_in,
    f"PUT {API}/me/password": password,
    f"POST {API}/tokens": token,
    f"GET {API}/recipes/{{recipe}}": saved_recipe,
    f"GET {API}/recipes/{{recipe}}/versions": saved_recipe,
    f"POST {API}/recipes/{{recipe}}/launch": saved_recipe,
    f"DELETE {API}/recipes/{{recipe}}": saved_recipe,
    f"POST {API}/recipes": recipe_to_save,
    f"POST {API}/preflight": recipe_to_check,
    f"PUT {API}/datasets/{{name}}": file_of_rows,
    f"POST {API}/datasets/probe": beginning_of_rows,
    f"POST {API}/datasets/{{name}}/mend": data_set_to_mend,
    f"POST {API}/datasets/{{name}}/restore": deleted_data_set,
    f"POST {API}/uploads": new_upload,
    f"HEAD {API}/uploads/{{upload}}": standing_upload,
    f"PATCH {API}/uploads/{{upload}}": piece_of_upload,
    f"DELETE {API}/uploads/{{upload}}": standing_upload,
    f"GET {API}/artifacts/{{artifact}}": artifact,
    f"GET {API}/artifacts/{{artifact}}/download": artifact,
    f"GET {API}/artifacts/{{artifact}}/files/{{file}}": file_of_artifact,
    f"GET {API}/compare": two_runs,
    f"POST {API}/runs/{{run}}/amendments": run_to_amend,
    f"POST {API}/runs/{{run}}/restore": discarded_run,
    f"GET {API}/operations/{{operation}}": operation,
    f"POST {API}/operations/{{operation}}/cancel": operation,
    f"POST {API}/models/download": model_to_download,
}


@dataclass(frozen=True)
class Standing:
    """Gives requests of random fuzzing what they need, now and then. Those that are to break the schema stay as they are, and so
    do the boundaries of coverage, each of which comes once."""

    badge: Badge
    draw: Random
    figures: Figures
    """Told what could not be made: Schemathesis takes an error here for a case that is none, and is silent."""

    def provide(self, case: Case[Any]) -> None:
        label, meta = case.operation.label, case.meta
        if label not in WAYS or meta is None or meta.phase.name != TestPhase.FUZZING:
            return
        if meta.generation.mode.is_negative or self.draw.random() >= SHARE:
            return
        try:
            given = self.given(label)
        except Exception as error:
            what = f"what it needs could not be made: {type(error).__name__}"
            self.figures.found(Finding(label, what, traceback.format_exc()))
        else:
            given.into(case)

    def given(self, label: str) -> Given:
        """What a request for this operation needs, made for whoever holds the badge."""
        with self.badge.web.session() as session:
            who = people.find_bearer(session, self.badge.secret())
            assert who
            given = WAYS[label](Maker(self.badge.web, session, who, self.badge.hash, self.draw))
            session.commit()
        return given
