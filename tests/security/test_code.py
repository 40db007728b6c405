"""Nothing that comes with a model, a message or a file is ever run.

LLaMA-Factory CVE-2026-58116, CVE-2025-46567 and CVE-2025-53002; Axolotl CVE-2026-86169 (None is not False);
text-generation-webui CVE-2025-12488; transformers CVE-2026-5241 and CVE-2026-4372; Unsloth Zoo CVE-2026-93348 and BentoML
CVE-2026-44346 (a newline in a configuration), CVE-2025-27520, CVE-2025-32375; PEFT #2888 and #3085; PyTorch CVE-2025-32434
and CVE-2026-24747; Celery CVE-2021-23727; ms-swift CVE-2025-50460; PyArrow CVE-2023-47248; accelerate CVE-2026-69112.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend.core import queue
from backend.core.assignment import JOURNAL, Assignment
from backend.core.errors import Invalid
from backend.core.queue import POKE
from backend.core.recipe import Recipe, read_recipe
from backend.core.settings import Settings
from backend.web.app import create_app
from backend.web.reference import document
from tests.security.asking import asked
from tests.security.world import MODEL, RECIPE, World
from tests.support.rows import chat_rows, write_rows
from worker.supervisor import open_socket, poke_path
from worker.trainer.journal import Journal
from worker.trainer.train import load_all

ROOT = Path(__file__).resolve().parents[2]
CODE = "import pathlib; pathlib.Path({canary!r}).touch()\n"


class Payload:
    """A pickle that touches a file when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def change(folder: Path, name: str, **words: Any) -> None:
    file = folder / name
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | words))


Plant = Callable[[Path, Path], None]


def coded(name: str, **words: Any) -> Plant:
    """A configuration that asks for the code beside it."""

    def plant(folder: Path, canary: Path) -> None:
        for module in ("canary.py", "modeling_canary.py", "org/repo.py"):
            (folder / module).parent.mkdir(exist_ok=True)
            (folder / module).write_text(CODE.format(canary=str(canary)))
        change(folder, name, **words)

    return plant


def pickled(name: str) -> Plant:
    def plant(folder: Path, canary: Path) -> None:
        if name.startswith("model."):
            (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Payload(canary)))

    return plant


def broken_line(folder: Path, canary: Path) -> None:
    """Where a name is written into a line of code, what stands behind its newline is a line of its own."""
    coded("config.json", model_type=f"x\n{CODE.format(canary=str(canary))}")(folder, canary)


