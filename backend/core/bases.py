"""Base models: where they lie, what they are, and whether they can be trusted. Nothing of theirs is ever run.

A base is a folder under the model roots, or a hub id that is downloaded at a pinned commit. Its files are a stranger's:
they are read in a limited process, and what would run code or leave the folder is refused with the way out.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from backend.core.configurations import quantisation, sizes, text_part
from backend.core.datasets.problems import printable
from backend.core.errors import Forbidden, Invalid, NotFound, Problem, StudioError, Unavailable
from backend.core.limited import run_limited
from backend.core.misfits import out_of_range, refuse_misfits
from backend.core.recipe import ModelChoice
from backend.core.settings import Settings
from backend.core.weights import DTYPES, Tensor, damaged, read_header, refuse_crowd

DEFAULT_ENDPOINT = "https://huggingface.co"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
COMMIT = re.compile(r"[0-9a-f]{40}")
PASSED_OVER = re.compile(r"\.|.*[\ud800-\udfff]", re.DOTALL)
"""Hidden folders, and those whose name is no text: it can be neither shown nor typed."""
NEEDED_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "README.md", "LICENSE*")
JSON_BYTES, INDEX_BYTES = 4 << 20, 16 << 20
"""A configuration has a few hundred KiB at the most, and read takes many times its size. An index names every tensor."""
LOOK_MIB, LOOK_SECONDS = 384, 20
"""What looking at a model may take. The most tensors that one may have take half of that memory."""
STRAINED_SECONDS = 180
"""How long a model that took more is not looked at again, for it may have been the machine's fault."""
TEXT_BYTES = 64 << 10
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MOST_ENTRIES = 10_000
"""Files and folders in a model's folder, with all below: one that keeps its whole history has hundreds."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
GENERATORS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
IMPLEMENTATIONS = tuple(f"{part}_implementation{end}" for part in ("attn", "experts") for end in ("", "_internal"))
"""How the keys end by which a configuration chooses the program of its layers."""
OWN_CODE = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention", "batched_mm",
            "grouped_mm")  # fmt: skip
"""What may be chosen by them: transformers takes any other word for that of a program on the hub."""


@dataclass(frozen=True)
class BaseFacts:
    """What a base model is, read from its files. Sizes are in bytes, lengths in tokens."""

    architecture: str
    model_type: str
    parameters: int
    bytes: int
    dtype: str
    layers: int | None
    hidden_size: int | None
    context_length: int | None
    vocabulary: int | None
    chat_template: bool
    tied_embeddings: bool
    quantised: str | None
    licence: str | None
    files: int = 0
    """How many safetensors files hold the weights."""
    intermediate_size: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    experts: int | None = None
    linears: tuple[tuple[str, int, int, int], ...] = ()
    """Linear layers inside the stack by their last name: (name, inputs, outputs, how many)."""
    end_token: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """A base model that can be used. `revision` is a commit of the hub, or None for a folder."""

    folder: Path
    revision: str | None
    facts: BaseFacts


@dataclass(frozen=True)
class Listed:
    """A folder under the model roots: `facts` where it can be used, else `problem` says why not."""

    path: str
    folder: Path
    facts: BaseFacts | None
    problem: StudioError | None
    revision: str | None = None


# ---- finding --------------------------------------------------------------------------------------------------------


def find(choice: ModelChoice, settings: Settings) -> Found:
    """The base model that was chosen, looked at: it was fetched before. Raises `StudioError` in words."""
    return _found(locate(choice, settings, asks_hub=False))


def find_here(path: str, revision: str | None, settings: Settings) -> Found:
    """What lies here under that name, whatever was typed: looking at something downloads nothing. Raises `StudioError`."""
    folder = here(path, revision, settings)
    if folder is None:
        _check_hub_id(path)
        raise NotFound(
            f"There is no model “{printable(path)}” here.",
            hint="Download it, or put its folder under a model root.",
            where="model.path",
            code="model.not_here",
        )
    return _found(folder)


def _found(folder: Path) -> Found:
    is_of_hub = hub_folder() in folder.parents
    revision = folder.name if is_of_hub and COMMIT.fullmatch(folder.name) else None
    return Found(folder, revision, inspect(folder))


def locate(choice: ModelChoice, settings: Settings, *, asks_hub: bool = True) -> Path:
    """The folder of a base model; that of a hub id is downloaded, or found in the local cache, at its commit."""
    local = local_folder(choice.path, settings)
    if local is not None:
        return local
    _check_hub_id(choice.path)
    return download(choice.path, choice.revision, asks_hub=asks_hub)


def _check_hub_id(path: str) -> None:
    if path.startswith(("/", "~", ".")) or not HUB_ID.fullmatch(path):
        raise _outside(path)


def here(path: str, revision: str | None, settings: Settings) -> Path | None:
    """The folder of a base model that needs no download; None where only the hub has it. Raises `Forbidden`."""
    local = local_folder(path, settings)
    return local or (_whole_in_cache(path, revision) if HUB_ID.fullmatch(path) else None)


def local_folder(path: str, settings: Settings) -> Path | None:
    """The folder of that name under a model root. Raises `Forbidden` for one that leads outside."""
    if "\0" in path or "\\" in path or ".." in path.split("/"):
        raise _outside(path)
    roots = [_real(root) for root in settings.all_model_roots]
    for root in roots:
        folder = _real(root / path)
        if not S_ISDIR(_mode(folder)):
            continue
        if folder == root or not any(each in folder.parents for each in roots):
            raise _outside(path)
        return folder
    return None


def _real(path: Path) -> Path:
    """Where it leads, as far as that can be told: `Path.resolve` raises for a link in circles."""
    return Path(os.path.realpath(path))


def _outside(path: str) -> Forbidden:
    return Forbidden(
        f"“{printable(path)}” is outside the model folders.",
        hint="Give a folder's name under a model root, or a hub id such as org/name.",
        where="model.path",
        code="model.outside",
    )


def list_bases(settings: Settings) -> list[Listed]:
    """Every model folder under the roots, usable or not, and what was downloaded from the hub. Blocks; a folder that has
    not changed is not read again."""
    found: dict[str, Listed] = {}
    for root in settings.all_model_roots:
        for folder in _model_folders(root):
            name = folder.relative_to(root).as_posix()
            found.setdefault(name, _listed(name, folder, settings))
    for each in _downloaded():
        found.setdefault(each.path, each)
    return sorted(found.values(), key=lambda each: each.path.lower())


def _model_folders(root: Path) -> Iterator[Path]:
    """Folders with a configuration, one or two levels down: `name` and `org/name`. Those of adapters too, to say why they are
    no base."""
    for outer in _inside(root):
        for folder in (outer, *_inside(outer)):
            if _status(folder / "config.json") or _status(folder / ADAPTER):
                yield folder


def _inside(folder: Path) -> list[Path]:
    """The folders in it that can be chosen; none where it cannot be looked into. `Path.glob` raises there, or just ends."""
    with suppress(OSError):
        return [path for path in folder.iterdir() if not PASSED_OVER.match(path.name) and S_ISDIR(_mode(path))]
    return []


def _listed(name: str, folder: Path, settings: Settings) -> Listed:
    try:
        return Listed(name, folder, find_here(name, None, settings).facts, None)
    except StudioError as problem:
        return Listed(name, folder, None, problem)


def _downloaded() -> Iterator[Listed]:
    """Language models in the hub's cache. It is shared with other programs, so what is no such model is passed over."""
    for repository in sorted(_inside(hub_folder())):
        kind, _, name = repository.name.replace("--", "/").partition("/")
        folder = _newest_snapshot(repository) if kind == "models" else None
        if folder is None or not HUB_ID.fullmatch(name):
            continue
        try:
            yield Listed(name, folder, inspect(folder), None, folder.name)
        except StudioError as problem:
            if problem.code == "model.damaged":  # it broke off, most likely
                yield Listed(name, folder, None, problem, folder.name)


