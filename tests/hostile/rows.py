"""The table of hostile inputs: what comes in, and what the studio has to say to it.

A row is a number and a title; what proves it is an upload, a request or a model folder of the lists below, or a test that
names the row by `proves`. `tests/hostile/test_table.py` holds the table to be whole.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.hostile import making
from tests.hostile.making import GOOD, MIB, packed, second, talk

Test = TypeVar("Test", bound=Callable[..., object])
Spoil = Callable[[Path], object]
ROWS: dict[int, tuple[str, str]] = {
    1: ("0-byte file", "file is empty"),
    2: ("spaces only", "no rows"),
    3: ("header-only CSV", "no rows"),
    4: ("truncated gzip", "archive damaged"),
    5: ("gzip 1 MB→1 GiB (M: ratio 1028)", "expands past limit"),
    6: ("Parquet 1.24 MB→10 GB; footer claims 1.1 MB (M)", "decoded size over limit"),
    7: ("Parquet 300 B, forged `num_values`", "invalid Parquet"),
    8: ("truncated Parquet", "damaged Parquet"),
    9: ("CSV named .parquet", "content is not Parquet"),
    10: ("Parquet huge footer length", "damaged Parquet"),
    11: ("Arrow bad offsets (25.0.0 segfault PoC)", "invalid Arrow; parser child died safely"),
    12: ("zip `../../x`", "unsafe path"),
    13: ("zip symlink→/etc", "links not allowed"),
    14: ("zip 100k entries", "too many files"),
    15: ("nested zip bomb", "nested archives refused"),
    16: ("tar device node", "unsupported entry"),
    17: ("JSON 100k nesting (raw RecursionError)", "nested too deeply, line N"),
    18: ("`NaN`/`Infinity` (stdlib accepts)", "not valid JSON number"),
    19: ("`1e999`", "number out of range"),
    20: ("5,000-digit integer (raw ValueError)", "number too long"),
    21: ("duplicate `role` key (last wins)", "duplicate key"),
    22: ("lone surrogate (raw UnicodeEncodeError)", "invalid Unicode"),
    23: ("`\\u0000`", "NUL not allowed"),
    24: ("UTF-8 BOM", "accept, strip"),
    25: ("UTF-16/Latin-1", "save as UTF-8, byte N"),
    26: ("1 GB single line", "line too long"),
    27: ("JSON array in .jsonl", "one object per line"),
    28: ("half last line", "line N incomplete"),
    29: ("mixed column types", "field type differs, row N"),
    30: ("ragged CSV", "row N has k columns"),
    31: ("CSV field >131,072 (raw _csv.Error)", "cell too long"),
    32: ("`=HYPERLINK(` cell", "exported with quote prefix"),
    33: ("missing prompt column", "lists found columns"),
    34: ("unknown role", "allowed roles listed"),
    35: ("no assistant turn", "nothing to train on, row N"),
    36: ("empty answers", "empty target, row N"),
    37: ("every row longer than max length", "all labels masked"),
    38: ("special-token text in data", "warn, encode as text"),
    39: ("validation = training rows", "overlap count warning"),
    40: ("`<script>` cell", "shown as text"),
    41: ("SVG upload", "download only"),
    42: ("name `../../etc`", "invalid name"),
    43: ("name `..%252f`", "invalid name"),
    44: ("name `a\\..\\b`", "invalid name"),
    45: ("NUL or CRLF in name", "invalid name"),
    46: ("300-byte name (raw OSError)", "name too long"),
    47: ("name `;touch x`", "invalid name"),
    48: ("RTL-override name", "invalid name"),
    49: ("output_dir absolute", "field not accepted"),
    50: ("model path `/etc`", "outside model folders"),
    51: ("repo with custom code", "remote code disabled"),
    52: ("pickle adapter `.bin`", "convert to safetensors"),
    53: ("pickle renamed .safetensors", "not safetensors"),
    54: ("safetensors header 2^60", "damaged"),
    55: ("safetensors truncated", "damaged"),
    56: ("NaN weights (loads, M)", "non-finite tensor named"),
    57: ("adapter for other base", "shapes differ, expected base"),
    58: ("`parent_library: os`", "unknown adapter key"),
    59: ("`weight_map` `../`", "unsafe shard path"),
    60: ("index naming FIFO", "not a regular file"),
    61: ("template `__class__`", "template refused"),
    62: ("template infinite loops", "template timed out"),
    63: ("YAML `!!python/object`", "tag not allowed"),
    64: ("YAML alias bomb", "too many aliases"),
    65: ("YAML `lr: 1e-4` (a string, M)", "accept as number or say so"),
    66: ("learning rate 0, −1, 1e9", "allowed range"),
    67: ("batch 0, rank 10^6", "allowed range"),
    68: ("epochs 10^9", "over limit"),
    69: ("unknown field `lora_alhpa`", "did you mean lora_alpha"),
    70: ("too little VRAM", "estimate vs available"),
    71: ("`n`=10^9", "maximum n"),
    72: ("10^7-token prompt", "context exceeded"),
    73: ("regex `(a+)+$` filter", "RE2 or timeout"),
    74: ("URL `file://`, 169.254…", "address not allowed"),
    75: ("URL redirecting inward", "redirect refused"),
    76: ("10k form fields, 100 MB field", "413"),
    77: ("`Last-Event-ID: abc`", "400, or replay from start"),
    78: ("another user's run id", "404"),
    79: ("10 MB password (360 ms, M)", "too long"),
    80: ("duplicate submit key", "original run returned"),
}
"""What comes in, and what is to be said: the words that were agreed on."""

WITHOUT: dict[int, str] = {
    71: "nothing here generates text on demand; the samples of a run have bounds of their own, which row 68 asks for",
}
"""Rows that ask for something that is not there yet, and why."""

NO_ZIPS = "no archive of several files is taken, so none is ever unpacked"
NO_ADAPTERS = "no adapter is taken for a base, whatever it was made for and whatever it says"
OTHERWISE: dict[int, str] = {
    11: "Arrow files are none of the kinds that are read: each is refused by its first bytes",
    **dict.fromkeys((12, 13, 14, 15, 16), NO_ZIPS),
    39: "the same row is held back wherever it stands, so there is no overlap to count",
    52: f"a model in a pickle is to be converted; {NO_ADAPTERS}",
    57: NO_ADAPTERS,
    58: NO_ADAPTERS,
    72: "a request holds 1 MiB at most, and so never as many tokens: it is refused unread, as too large; a prompt that fits into "
    "a request and not into the context is refused with both lengths",
    78: "runs are there for all to see (docs/decisions/runs-are-everybodys.md); what is one person's alone is not to be found "
    "by others",
}
"""Rows whose error cannot come up as the table words it, and why: what the studio says in its place is what is proved."""

PROVED: dict[int, list[Callable[..., object]]] = {}


def proves(*numbers: int) -> Callable[[Test], Test]:
    """Says of a test which rows it proves. Each time that it runs it has to hold to the bounds what they cost."""

    def note(test: Test) -> Test:
        for number in numbers:
            PROVED.setdefault(number, []).append(test)
        return test

    return note


# ---- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Upload:
    """A file that is refused: with a status, in these words, at this place."""

    row: int
    title: str
    name: str
    make: Callable[[], bytes | str]
    says: tuple[str, ...]
    status: int = 422

    def content(self) -> bytes:
        made = self.make()
        return made.encode("utf-8", "surrogatepass") if isinstance(made, str) else made

    def __str__(self) -> str:
        return f"{self.row} {self.title}"


def _json_rows() -> list[Upload]:
    """What JSON does not allow, by line."""
    values = (
        (18, "NaN", "NaN", "which is not a valid JSON number"),
        (18, "minus infinity", "-Infinity", "-Infinity, which is not a valid JSON number"),
        (19, "1e999", "1e999", "number out of range"),
        (20, "an integer of 5,000 digits", "1" * 5000, "number too long to be meant (5,000 digits)"),
        (21, "a role twice", '{"role": "user", "role": "system"}', "duplicate key: “role”"),
        (22, "half a surrogate pair", '"\\ud800"', "invalid Unicode"),
        (23, "a NUL", '"a\\u0000b"', "NUL character"),
    )
    place = {19: "line 2", 22: "row 2", 23: "row 2"}
    return [
        Upload(row, title, "a.jsonl", lambda value=value: second(value), (place.get(row, "line 2"), words))  # type: ignore[misc]
        for row, title, value, words in values
    ]


UPLOADS: tuple[Upload, ...] = (
    Upload(1, "a file of no bytes", "a.jsonl", lambda: b"", ("The file is empty.",)),
    Upload(2, "spaces alone", "a.jsonl", lambda: b"  \n \r\n\t ", ("The file has no rows.",)),
    Upload(3, "a header alone", "a.csv", lambda: "instruction,output\n", ("The file has no rows.",)),
    Upload(4, "half a gzip", "a.jsonl.gz", lambda: packed(GOOD * 5000)[:-9], ("archive is damaged or cut off",)),
    Upload(5, "1 MB of gzip that is 1 GiB", "a.jsonl.gz", making.gzip_bomb, ("expands past the limit of",), 413),
    Upload(6, "Parquet that is 10 GB in short texts", "a.parquet", lambda: making.parquet_bomb(4000),
           ("decoded size is over the limit",), 413),
    Upload(6, "Parquet that is 10 GB in long texts", "a.parquet", lambda: making.parquet_bomb(1_000_000),
           ("decoded size is over the limit",), 413),
    Upload(7, "Parquet that claims more values", "a.parquet", making.forged_parquet, ("damaged Parquet",)),
    Upload(8, "half a Parquet", "a.parquet", lambda: making.small_parquet()[:-20], ("damaged Parquet",)),
    Upload(9, "a table named Parquet", "a.parquet", lambda: "a,b\n1,2\n", ("The content is not Parquet",)),
    Upload(10, "a footer of 2 GiB", "a.parquet", lambda: b"PAR1" + bytes(100) + struct.pack("<I", 0x7FFFFFFF) + b"PAR1",
           ("damaged Parquet",)),
    Upload(11, "Arrow with wild offsets", "a.arrow", making.bad_arrow, ("an Arrow file",)),
    Upload(11, "an Arrow stream with wild offsets", "a.parquet", lambda: making.bad_arrow(stream=True), ("an Arrow stream",)),
    Upload(11, "Parquet with a garbled Arrow schema", "a.parquet", making.garbled_schema, ("damaged Parquet",)),
    Upload(12, "a zip that climbs out", "a.zip", lambda: making.zipped(("../../x", b"x")), ("a zip archive",)),
    Upload(13, "a zip with a link", "a.zip", lambda: making.zipped(links=(("x", "/etc"),)), ("a zip archive",)),
    Upload(14, "a zip of 100,000 entries", "a.jsonl", making.crowded_zip, ("a zip archive",)),
    Upload(15, "zips in zips", "a.zip", making.nested_zip, ("a zip archive",)),
    Upload(15, "gzip in gzip", "a.jsonl.gz", lambda: packed(GOOD, 2), ("Nested archives are refused",)),
    Upload(16, "a tar with a device", "a.tar", making.tar_device, ("a tar archive",)),
    Upload(16, "a packed tar with a device", "a.tar.gz", lambda: packed(making.tar_device()), ("Nested archives",)),
    Upload(17, "100,000 brackets", "a.jsonl", lambda: second("[" * 100_000), ("line 2", "nested too deeply")),
    Upload(17, "100,000 objects", "a.jsonl", lambda: second('{"a":' * 100_000), ("line 2", "nested too deeply")),
    *_json_rows(),
    Upload(25, "UTF-16", "a.jsonl", lambda: GOOD.encode("utf-16"), ("byte 0", "Save it as UTF-8")),
    Upload(25, "Latin-1", "a.csv", lambda: "text\ncaf\u00e9\n".encode("latin-1"), ("byte 8", "Save it as UTF-8")),
    Upload(26, "a line of 20 MiB", "a.jsonl", lambda: GOOD.encode() + b'{"text": "' + b"x" * (20 * MIB),
           ("The line is too long", "line 2")),
    Upload(27, "an array in lines", "a.jsonl", lambda: f"[{GOOD}, {GOOD}]", ("one object per line",)),
    Upload(28, "half a last line", "a.jsonl", lambda: GOOD + GOOD[:20], ("line 2", "is incomplete")),
    Upload(29, "a number among texts", "a.jsonl", lambda: second("42"), ("row 2", "the field's type differs")),
    Upload(30, "a ragged row", "a.csv", lambda: "instruction,output\nQ,A\nQ,A,x\n", ("row 2", "has 3 columns")),
    Upload(31, "a cell of 200,000 characters", "a.csv", lambda: f'instruction,output\nQ,"{"x" * 200_000}"\n',
           ("A cell is too long", "row 1")),
    Upload(33, "no prompt column", "a.csv", lambda: "id,completion\n1,A\n", ("Found: id, completion",)),
    Upload(34, "a role that is none", "a.jsonl", lambda: talk("wizard"), ("row 2", "system, user, assistant, tool")),
    Upload(35, "nobody answers", "a.jsonl", lambda: talk("user"), ("row 2", "nothing to train on")),
    Upload(36, "an empty answer", "a.jsonl", lambda: second('""'), ("row 2", "empty")),
)  # fmt: skip


# ---- model folders --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spoiled:
    """A copy of a good model folder in which something is wrong, and what is said of it."""

    row: int
    title: str
    spoil: Spoil
    says: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.row} {self.title}"

    def __str__(self) -> str:
        return self.name


PICKLE = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "/etc"}


def _writes(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def _configured(name: str, **changes: object) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | changes))

    return spoil


def _adapter_alone(weights: str, **changes: object) -> Spoil:
    """The folder holds an adapter and no model."""

    def spoil(folder: Path) -> None:
        (folder / "config.json").unlink()
        (folder / WEIGHTS).rename(folder / weights)
        (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | changes))

    return spoil


def _adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (folder / "adapter_model.bin").write_bytes(PICKLE)


def _renamed(name: str) -> Spoil:
    return lambda folder: (folder / WEIGHTS).rename(folder / name)


def _sharded(shard: str) -> Spoil:
    """The index puts every tensor there."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))

    return spoil


