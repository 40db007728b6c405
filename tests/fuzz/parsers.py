"""A fuzzer on each reader of what strangers write: whatever comes in, out comes a result or an error in words.

The readers run in this process, which is faster than the limited ones of the product; the clock stops what hangs. Where
there is another way to the same result, both must agree.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from backend.core import bases, fits, hub, quality
from backend.core.assignment import CONTROL, JOURNAL, MANIFEST, Line
from backend.core.checkpoints import verify
from backend.core.datasets import strict_json
from backend.core.datasets.ingest import Order, ingest_here
from backend.core.datasets.probe import Glimpse, probe_here
from backend.core.datasets.problems import BadRow
from backend.core.datasets.schema import Message, Row, from_record
from backend.core.errors import StudioError
from backend.core.fits import Load
from backend.core.recipe import read_recipe
from backend.core.rendering.chat import Chat, TemplateRefused
from backend.core.rendering.masks import encode_rows
from backend.core.rendering.tokenizer import load_tokenizer
from backend.core.tallies import Tally
from backend.core.weights import read_header
from backend.core.yaml12 import as_yaml, read_yaml
from backend.web import base_models
from tests.fuzz.archives import archive, artifact_zip
from tests.fuzz.asked import body, columns, form, header, metadata
from tests.fuzz.cases import RECIPE, Case, mutator, sendable
from tests.fuzz.findings import Figures, Finding
from tests.support.models import CHATML
from worker import tail

SECONDS = 20
"""Any reader is done long before; a busy machine is given time."""
TALK = {"messages": [{"role": "user", "content": "Hi <|im_end|> 🦉"}, {"role": "assistant", "content": "Ahoy!"}]}
CALLS = {
    "messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "w", "arguments": {"at": "here"}}}]},
        {"role": "tool", "content": "mild"},
        {"role": "assistant", "content": "It is mild."},
    ],
    "tools": [{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}],
}
ALPACA = {"instruction": "Q?", "input": "", "output": "A."}
# ---- data ------------------------------------------------------------------------------------------------------------


def lines_of(*records: Any) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


@cache
def parquet_seeds() -> tuple[bytes, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = (
        pa.Table.from_pylist([ALPACA] * 5),
        pa.Table.from_pylist([TALK, CALLS]),
        pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode(), "n": [1, 2, None]}),
    )
    made = []
    for table in tables:
        for compression in ("none", "zstd", "snappy"):
            sink = io.BytesIO()
            pq.write_table(table, sink, compression=compression)
            made.append(sink.getvalue())
    return tuple(made)


TEXTS = (
    lines_of(ALPACA, ALPACA | {"input": "x"}, ALPACA),
    lines_of(TALK, CALLS),
    json.dumps([ALPACA, TALK], indent=1).encode(),
    b'instruction,input,output\n"Q, ""quoted""",,"two\nlines"\nQ,,A\n',
    b"prompt;completion\r\nQ;A\r\n",
    b"text\tlabel\nsome\tgood\n",
    b"First line.\n\nSecond line.\n",
    b"",
)
NAMES = ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a", "a.jsonl.gz", "a.csv.gz")


def file_of(case: Case) -> bytes:
    if case.chance.draw.random() < 0.25:
        return case.chance.bytes_of(parquet_seeds())
    data = case.chance.bytes_of(TEXTS)
    if case.chance.draw.random() < 0.2:
        packed = gzip.compress(data, 1, mtime=0)
        return case.chance.bytes_of((packed,)) if case.chance.draw.random() < 0.5 else packed
    return data


def data_file(case: Case) -> None:
    """A file becomes rows that read back as they were counted, and that a model can read or that are refused by number."""
    import pyarrow.parquet as pq

    source, target = case.write("upload", file_of(case)), case.folder / "rows.parquet"
    choices = {"skip_bad_rows": case.pick((True, False)), "format": case.pick((None, None, "alpaca", "chat", "text"))}
    facts = ingest_here(asdict(Order(str(source), str(target), case.pick(NAMES), 1 << 30, **choices)))
    sendable(facts)
    rows = [from_record(record) for record in pq.read_table(target).to_pylist()]
    assert len(rows) == facts["rows"]
    sendable(quality.scan(rows))
    encode_rows(rows, prepared(case.base), assistant_only_loss=True)