def _newest_snapshot(repository: Path) -> Path | None:
    found = [path for path in _inside(repository / "snapshots") if COMMIT.fullmatch(path.name)]
    return max(found, key=lambda path: status.st_mtime if (status := _status(path)) else 0, default=None)


def _whole_in_cache(hub_id: str, revision: str | None) -> Path | None:
    """A model that was downloaded before and can be used: it is taken as it lies, and nobody is asked for a newer one."""
    if revision is not None and not COMMIT.fullmatch(revision):
        return None  # a branch moves on, and a path leads elsewhere
    repository = hub_folder() / f"models--{hub_id.replace('/', '--')}"
    folder = repository / "snapshots" / revision if revision else _newest_snapshot(repository)
    if folder is None or not S_ISDIR(_mode(folder)):
        return None
    try:
        inspect(folder)
    except StudioError:
        return None
    return folder.resolve()


def download(hub_id: str, revision: str | None, *, asks_hub: bool = True) -> Path:
    """The snapshot of a hub model, weights in safetensors only. `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` are honoured. Without
    `asks_hub` it is what was fetched before, even what cannot be used."""
    if here := _whole_in_cache(hub_id, revision):
        return here
    from httpx2 import HTTPError
    from huggingface_hub import errors, snapshot_download

    from backend.core.fetching import confine
    from backend.core.reach import Inward

    where = f"“{hub_id}”" + (f" at {revision}" if revision else "")
    is_local = is_offline() or not asks_hub
    try:
        if not is_local:
            confine(hub_address())
        folder = snapshot_download(
            hub_id,
            revision=revision,
            endpoint=hub_address(),
            cache_dir=hub_folder(),
            local_files_only=is_local,
            allow_patterns=list(NEEDED_FILES),
        )
    except Inward as error:
        raise Unavailable(
            f"The model {where} is not fetched: the hub leads to “{printable(error.host)}”, which is inside this network.",
            hint="Is HF_ENDPOINT the address of a hub that you trust?",
            code="hub.inward",
        ) from error
    except errors.GatedRepoError as error:
        hint = "Accept its terms on the hub and set HF_TOKEN."
        raise Forbidden(f"{where} is gated.", hint=hint, where="model.path", code="model.gated") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        hint = "Check the name and the revision; for a private one set HF_TOKEN."
        raise NotFound(f"There is no model {where}.", hint=hint, where="model.path", code="model.unknown") from error
    except (
        errors.LocalEntryNotFoundError,
        errors.HfHubHTTPError,
        errors.OfflineModeIsEnabled,
        HTTPError,
        OSError,
    ) as error:
        raise Unavailable(
            f"The model {where} is under no model root and cannot be fetched from the hub.",
            hint="Put its folder under a model root, or try again when the hub can be reached.",
            code="model.unreachable",
        ) from error
    except ValueError as error:  # it names files that would lie elsewhere, or says what is no JSON
        raise odd_answer() from error
    return Path(folder).resolve()