def _piped(folder: Path) -> None:
    _sharded("model-1.safetensors")(folder)
    os.mkfifo(folder / "model-1.safetensors")


TEMPLATES = "additional_chat_templates"


def _template_linked(folder: Path) -> None:
    (folder / TEMPLATES).mkdir()
    (folder / TEMPLATES / "default.jinja").symlink_to("/etc/passwd")


def _template_piped(folder: Path) -> None:
    (folder / TEMPLATES).mkdir()
    os.mkfifo(folder / TEMPLATES / "default.jinja")


def _crowded(folder: Path) -> None:
    (folder / "many").mkdir()
    for number in range(10_001):
        (folder / "many" / f"{number}").touch()


def _named(names: Iterable[str]) -> Spoil:
    """Weights of tensors that hold nothing, but have names."""

    def spoil(folder: Path) -> None:
        empty = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
        header = b"{%s}" % b",".join(b'"%s":%s' % (name.encode(), empty) for name in names)
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)

    return spoil


def _cut(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 100)


MODELS: tuple[Spoiled, ...] = (
    Spoiled(50, "a link that leads out", lambda folder: (folder / "extra.json").symlink_to("/etc/passwd"),
            ("extra.json", "leads outside the model's folder")),
    Spoiled(50, "a template that is a link", _template_linked,
            (f"{TEMPLATES}/default.jinja", "leads outside the model's folder")),
    Spoiled(50, "a folder without end", _crowded, ("holds more than 10,000 files",)),
    Spoiled(51, "code of its own", _configured("config.json", auto_map={"AutoModel": "evil.Evil"}),
            ("auto_map", "remote code is disabled")),
    Spoiled(51, "a tokenizer with code", _configured("tokenizer_config.json", auto_map={"AutoTokenizer": ["e.E", None]}),
            ("tokenizer_config.json", "remote code is disabled")),
    Spoiled(51, "attention from elsewhere", _configured("config.json", _attn_implementation_internal="evil/kernel"),
            ("implementation to be fetched",)),
    Spoiled(51, "attention from elsewhere by another key", _configured("config.json", attn_implementation="evil/kernel"),
            ("implementation to be fetched",)),
    Spoiled(51, "experts from elsewhere", _configured("config.json", experts_implementation="evil/kernel"),
            ("implementation to be fetched",)),
    Spoiled(52, "pickled weights", _renamed("pytorch_model.bin"), ("pickled weights", "convert it", "save_pretrained")),
    Spoiled(52, "a pickled adapter", _adapter_alone("adapter_model.bin"), ("This is an adapter, not a base model",)),
    Spoiled(52, "a pickled adapter beside a model", _adapter_beside, ("adapter_config.json", "loaded unseen")),
    Spoiled(53, "a pickle named safetensors", _writes(WEIGHTS, PICKLE), (WEIGHTS, "it may be no safetensors file at all")),
    Spoiled(54, "a header of 2^60 bytes", _writes(WEIGHTS, struct.pack("<Q", 2**60) + b"{}"), (WEIGHTS, "is damaged")),
    Spoiled(54, "a name without end", _named([".1" * 12_800]), (WEIGHTS, "a tensor with more than 512 characters")),
    Spoiled(54, "700,000 tensors", _named(map(str, range(700_000))), (WEIGHTS, "a header of more than 16 MiB")),
    Spoiled(54, "150,001 tensors", _named(f"{number:x}" for number in range(150_001)),
            (WEIGHTS, "more than 150,000 tensors")),
    Spoiled(54, "as many layers as fit", _named(f"x{number:x}.1.2..weight" for number in range(149_999)),
            ("says 2 layers, and the weights hold 1",)),
    Spoiled(54, "12 million empty objects", _writes("config.json", b'{"a":[' + b"{}," * 12_000_000 + b"{}]}"),
            ("config.json is damaged", "far too long")),
    Spoiled(54, "a million empty objects", _writes("config.json", b'{"a":[' + b"{}," * 1_300_000 + b"{}]}"),
            ("no architecture",)),
    Spoiled(55, "weights that are cut off", _cut, (WEIGHTS, "it is cut off")),
    Spoiled(55, "a million layers", _configured("config.json", num_hidden_layers=10**6), ("says 1,000,000 layers",)),
    Spoiled(55, "layers that no weights fill", _configured("config.json", num_hidden_layers=5),
            ("says 5 layers, and the weights hold 2",)),
    Spoiled(55, "a vocabulary of 10^9", _configured("config.json", vocab_size=10**9), ("a vocabulary of 1,000,000,000",)),
    Spoiled(55, "a width of 10^7", _configured("config.json", hidden_size=10**7), ("a width of 10,000,000",)),
    Spoiled(55, "an inner width of 10^9", _configured("config.json", intermediate_size=10**9),
            ("says 1,000,000,000 for intermediate_size",)),
    Spoiled(55, "heads of 10^400", _configured("config.json", head_dim=10**400),
            ("says a number for head_dim that no model has",)),
    Spoiled(57, "an adapter for another base", _adapter_alone("adapter_model.safetensors"), ("This is an adapter",)),
    Spoiled(58, "an adapter that names os", _adapter_alone("adapter_model.safetensors", auto_mapping={"parent_library": "os"}),
            ("This is an adapter",)),
    Spoiled(59, "a shard above the folder", _sharded("../../x.safetensors"), ("unsafe shard path",)),
    Spoiled(60, "a pipe for a shard", _piped, ("model-1.safetensors", "is not a regular file")),
    Spoiled(60, "a pipe for a template", _template_piped, (f"{TEMPLATES}/default.jinja", "is not a regular file")),
)  # fmt: skip