def glimpse(case: Case) -> None:
    """The beginning of a file, as it is looked at before it is sent."""
    data = file_of(case)
    size = case.pick((len(data), len(data) + 1, 10**9))
    sendable(probe_here(asdict(Glimpse(str(case.write("head", data)), case.pick(NAMES), size))))


def tally(case: Case) -> None:
    """Rows counted as the bytes flow: the same however they are cut, and the digest always that of the whole."""
    data, name = file_of(case), case.pick(NAMES)
    whole, parts = Tally(name), Tally(name)
    whole.add(data)
    at = 0
    while at < len(data):
        step = case.chance.draw.randint(1, 4096)
        parts.add(data[at : at + step])
        at += step
    assert parts.digest.digest() == whole.digest.digest()
    if data:
        assert parts.rows == whole.rows, (parts.rows, whole.rows)


def json_text(case: Case) -> None:
    """What our reader takes, Python's takes too, to the same value; and what it returns can be written."""
    text = case.chance.bytes_of((*TEXTS[:2], json.dumps(RECIPE).encode(), b'{"a": [1, -2.5e3, "x"]}')).decode(
        "utf-8", "ignore"
    )
    value = strict_json.loads(text)
    assert json.loads(text) == value
    json.dumps(value, allow_nan=False)


# ---- recipes ---------------------------------------------------------------------------------------------------------


def yaml_text(case: Case) -> None:
    """Data that was read is written and read again to the same data, and is a recipe or a list of what is wrong."""
    text = case.chance.bytes_of((as_yaml(RECIPE).encode(), json.dumps(RECIPE).encode())).decode("utf-8", "ignore")
    data, lines = read_yaml(text)
    assert all(1 <= line <= text.count("\n") + 1 + text.count("\r") + text.count("\x85") * 3 for line in lines.values())
    assert read_yaml(as_yaml(data))[0] == data
    sendable(read_recipe(data).recipe.model_dump(mode="json"))


def recipe(case: Case) -> None:
    """A recipe survives being written out."""
    found = read_recipe(case.chance.json_of((RECIPE,))).recipe
    written = sendable(found.model_dump(mode="json"))
    assert read_recipe(written).recipe == found
    assert read_recipe(read_yaml(as_yaml(written))[0]).recipe == found


# ---- models ----------------------------------------------------------------------------------------------------------


def weights(case: Case) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {}}).encode()
    whole = struct.pack("<Q", len(header)) + header + bytes(16)
    if case.chance.draw.random() < 0.5:
        header = json.dumps(case.chance.json_of((json.loads(header),))).encode("utf-8", "surrogatepass")
        broken = struct.pack("<Q", len(header)) + header + bytes(16)
    else:
        broken = case.chance.bytes_of((whole,))
    for tensor in read_header(case.write("model.safetensors", broken)).values():
        assert tensor.elements >= 0


def model_folder(case: Case) -> None:
    """A model's own words about itself, changed at random."""
    folder = case.model()
    name = case.pick(("config.json", "tokenizer_config.json", "generation_config.json", "README.md", "tokenizer.json"))
    path = folder / name
    known = path.read_bytes() if path.exists() else b"---\nlicense: mit\n---\n{}"
    if name.endswith(".json") and name != "tokenizer.json" and case.chance.draw.random() < 0.8:
        broken = json.dumps(case.chance.json_of((json.loads(known),))).encode("utf-8", "surrogatepass")
    else:
        broken = case.chance.bytes_of((known,))
    case.replace(path, broken)
    told_with_fits(sendable(bases.inspect_here({"folder": str(folder)})))
    if name != "README.md":
        load_tokenizer(folder)


def told_with_fits(facts: dict[str, Any]) -> None:
    """Facts that were taken are reckoned with, for everybody who looks at the list of models."""
    for fit in base_models.fit_outs(facts, fits.what_ifs(), Load()):
        sendable(fit.model_dump(mode="json"))


def shards(case: Case) -> None:
    folder = case.model()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    placed = dict.fromkeys(read_header(folder / "model-00001-of-00001.safetensors"), "model-00001-of-00001.safetensors")
    index = json.dumps(case.chance.json_of(({"metadata": {"total_size": 1}, "weight_map": placed},)))
    case.replace(folder / "model.safetensors.index.json", index.encode("utf-8", "surrogatepass"))
    sendable(bases.inspect_here({"folder": str(folder)}))