def odd_answer() -> Unavailable:
    return Unavailable("The hub's answer cannot be read.", hint="Is HF_ENDPOINT the address of a hub?", code="hub.odd")


def hub_folder() -> Path:
    """Where the hub's models are kept, for this program and others."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser().resolve()


def hub_address() -> str:
    """Of the hub that is asked."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def is_offline() -> bool:
    """Whether the environment forbids to ask the hub."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


# ---- looking at one -------------------------------------------------------------------------------------------------


Signature = frozenset[tuple[str, int, int]]


@dataclass
class _Known:
    """What was found in a folder as it was then, a refusal as well: pages list what is broken too."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    signature: Signature = frozenset()
    found: BaseFacts | StudioError | None = None
    until: float = 0.0


def inspect(folder: Path) -> BaseFacts:
    """What the model in this folder is. Raises `Invalid` with everything that keeps it from being used."""
    known = _known[str(folder)]
    with known.lock:  # who asks second waits for what the first one finds
        signature = _signature(folder)
        if known.found is None or known.signature != signature or time.monotonic() > known.until:
            known.found, known.until = _looked_at(folder)
            known.signature = signature
        found = known.found
    if isinstance(found, StudioError):
        raise found.with_traceback(None)
    return found


_known: defaultdict[str, _Known] = defaultdict(_Known)


def _looked_at(folder: Path) -> tuple[BaseFacts | StudioError, float]:
    """What the model is, or why it cannot be used, and until when that holds. Raises `Conflict` where it was cancelled."""
    try:
        facts = run_limited(
            "backend.core.bases:inspect_here",
            {"folder": str(folder)},
            memory_mib=LOOK_MIB,
            timeout_seconds=LOOK_SECONDS,
        )
    except StudioError as refusal:
        if refusal.code == "cancelled":
            raise
        is_strained = refusal.code.startswith("limited.")
        return refusal, time.monotonic() + STRAINED_SECONDS if is_strained else math.inf
    return BaseFacts(**facts), math.inf