# ---- recipes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A setting that is refused, at its place. `value` stands at `place` in a recipe that is good but for that."""

    row: int
    place: str
    value: object
    says: tuple[str, ...]

    def recipe(self) -> dict[str, Any]:
        group, _, name = self.place.rpartition(".")
        made: dict[str, Any] = {"model": "tiny-qwen3", "data": {"sets": ["animals"]}, "method": {"kind": "lora"}}
        if group:
            made.setdefault(group, {})[name] = self.value
        else:
            made[name] = self.value
        return made

    def __str__(self) -> str:
        return f"{self.row} {self.place}={str(self.value)[:20]}"


SETTINGS: tuple[Setting, ...] = (
    Setting(49, "training.output_dir", "/etc/cron.d", ("is not a setting",)),
    Setting(49, "output_dir", "../..", ("is not a setting",)),
    Setting(66, "training.learning_rate", 0, ("greater than 0",)),
    Setting(66, "training.learning_rate", -1, ("greater than 0",)),
    Setting(66, "training.learning_rate", 1e9, ("less than or equal to 1",)),
    Setting(67, "training.per_device_train_batch_size", 0, ("greater than or equal to 1",)),
    Setting(67, "method.r", 10**6, ("less than or equal to 1024",)),
    Setting(68, "training.num_train_epochs", 10**9, ("less than or equal to 1000",)),
    Setting(68, "training.max_steps", 10**9, ("less than or equal to 100000000",)),
    Setting(68, "evaluation.max_new_tokens", 10**9, ("less than or equal to 4096",)),
    Setting(69, "method.lora_alhpa", 16, ("Did you mean lora_alpha?",)),
    Setting(72, "evaluation.prompts", ["word " * 2000], ("at most 8000 characters",)),
)