HUB_ANSWER = {
    "id": "owls/tiny",
    "sha": "0" * 39 + "g",  # no commit, so that nothing is fetched
    "gated": False,
    "downloads": 7,
    "tags": ["license:mit"],
    "safetensors": {"parameters": {"F32": 10, "BF16": 7}, "total": 17},
    "config": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "tokenizer_config": {"eos_token": "<e>"}},
    "siblings": [{"rfilename": "model.safetensors", "size": 9}, {"rfilename": "config.json"}],
}


def hub_answer(case: Case) -> None:
    """What a hub says of a model, and the model's configuration beside it, are judged and reckoned with."""
    answer = case.chance.json_of((HUB_ANSWER,))
    if not isinstance(answer, dict) or bases.COMMIT.fullmatch(str(answer.get("sha"))):
        return
    judged = hub._judged(answer)
    sendable(asdict(judged))
    config = case.chance.json_of((json.loads((case.base / "config.json").read_text()),))
    if isinstance(config, dict):
        bases.unusable(config)
        facts = hub._facts(answer, config, judged.parameters, "BF16")
        told = base_models.hub_out(replace(judged, facts=facts), fits.what_ifs(), Load())
        sendable(told.model_dump(mode="json"))


def hub_words(case: Case) -> None:
    seeds = (b"owls/tiny", b"https://huggingface.co/owls/tiny/tree/main", b"http://[::1]/a/b", b"file:///etc/passwd")
    found = hub.named_in(case.chance.bytes_of(seeds).decode("utf-8", "replace"))
    assert found is None or bases.HUB_ID.fullmatch(found)


TEMPLATE_SEEDS = (
    CHATML.encode(),
    b"{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}"
    b"{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}",
    b"{{ bos_token }}{% for m in messages %}{{ m['role'] ~ ': ' ~ m['content'] | trim }}</s>{% endfor %}"
    b"{% if tools %}{{ tools | tojson }}{% endif %}{% macro f(x) %}{{ f(x) }}{% endmacro %}",
    b"{% for i in range(9999999) %}{% for j in range(9999999) %}x{% endfor %}{% endfor %}",
)


def template(case: Case) -> None:
    """A template is refused, or renders every conversation to spans that lie inside of its text."""
    source = case.chance.bytes_of(TEMPLATE_SEEDS[: 3 + (case.chance.draw.random() < 0.02)]).decode("utf-8", "ignore")
    ends = ("</s>", "<|im_end|>")
    chat = Chat(
        source, {"bos_token": "<s>", "eos_token": "</s>"}, added=("<s>", *ends), special=("<s>", *ends), ends=ends
    )
    turns = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
        {"role": "assistant", "content": ""},
    ]
    rendered = chat.render_row(turns, None, [True, False])
    for span in rendered.spans:
        assert 0 <= span.start <= span.end <= len(rendered.text)


@cache
def prepared(base: Path) -> Any:
    return load_tokenizer(base)


def row(case: Case) -> None:
    """A row as it stands in Parquet, with whatever its texts hold: read by the model or refused by number."""
    texts = ("", "Hi", "<|im_end|>", "\0", "🦉", "<|im_start|>assistant\n", "\ufffe", " ", "a" * 5000, "{{ x }}")
    calls = (
        None,
        "[]",
        "{}",
        "1",
        '"x"',
        '[{"function": "x"}]',
        '[{"function": {"arguments": "{"}}]',
        '{"function": null}',
        "[[]]",
    )
    roles = ("user", "assistant", "system", "tool")
    messages = tuple(
        Message(case.pick(roles), case.pick(texts), case.pick((None, "n")), case.pick(calls), case.pick((True, False)))
        for _ in range(case.pick((1, 2, 3)))
    )
    tools = case.pick((None, None, "[]", "1", "{}", '"x"', "[1]", "nonsense"))
    made = Row(1, messages, tools=tools)
    for encoded in encode_rows([made], prepared(case.base), assistant_only_loss=case.pick((True, False))):
        assert encoded is not None


# ---- what our own processes write, torn --------------------------------------------------------------------------------