def _signature(folder: Path) -> Signature:
    """Changes whenever a file of the folder does."""
    found = ((entry.path, _status(entry.path)) for entry in islice(_entries(folder), MOST_ENTRIES))
    return frozenset((path, status.st_size, status.st_mtime_ns) for path, status in found if status)


def _status(path: str | Path) -> os.stat_result | None:
    """Of a file, or of the link itself where that cannot be followed; None where it has gone meanwhile."""
    for is_followed in (True, False):
        with suppress(OSError):
            return Path(path).stat(follow_symlinks=is_followed)
    return None


def _mode(path: str | Path) -> int:
    """The kind of file that it is, or leads to; 0 where that cannot be found out, which `Path.exists` and others may raise."""
    with suppress(OSError):
        return Path(path).stat().st_mode
    return 0


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in the folder and below. No link is followed, and a folder that cannot be opened is passed over: nobody
    who loads the model gets into it either."""
    waiting = [str(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as found:
            for entry in found:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def inspect_here(payload: dict[str, Any]) -> dict[str, Any]:
    """The work itself, in this process."""
    folder = Path(payload["folder"])
    config = check_files(folder)
    tensors = read_tensors(folder)
    refuse_misfits(config, tensors)
    tokenizer = _json(folder, "tokenizer_config.json")
    text = text_part(config)
    weight_files = list(folder.glob("*.safetensors"))
    facts = BaseFacts(
        architecture=config["architectures"][0],
        model_type=config["model_type"],
        parameters=sum(tensor.elements for tensor in tensors.values()),
        bytes=sum(path.stat().st_size for path in weight_files),
        dtype=_dtype(tensors),
        chat_template=_has_template(folder, tokenizer),
        tied_embeddings=_is_tied(config, tensors),
        quantised=quantisation(config),
        licence=licence(folder),
        files=len(weight_files),
        linears=_linears(tensors, is_turned=config["model_type"] == "gpt2"),
        end_token=_token(tokenizer.get("eos_token")),
        **sizes(text),
    )
    return facts.as_json()


def check_files(folder: Path) -> dict[str, Any]:
    """The configuration, once nothing in the folder is found to be dangerous. Raises `Invalid` with all that is."""
    problems = [*_unsafe_entries(folder)]
    if problems:  # before anything is opened: reading a pipe would wait for ever
        raise Invalid("The model folder is not safe.", code="model.unsafe", problems=tuple(problems))
    if (folder / ADAPTER).exists() and not (folder / "config.json").exists():
        raise Invalid(
            "This is an adapter, not a base model.", hint="Choose the base it was made for.", code="model.adapter"
        )
    if not (folder / "config.json").exists():
        raise Invalid("There is no config.json: this is no model folder.", code="model.no_config")
    config = _json(folder, "config.json")
    problems = [*unusable(config), *_adapter_beside(folder), *_missing_files(folder)]
    for name in ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        problems += _code_in(_json(folder, name), name)
    if problems:
        raise Invalid("This model cannot be used as a base.", code="model.refused", problems=tuple(problems))
    return config


def unusable(config: dict[str, Any]) -> list[Problem]:
    """What keeps a model of this configuration from being a base, wherever its files are."""
    return [*_code_in(config, "config.json"), *_unfit(config), *out_of_range(config)]


def _unsafe_entries(folder: Path) -> Iterator[Problem]:
    """Pipes, devices, and links that lead out of the folder (of the repository, in the hub's cache, which links to its
    blobs), wherever in it they lie: libraries read subfolders too, as that of additional chat templates."""
    is_of_hub = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    home = os.path.realpath(folder.parent.parent if is_of_hub else folder)
    entries = list(islice(_entries(folder), MOST_ENTRIES + 1))
    if len(entries) > MOST_ENTRIES:
        message = f"The folder holds more than {MOST_ENTRIES:,} files and folders."
        yield Problem("model.crowded", message, "", "Keep nothing in it but the model.")
    for entry in sorted(entries, key=lambda each: each.path)[:MOST_ENTRIES]:
        name = printable(os.path.relpath(entry.path, folder))
        if entry.is_symlink():
            yield from _unsafe_link(entry.path, name, home)
        elif not (entry.is_file() or entry.is_dir()):
            yield Problem("model.special", "is not a regular file.", name, "Remove it.")


def _unsafe_link(link: str, name: str, home: str) -> Iterator[Problem]:
    """What lies behind a link to a folder was not looked at, so that such a link is refused wherever it leads."""
    target, mode = os.path.realpath(link), _mode(link)
    if target != home and not target.startswith(home + os.sep):
        yield Problem("model.link", "leads outside the model's folder.", name, "Replace the link by the file.")
    elif not mode:
        yield Problem("model.link", "leads nowhere.", name, "Remove it, or download the model again.")
    elif S_ISDIR(mode):
        yield Problem("model.link", "is a link to a folder.", name, "Replace the link by the folder.")
    elif not S_ISREG(mode):
        yield Problem("model.special", "is not a regular file.", name, "Remove it.")


def _code_in(config: dict[str, Any], name: str) -> Iterator[Problem]:
    """What makes a library run the model's own code, or fetch code that the configuration names, in any part of it."""
    if any(key == "auto_map" for key, _, _ in _settings(config)):
        hint = "Use a model that transformers knows by itself; where it does, remove auto_map."
        yield Problem("model.remote_code", "has auto_map, code of its own, and remote code is disabled.", name, hint)
    chosen = ((by, value) for _, by, value in _settings(config) if by and isinstance(value, str))
    if foreign := next((by for by, value in chosen if value not in OWN_CODE), ""):
        message = "names an attention or experts implementation to be fetched from elsewhere, which is disabled."
        yield Problem("model.remote_code", message, name, f"Remove {printable(foreign)}.")