def linked(folder: Path, _canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/passwd")


def piped(folder: Path, _canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


TEMPLATES = "additional_chat_templates"
"""A folder of which each file is a template: whatever a link there leads to would be shown with every row."""


def template_linked(folder: Path, _canary: Path) -> None:
    (folder / TEMPLATES).mkdir()
    (folder / TEMPLATES / "default.jinja").symlink_to("/etc/hostname")


def templates_linked(folder: Path, _canary: Path) -> None:
    (folder / "kept").mkdir()
    (folder / "kept" / "default.jinja").write_text("{{ messages }}")
    (folder / TEMPLATES).symlink_to("kept")


def template_piped(folder: Path, _canary: Path) -> None:
    (folder / TEMPLATES).mkdir()
    os.mkfifo(folder / TEMPLATES / "default.jinja")


def configured(**words: Any) -> Plant:
    return lambda folder, _canary: change(folder, "config.json", **words)


def indexed(shard: str) -> Plant:
    def plant(folder: Path, _canary: Path) -> None:
        (folder / "model.safetensors").unlink()
        change(folder, "model.safetensors.index.json", weight_map={"w": shard})

    return plant


ADAPTER = "adapter_config.json"
LORA = {"peft_type": "LORA", "base_model_name_or_path": MODEL}
REFUSED: dict[str, Plant] = {
    "auto_map": coded(
        "config.json", auto_map={"AutoModelForCausalLM": "modeling_canary.Evil", "AutoConfig": "canary.C"}
    ),
    "tokenizer auto_map": coded("tokenizer_config.json", auto_map={"AutoTokenizer": ["canary.T", None]}),
    "custom kernels": coded("config.json", _attn_implementation_internal="org/repo"),
    "custom kernels by another key": coded("config.json", attn_implementation="org/repo"),
    "custom kernels of a part": coded("config.json", attn_implementation={"": "sdpa", "text_config": "org/repo"}),
    "custom experts": coded("config.json", experts_implementation="org/repo"),
    "a newline in a type": broken_line,
    "an adapter's library": coded(ADAPTER, **LORA, auto_mapping={"parent_library": "canary", "base_model_class": "C"}),
    "an adapter's tokenizer": coded(ADAPTER, **LORA, tokenizer_kwargs={"trust_remote_code": True}),
    "pickled weights": pickled("model.bin"),
    "a pickle named safetensors": pickled("model.safetensors"),
    "a shard elsewhere": indexed("../../x.safetensors"),
    "a shard of the system": indexed("/etc/passwd"),
    "a link": linked,
    "a pipe": piped,
    "a link in a subfolder": template_linked,
    "a pipe in a subfolder": template_piped,
    "a subfolder that is a link": templates_linked,
    "layers without end": configured(num_hidden_layers=10**6),
    "layers without weights": configured(num_hidden_layers=5),
    "a vocabulary without end": configured(vocab_size=10**9),
}
"""What a model may bring: it cannot be used."""
HARMLESS: dict[str, Plant] = {
    "trust": coded("config.json", trust_remote_code=True),
    "tokenizer trust": coded(
        "tokenizer_config.json", trust_remote_code=True, tokenizer_kwargs={"trust_remote_code": True}
    ),
    "a pickle beside": pickled("optimizer.pt"),
    "arguments beside": pickled("training_args.bin"),
    "any name": pickled("notes.txt"),
}
"""What may lie in it: nobody looks."""


CARELESS = {
    "auto_map": "import modeling_canary",
    "custom kernels": "import runpy; runpy.run_path('org/repo.py')",
    "pickled weights": "import pickle; pickle.load(open('model.bin', 'rb'))",
    "a newline in a type": "import json; exec('# ' + json.load(open('config.json'))['model_type'])",
}
"""What a studio would do that falls for it."""


@pytest.mark.parametrize("kind", CARELESS)
def test_what_is_planted_is_noticed_where_it_runs(tiny_base: Path, tmp_path: Path, kind: str) -> None:
    canary, folder = tmp_path / "ran", Path(shutil.copytree(tiny_base, tmp_path / "base"))
    REFUSED[kind](folder, canary)
    subprocess.run([sys.executable, "-c", CARELESS[kind]], cwd=folder, check=True)
    assert canary.exists()


@contextmanager
def planted(world: World, tiny_base: Path, plant: Plant, canary: Path) -> Iterator[str]:
    name = f"hostile-{uuid4().hex[:8]}"
    folder = Path(shutil.copytree(tiny_base, world.web.settings.folder("models") / name))
    plant(folder, canary)
    yield name
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", [*REFUSED, *HARMLESS])
def test_a_hostile_model_runs_nothing(world: World, tiny_base: Path, tmp_path: Path, kind: str) -> None:
    canary, plant = tmp_path / "ran", (REFUSED | HARMLESS)[kind]
    with planted(world, tiny_base, plant, canary) as name, world.client("owner") as client:
        looked = client.get("/api/v1/models/inspect", params={"path": name})
        checked = client.post("/api/v1/preflight", json=RECIPE | {"model": name})
        client.get("/models")
        assert looked.status_code < 500 > checked.status_code, (looked.text, checked.text)
        can_be_used = looked.is_success and not looked.json()["problem"]
        can_be_launched = checked.is_success and not checked.json()["problems"]
        assert (can_be_used, can_be_launched) == (kind in HARMLESS,) * 2, (looked.text, checked.text)
    assert not canary.exists()


@pytest.mark.parametrize("kind", [*REFUSED, *HARMLESS])
def test_a_trainer_that_loads_a_hostile_model_runs_nothing(tiny_base: Path, tmp_path: Path, kind: str) -> None:
    """A worker has a folder of its own, which the launch has never seen."""
    canary, folder = tmp_path / "ran", Path(shutil.copytree(tiny_base, tmp_path / "base"))
    (REFUSED | HARMLESS)[kind](folder, canary)
    data = [{"name": "rows", "version": 1, "path": write_rows(tmp_path / "rows.parquet", chat_rows(1))}]
    given = {"run": "a-run", "attempt": 1, "folder": tmp_path, "model_folder": folder, "data": data, "recipe": RECIPE}
    with Journal(tmp_path / JOURNAL) as journal, pytest.raises(Invalid) if kind in REFUSED else nullcontext():
        _, loaded = load_all(Assignment.model_validate(given), journal)
        assert loaded.model.get_input_embeddings().weight.isfinite().all()
    assert not canary.exists()


@pytest.mark.parametrize("name", ["arrow.py_extension_type", "arrow.extension_type"])
def test_a_parquet_whose_type_is_a_pickle_runs_nothing(world: World, tmp_path: Path, name: str) -> None:
    """PyArrow CVE-2023-47248: the Arrow schema that such a file carries says how its column is to be made, in a pickle."""
    canary = tmp_path / "ran"
    told = {"ARROW:extension:name": name, "ARROW:extension:metadata": pickle.dumps(Payload(canary))}
    sink, columns = io.BytesIO(), [pa.field("instruction", pa.string(), metadata=told), pa.field("output", pa.string())]
    pq.write_table(pa.table([["What eats mice?"], ["The owl."]], schema=pa.schema(columns)), sink)
    whole: Any = {"filename": "a.parquet", "size": sink.tell()}
    with world.client("owner") as client:
        for way in (
            client.post("/api/v1/datasets/probe", params=whole, content=sink.getvalue()),
            client.put("/api/v1/datasets/typed", params=whole, content=sink.getvalue()),
        ):
            assert way.is_success, way.text
        [row] = client.get("/api/v1/datasets/typed/rows").json()["rows"]
        assert [each["content"] for each in row["messages"]] == ["What eats mice?", "The owl."]
        assert client.delete("/api/v1/datasets/typed").is_success
    assert not canary.exists()


def test_no_setting_lets_code_in(here: Settings) -> None:
    """Neither a recipe nor any body that the API takes has a field that says whom to trust."""
    schema = json.dumps([create_app(here).openapi(), Recipe.model_json_schema()])
    for word in ("trust_remote_code", "auto_map", "code_revision", "chat_template_kwargs", "tokenizer_kwargs"):
        assert word not in schema


SMUGGLED: dict[str, Any] = {
    "chat_template_kwargs": {"chat_template": "{{ ''.__class__.__mro__ }}", "tokenize": True},
    "chat_template": "{{ ''.__class__.__mro__ }}",
    "trust_remote_code": True,
    "_attn_implementation_internal": "org/repo",
}
"""What such fields are called elsewhere."""
WHOLE = read_recipe(RECIPE).recipe.model_dump(mode="json")


@pytest.mark.parametrize("name", SMUGGLED)
def test_no_route_takes_a_field_that_lets_code_in(world: World, name: str) -> None:
    """At the top of a body and in each part of it, and nowhere but for that: without the field the same body is taken."""
    wrong, routes = [], taking_json(world)
    with world.client("admin") as client:
        for route in routes:
            method, path, words = asked(route, world.things("admin"))
            whole = words.pop("json", {})
            for body in [whole, WHOLE] if whole.items() >= RECIPE.items() else [whole]:
                for smuggling in with_field(body, name):
                    refused = client.request(method, path, json=smuggling, **words)
                    if (refused.status_code, name in refused.text) != (422, True):
                        wrong.append(f"{route} {smuggling}: {refused.status_code} {refused.text[:200]}")
                if not client.request(method, path, json=body, **words).is_success:
                    wrong.append(f"{route} {body} is refused anyway")
    assert wrong == []
    assert len(routes) > 12


def taking_json(world: World) -> list[str]:
    """Every route that takes JSON."""
    paths = document(create_app(world.web.settings))["paths"]
    return [
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method, route in methods.items()
        if "application/json" in route.get("requestBody", {}).get("content", {})
    ]


def with_field(body: Any, name: str) -> Iterator[Any]:
    """`body` with the field in one of its objects, for each of them."""
    match body:
        case dict():
            yield body | {name: SMUGGLED[name]}
            for key, inner in body.items():
                yield from (body | {key: each} for each in with_field(inner, name))
        case list():
            for at, inner in enumerate(body):
                yield from ([*body[:at], each, *body[at + 1 :]] for each in with_field(inner, name))


BANNED = {
    "S301": "import pickle\n\npickle.loads(b'')\n",
    "S302": "import marshal\n\nmarshal.loads(b'')\n",
    "S307": "eval('1')\n",
    "S102": "exec('1')\n",
    "S506": "import yaml\n\nyaml.load('')\n",
    "S602": "import subprocess\n\nsubprocess.run('x', shell=True)\n",
    "S605": "import os\n\nos.system(input())\n",
    "TID251": "import torch\n\ntorch.load('x')\n",
}


@pytest.mark.parametrize("rule", BANNED)
def test_what_runs_what_it_reads_is_banned_in_our_own_code(rule: str) -> None:
    ruff = (
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--stdin-filename",
        "backend/planted.py",
        "--output-format",
        "concise",
    )
    found = subprocess.run([*ruff, "-"], input=BANNED[rule], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1, found.stderr
    assert rule in found.stdout


def test_a_worker_runs_no_pickle_and_hears_the_next_hint(
    valkey_url: str, studio_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message lies in the very queue that the studio's workers read; it is dropped, and they go on."""
    canary, name = tmp_path / "ran", "box"
    monkeypatch.chdir(studio_home)
    configured = Settings(home=Path(), REDIS_URL=valkey_url)  # a short path: a socket's has at most 107 bytes
    supervisor = open_socket(poke_path(configured, name))
    assert supervisor is not None
    app = queue.celery_app(valkey_url)
    with app.connection_for_write() as connection:
        box = app.amqp.queues["studio"]
        where = {"exchange": box.exchange, "routing_key": box.routing_key, "declare": [box]}
        kinds = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
        connection.Producer().publish(
            pickle.dumps(Payload(canary)), **where, **kinds, headers={"task": POKE, "id": "1"}
        )
    app.send_task(POKE, args=["1"])
    with worker(studio_home, valkey_url, name):
        assert heard(supervisor) == b"look"
    assert not canary.exists()


@contextmanager
def worker(home: Path, valkey_url: str, name: str) -> Iterator[None]:
    environment = os.environ | {
        "STUDIO_HOME": str(home),
        "REDIS_URL": valkey_url,
        "DATABASE_URL": "postgresql://nowhere/x",
        "STUDIO_WORKER_NAME": name,
    }
    command = (sys.executable, "-m", "celery", "-A", "worker.main", "worker", "--pool=solo", "--without-gossip")
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def heard(supervisor: socket.socket) -> bytes:
    with supervisor:
        supervisor.settimeout(120)
        return supervisor.recv(16)