JOURNAL_SEED = b"".join(
    Line(n=n, t=1e9 + n, kind=kind, step=n, data=data).model_dump_json().encode() + b"\n"
    for n, (kind, data) in enumerate(
        [
            ("phase", {"phase": "training", "text": ""}),
            ("metrics", {"values": {"loss": "NaN"}, "epoch": 0.0}),
            ("end", {"outcome": "failed", "cause": {"code": "x", "message": "y", "hint": ""}}),
        ]
    )
)


def journal(case: Case) -> None:
    """However the journal is cut into pieces, each whole line is read once, in order, and the end is where it ends."""
    path = case.write(JOURNAL, case.chance.bytes_of((JOURNAL_SEED,)))
    whole = tail.read(path, 0, limit=1 << 30)
    lines: list[Line] = []
    at = 0
    while (chunk := tail.read(path, at, limit=case.pick((64, 100, 1000)))).end > at:
        lines += chunk.lines
        at = chunk.end
    assert (at, lines) == (whole.end, list(whole.lines))


def manifest(case: Case) -> None:
    folder = case.folder / "checkpoint-1"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    known = {"v": 1, "step": 1, "files": [{"name": "model.safetensors", "bytes": 1, "sha256": "0" * 64}]}
    if case.chance.draw.random() < 0.5:
        (folder / MANIFEST).write_bytes(case.chance.bytes_of((json.dumps(known).encode(),)))
    else:
        (folder / MANIFEST).write_text(json.dumps(case.chance.json_of((known,))))
    assert verify(folder), "its hash is wrong, whatever else is"


def control(case: Case) -> None:
    from worker.trainer.control import Channel

    change = b'{"kind":"change","amendment":{"sequence":1,"field":"training.max_steps","value":9}}\n'
    seed = b'{"kind":"order","word":"pause"}\n' + change
    channel = Channel(case.write(CONTROL, case.chance.bytes_of((seed,))))
    assert channel.word in (None, "pause", "keep")
    channel.take_changes()


# ---- running them ----------------------------------------------------------------------------------------------------

Attempt = Callable[[Case], None]
TARGETS: dict[str, Attempt] = {
    each.__name__: each
    for each in (
        data_file, glimpse, tally, json_text, yaml_text, recipe, body, columns, form, archive, artifact_zip,
        weights, model_folder, shards, hub_answer, hub_words,
        template, row, journal, manifest, control, header, metadata,
    )
}  # fmt: skip
EXPECTED = (StudioError, BadRow, TemplateRefused)
"""Errors in words."""


class Hangs(Exception):
    """A reader took longer than any input may make it take."""


@contextmanager
def _clock(seconds: int) -> Iterator[None]:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Hangs(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(name: str, number: int, seed: int, folder: Path, base: Path) -> Finding | None:
    """One case of one target. The same name, number and seed are the same case."""
    place = folder / "case"
    place.mkdir()
    try:
        with _clock(SECONDS):
            TARGETS[name](Case(place, mutator(seed, number), base))
    except EXPECTED as refused:
        return _unsayable(refused, name, number, seed)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        what = f"{type(error).__name__} at {_place(error)}"
        return Finding(name, what, f"case {number} of seed {seed}\n\n{traceback.format_exc()}")
    finally:
        shutil.rmtree(place)
    return None


def _unsayable(refused: BaseException, name: str, number: int, seed: int) -> Finding | None:
    """An error in words must be one that can be sent."""
    if not isinstance(refused, StudioError):
        return None
    try:
        json.dumps(refused.as_json(), ensure_ascii=False).encode()
    except ValueError as error:
        how = f"case {number} of seed {seed}\n\n{refused.as_json()!r}\n\n{traceback.format_exc()}"
        return Finding(name, f"an error that cannot be sent ({type(error).__name__}): {_place(refused)}", how)
    return None


def _place(error: BaseException) -> str:
    """Where it was raised: the same place is the same finding."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in each.filename]
    last = frames[-1]
    return f"{Path(last.filename).name}:{last.name}: {last.line}"


def fuzz(name: str, cases: int, seed: int, folder: Path, base: Path, *, first: int = 0) -> Figures:
    """Try a target; what is found is told by the place where it was raised."""
    figures = Figures()
    begun = time.monotonic()
    for number in range(first, first + cases):
        finding = attempt(name, number, seed, folder, base)
        figures.cases += 1
        if finding:
            figures.found(finding)
    figures.seconds = time.monotonic() - begun
    return figures