def _settings(config: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Every key of the configuration and of all its parts, with its value; between them the key by which both are part of
    the choice of an implementation, if they are: one may be chosen for each part by name."""
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        outer, part = waiting.pop()
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            chosen = outer or (str(key) if str(key).endswith(IMPLEMENTATIONS) else "")
            yield str(key), chosen, value
            if value and isinstance(value, dict | list):
                waiting.append((chosen, value))


def _unfit(config: dict[str, Any]) -> Iterator[Problem]:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    if not re.fullmatch(r"\w{1,100}", name) or not name.endswith(GENERATORS):
        message = f"names {printable(name) or 'no architecture'}, which is no causal language model."
        yield Problem("model.architecture", message, "config.json", "Choose a model of the kind …ForCausalLM.")
    if not isinstance(config.get("model_type"), str) or not re.fullmatch(r"[\w.-]{1,100}", config["model_type"]):
        yield Problem("model.architecture", "has no usable model_type.", "config.json")


def _adapter_beside(folder: Path) -> Iterator[Problem]:
    """Libraries load it along with the model, pickled weights and all, and nothing that was said of the model is true then."""
    if (folder / ADAPTER).exists():
        hint = "Merge it into the model, or move it and its weights into a folder of their own."
        yield Problem("model.adapter", "is an adapter beside the model, which would be loaded unseen.", ADAPTER, hint)


def _missing_files(folder: Path) -> Iterator[Problem]:
    if not any((folder / name).exists() for name in TOKENIZERS):
        yield Problem("model.tokenizer", "There is no tokenizer.", "", "Copy tokenizer.json beside the weights.")
    if (folder / WEIGHTS).exists() or (folder / INDEX).exists():
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        message = "holds pickled weights, which can run any program when loaded; only safetensors are taken."
        yield Problem(
            "model.pickle", message, printable(pickles[0]), f"Where you trust it, convert it: {convert_command(folder)}"
        )
    else:
        hint = "A model that comes as .bin files alone is converted to safetensors first."
        yield Problem("model.no_weights", f"There are no weights: neither {WEIGHTS} nor {INDEX}.", "", hint)


def convert_command(folder: Path) -> str:
    """The line that writes a pickled model anew in safetensors, into a folder beside it."""
    program = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer; source, target = sys.argv[1:]; "
        "AutoModelForCausalLM.from_pretrained(source, dtype='auto').save_pretrained(target); "
        "AutoTokenizer.from_pretrained(source).save_pretrained(target)"
    )
    source, target = (shlex.quote(printable(name)) for name in (folder.name, f"{folder.name}-safetensors"))
    return f'python -c "{program}" {source} {target}'


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the model, from one file or from the shards that the index names. Raises `Invalid`."""
    if (folder / WEIGHTS).exists():
        return read_header(folder / WEIGHTS)
    placed = _json(folder, INDEX, INDEX_BYTES).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise damaged(INDEX, "it has no weight_map")
    headers: dict[str, dict[str, Tensor]] = {}
    for name in sorted(set(placed.values())):
        headers[name] = read_header(_shard(folder, name))
        refuse_crowd(INDEX, sum(map(len, headers.values())))
    absent = [tensor for tensor, name in placed.items() if tensor not in headers[name]]
    if absent:
        raise damaged(INDEX, f"{absent[0][:100]!r} is not in the shard it names")
    return {tensor: headers[name][tensor] for tensor, name in placed.items()}


def _shard(folder: Path, name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+\.safetensors", name) or name.startswith("."):
        raise Invalid(f"{INDEX} names an unsafe shard path: {name[:200]!r}.", code="model.unsafe")
    if not (folder / name).exists():
        raise damaged(INDEX, f"the shard {name} is missing")
    return folder / name


# ---- facts ----------------------------------------------------------------------------------------------------------


def _json(folder: Path, name: str, most: int = JSON_BYTES) -> dict[str, Any]:
    """A JSON object in the folder; empty where there is none. Raises `Invalid`."""
    path = folder / name
    if not path.exists():
        return {}
    if path.stat().st_size > most:
        raise damaged(name, "it is far too long")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise damaged(name, "it is no valid JSON") from None
    if not isinstance(value, dict):
        raise damaged(name, "it is no JSON object")
    return value


def _linears(tensors: dict[str, Tensor], *, is_turned: bool) -> tuple[tuple[str, int, int, int], ...]:
    """Matrices of numbered layers, by name and size. GPT-2 stores its own with the inputs first."""
    counts: dict[tuple[str, int, int], int] = {}
    for name, tensor in tensors.items():
        layer = _layer(name)
        if not layer or len(tensor.shape) != 2:
            continue
        outputs, inputs = reversed(tensor.shape) if is_turned else tensor.shape
        key = (printable(layer), inputs, outputs)
        counts[key] = counts.get(key, 0) + 1
    return tuple((*key, count) for key, count in list(counts.items())[:200])


def _layer(name: str) -> str:
    """`up_proj` of `model.layers.0.mlp.up_proj.weight`; empty for what belongs to no numbered layer."""
    _, *above, layer, kind = ["", "", *name.split(".")]
    is_numbered = any(part.isdecimal() for part in above[2:])
    return layer if kind == "weight" and is_numbered else ""


def _token(value: Any) -> str | None:
    """A special token as tokenizer_config.json writes it: a text, or an object around one."""
    text = value.get("content") if isinstance(value, dict) else value
    return printable(text[:60]) if isinstance(text, str) and text else None


def _dtype(tensors: dict[str, Tensor]) -> str:
    """The type that most elements have."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.elements
    most = max(counts, key=lambda dtype: counts[dtype], default="F32")
    return DTYPES.get(most, most.lower())


def _has_template(folder: Path, tokenizer: dict[str, Any]) -> bool:
    files = (folder / "chat_template.jinja", folder / "chat_template.json")
    return bool(tokenizer.get("chat_template")) or any(path.exists() for path in files)


def _is_tied(config: dict[str, Any], tensors: dict[str, Tensor]) -> bool:
    has_head = any(name.endswith(("lm_head.weight", "embed_out.weight", "output.weight")) for name in tensors)
    return bool(config.get("tie_word_embeddings", not has_head))


KNOWN_LICENCES = {
    "Apache License": "apache-2.0",
    "MIT License": "mit",
    "GNU AFFERO": "agpl-3.0",
    "GNU GENERAL PUBLIC": "gpl",
    "LLAMA": "llama",
}


def licence(folder: Path) -> str | None:
    """As the model card's front matter names it, else as the licence file begins; None where neither tells."""
    card = _text(folder / "README.md")
    front = card.split("\n---", 1)[0] if card.startswith("---") else ""
    named = re.search(r"^license(?:_name)?:\s*[\"']?([\w.+-]{1,60})", front, re.MULTILINE)
    if named:
        return named[1]
    text = next((_text(path) for path in sorted(folder.glob("LICENSE*"))), "")
    known = next((name for words, name in KNOWN_LICENCES.items() if words.lower() in text[:2000].lower()), None)
    return known or (printable(text.strip().splitlines()[0]) if text.strip() else None)


def _text(path: Path) -> str:
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        return file.read(TEXT_BYTES).decode(errors="replace")