DATA = "data: {sets: [animals]}\nmethod: lora\n"


def titled(row: int, text: str) -> str:
    """What the YAML of a row is called: by how it begins."""
    return f"{row} YAML {text.partition(chr(10))[0][:40]}"


YAMLS: tuple[tuple[int, str, str], ...] = (
    (63, f"model: !!python/object/apply:os.system [true]\n{DATA}", "tags (!) are not accepted"),
    (63, f"model: !!python/name:os.system tiny-qwen3\n{DATA}", "tags (!) are not accepted"),
    (
        64,
        "a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(f"c{n}: [*b, *b]\n" for n in range(40)),
        "Aliases (*), anchors (&)",
    ),
)

# ---- names ----------------------------------------------------------------------------------------------------------

NAMES: dict[str, tuple[int, str]] = {
    "climbing": (42, "../../etc"),
    "climbing twice encoded": (43, "..%252f"),
    "backslashes": (44, "a\\..\\b"),
    "NUL": (45, "a\0b"),
    "line breaks": (45, "a\r\nSet-Cookie: studio=x"),
    "300 bytes": (46, "n" * 300),
    "300 bytes of Chinese": (46, "名" * 100),
    "a command": (47, ";touch x"),
    "right to left": (48, "gpj\u202egpj.exe"),
}
