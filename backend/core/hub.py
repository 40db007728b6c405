"""The hub: models that are not here yet, judged before anything is downloaded, and fetched at a pinned commit.

Only the configured hub is ever asked (`HF_ENDPOINT`). A question follows no redirect that leads elsewhere; a download does,
since hubs keep their files with others, but never to an address inside this network (see `reach`). Answers to questions are
bounded in size and time, and what comes back is a stranger's: nothing of it is trusted beyond its type.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from backend.core import bases
from backend.core.configurations import sizes, text_part
from backend.core.datasets.problems import printable
from backend.core.errors import Forbidden, Invalid, NotFound, Problem, StudioError, Unavailable
from backend.core.limited import report, run_limited
from backend.core.weights import BITS, DTYPES

ANSWER_BYTES, CONFIG_BYTES = 4 << 20, 1 << 20
TIMEOUT_SECONDS = 6.0
DOWNLOAD_MIB, MIB_A_FILE = 8192, 1 << 20
DOWNLOAD_SECONDS = 7 * 24 * 3600
ANSWER_SECONDS = 120
RESULTS = 12
REDIRECTS = 3
TEXT_LENGTH = 200
MOST = 1 << 53
"""No model has so many bytes: whoever says so is not believed."""
SPARE_BYTES = 1 << 30
"""Left free on the disk beside a download."""
PASSED_ON = ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "HOME", "HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY",
             "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # fmt: skip


@dataclass(frozen=True)
class HubModel:
    """A model on the hub. `facts` are those of `bases.BaseFacts` that can be told from afar; `problem` keeps it out."""

    id: str
    revision: str
    parameters: int | None
    bytes: int | None
    downloads: int
    licence: str | None
    gated: bool
    address: str
    facts: dict[str, Any]
    problem: Problem | None


# ---- asking ---------------------------------------------------------------------------------------------------------


def find(words: str) -> list[HubModel]:
    """What these words mean: the one model where they are its id or its address, else the most downloaded that are
    called so. Blocks for seconds. Raises `StudioError` in words where the hub gives no answer."""
    found = _find_lately(words.strip(), int(time.monotonic() / ANSWER_SECONDS))
    return list(found)


@lru_cache(maxsize=64)
def _find_lately(words: str, moment: int) -> tuple[HubModel, ...]:  # noqa: ARG001 -- part of the key
    """Kept for a moment: a page that is drawn anew asks the same again."""
    hub_id = named_in(words)
    return (look(hub_id),) if hub_id else tuple(search(words))


def named_in(words: str) -> str | None:
    """The id in `org/name`, or in the address of a model's page; None where the words are to be searched for. Raises
    `Invalid` for an address that can be no hub's: nothing is ever fetched from there, and nobody shall believe so."""
    text = words.strip()
    if "://" in text:
        text = "/".join(_path_of(text).strip("/").split("/")[:2])
    return text if "/" in text and bases.HUB_ID.fullmatch(text) else None


def _path_of(address: str) -> str:
    """What stands behind the host. A mirror's name may stand for the hub's; a file, or a machine by its number, may not."""
    try:
        parts, own = urlsplit(address), urlsplit(bases.hub_address())
        host, is_own = parts.hostname or "", (parts.hostname, parts.port) == (own.hostname, own.port)
    except ValueError:  # brackets that hold no address, a port that is no number
        raise _not_allowed(address) from None
    is_machine = host == "localhost" or host.replace(".", "").isdigit() or ":" in host or "." not in host
    if parts.scheme not in ("http", "https") or (is_machine and not is_own):
        raise _not_allowed(address)
    return parts.path


def _not_allowed(address: str) -> Invalid:
    return Invalid(
        f"The address “{printable(address)}” is not allowed: models come from the hub alone.",
        hint="Give an id such as org/name, or the address of a model's page on the hub.",
        where="id",
        code="hub.address",
    )


def search(words: str) -> list[HubModel]:
    """The most downloaded models of that name that write text and come as safetensors."""
    asked = [("search", words.strip()[:TEXT_LENGTH]), ("filter", "text-generation"), ("filter", "safetensors")]
    asked += [("sort", "downloads"), ("direction", "-1"), ("limit", str(RESULTS))]
    asked += [("expand[]", each) for each in ("sha", "downloads", "gated", "tags", "safetensors", "config", "siblings")]
    found = _ask("/api/models?" + urlencode(asked))
    if not isinstance(found, list):
        raise bases.odd_answer()
    usable = [each for each in found[:RESULTS] if isinstance(each, dict) and _id_of(each)]
    with ThreadPoolExecutor(4, thread_name_prefix="hub") as threads:
        return list(threads.map(_judged, usable))


def look(hub_id: str, revision: str | None = None) -> HubModel:
    """One model, at a commit, with the exact size of its files. Raises `NotFound`."""
    if not bases.HUB_ID.fullmatch(hub_id):
        raise NotFound(
            f"“{printable(hub_id[:TEXT_LENGTH])}” is no id of a model.",
            hint="An id looks like org/name.",
            where="id",
            code="model.unknown",
        )
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    found = _ask(f"/api/models/{_quoted(hub_id)}{at}?blobs=true", what=hub_id)
    if not isinstance(found, dict) or not _id_of(found):
        raise bases.odd_answer()
    return _judged(found)


def _judged(answer: Mapping[str, Any]) -> HubModel:
    """The model as far as its configuration and the hub's own reading of its weights tell."""
    hub_id, revision = _id_of(answer), str(answer.get("sha") or "")
    revision = revision if bases.COMMIT.fullmatch(revision) else ""
    config = _config(hub_id, revision)
    counts = _mapping(_mapping(answer.get("safetensors")).get("parameters"))
    sizes = {printable(name, 20): _count(count) for name, count in counts.items() if _count(count)}
    parameters = sum(sizes.values()) or None
    stored = sum(count * BITS.get(name, 16) // 8 for name, count in sizes.items()) or None
    gated = bool(answer.get("gated"))
    return HubModel(
        id=hub_id,
        revision=revision,
        parameters=parameters,
        bytes=_needed_bytes(answer) or stored,
        downloads=_count(answer.get("downloads")),
        licence=_licence(answer),
        gated=gated,
        address=f"{bases.hub_address()}/{_quoted(hub_id)}",
        facts=_facts(answer, config, parameters, max(sizes, key=lambda each: sizes[each], default="")),
        problem=_problem(answer, config, revision, gated=gated),
    )


def _facts(answer: Mapping[str, Any], config: dict[str, Any], parameters: int | None, dtype: str) -> dict[str, Any]:
    told = _mapping(answer.get("config"))
    tokenizer = _mapping(told.get("tokenizer_config"))
    files = _names(answer)
    tied = config.get("tie_word_embeddings")
    return {
        "parameters": parameters,
        "dtype": DTYPES.get(dtype, dtype.lower()) or None,
        "chat_template": bool(tokenizer.get("chat_template")) or "chat_template.jinja" in files,
        "tied_embeddings": tied is True,
        **sizes(text_part(config)),
    }


def _problem(answer: Mapping[str, Any], config: dict[str, Any], revision: str, *, gated: bool) -> Problem | None:
    """The first thing that keeps it from being used, known before anything is downloaded."""
    names = _names(answer)
    pickles = sorted(name for name in names if name.endswith(bases.PICKLES))
    if names and not any(name.endswith(".safetensors") for name in names):
        kind = (
            "It comes as pickled weights, which can run any program when loaded." if pickles else "It has no weights."
        )
        return Problem("model.pickle", kind, "", "Look for a version of it in safetensors.")
    if not revision:
        return Problem("hub.odd", "The hub names no commit for it.", "", "Try again later.")
    if gated and not config:
        return Problem("model.gated", "Its makers give it to those who accept their terms.", "", GATED_HINT)
    if not config:
        return Problem("model.no_config", "It has no configuration that could be read.", "", "Choose another model.")
    return next(iter(bases.unusable(config)), None)


GATED_HINT = "Accept its terms on the hub and set HF_TOKEN."


def _config(hub_id: str, revision: str) -> dict[str, Any]:
    """The model's configuration; empty where it cannot be had, as of gated models."""
    try:
        return _config_of(hub_id, revision) if revision else {}
    except StudioError:
        return {}


def _config_of(hub_id: str, revision: str) -> dict[str, Any]:
    return _mapping(_json(_config_at(hub_id, revision)))


@lru_cache(maxsize=128)
def _config_at(hub_id: str, revision: str) -> bytes:
    """At a commit, where it never changes; an answer that did not come is not kept. Kept as it came: read, a stranger's
    JSON may take many times its size."""
    return _ask_bytes(f"/{_quoted(hub_id)}/resolve/{revision}/config.json", what=hub_id, most=CONFIG_BYTES)


def _ask(path: str, *, what: str = "") -> Any:
    """The hub's JSON answer. Raises `StudioError` in words."""
    return _json(_ask_bytes(path, what=what, most=ANSWER_BYTES))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise bases.odd_answer() from None


def _ask_bytes(path: str, *, what: str, most: int) -> bytes:
    """The hub's answer. Raises `StudioError` in words, as where the studio is told to stay offline."""
    from http.client import HTTPException

    if bases.is_offline():
        raise Unavailable(
            "The hub is not asked: HF_HUB_OFFLINE is set.",
            hint="Models in the folders of this studio can be used as ever.",
            code="hub.offline",
        )
    deadline = time.monotonic() + 2 * TIMEOUT_SECONDS
    home = bases.hub_address()
    try:
        status, body = _get(home, home + path, deadline, most)
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(
            "The hub cannot be reached.",
            hint=f"Asked was {urlsplit(home).netloc}. Models in the folders of this studio can be used as ever.",
            code="hub.unreachable",
        ) from error
    if status in (401, 403, 404):
        raise NotFound(
            f"The hub has no model “{printable(what)}”, or does not show it to everybody.",
            hint="Check the name; for a private or gated one set HF_TOKEN.",
            code="model.unknown",
        )
    if status != 200:
        raise Unavailable(f"The hub answered with status {status}.", hint="Try again later.", code="hub.status")
    return body


def _get(home: str, address: str, deadline: float, most: int) -> tuple[int, bytes]:
    """One request and the redirects that stay with the hub. Raises `OSError` or `HTTPException`."""
    from urllib.request import Request

    from backend.core.openers import opener_until
    from backend.core.reach import reach_of

    headers = {"Accept": "application/json", "User-Agent": "finetune-studio"}
    if token := os.environ.get("HF_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    with opener_until(deadline, reach_of(home)) as opener:
        for _ in range(REDIRECTS):
            with opener.open(Request(address, headers=headers), timeout=TIMEOUT_SECONDS) as answer:
                target = answer.headers.get("Location") if answer.status in (301, 302, 303, 307, 308) else None
                if target is None:
                    return answer.status, _bounded(answer, deadline, most)
            address = urljoin(address, target)
            if urlsplit(address)[:2] != urlsplit(home)[:2]:
                raise OSError("the hub redirects to another host")
    raise OSError("the hub redirects in circles")


def _bounded(answer: Any, deadline: float, most: int) -> bytes:
    """The body, up to a size and a time: each read has a time limit of its own, but a trickle could go on for ever."""
    body = bytearray()
    while block := answer.read1(65536):
        body += block
        if len(body) > most or time.monotonic() > deadline:
            raise OSError("the hub's answer is too long")
    return bytes(body)


# ---- reading what it says -------------------------------------------------------------------------------------------


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    """A number of things or bytes; 0 for what can be none."""
    return value if type(value) is int and 0 <= value < MOST else 0


def _id_of(answer: Mapping[str, Any]) -> str:
    hub_id = answer.get("id") or answer.get("modelId")
    return hub_id if isinstance(hub_id, str) and bases.HUB_ID.fullmatch(hub_id) else ""


def _quoted(hub_id: str) -> str:
    return quote(hub_id, safe="/")


def _siblings(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    files = answer.get("siblings")
    return [each for each in files if isinstance(each, dict)] if isinstance(files, list) else []


def _names(answer: Mapping[str, Any]) -> list[str]:
    return [str(each.get("rfilename", ""))[:TEXT_LENGTH] for each in _siblings(answer)]


def _needed_bytes(answer: Mapping[str, Any]) -> int | None:
    """The files that a download takes, where the hub told their sizes."""
    from fnmatch import fnmatch

    wanted = (
        each for each in _siblings(answer) if any(fnmatch(str(each.get("rfilename")), p) for p in bases.NEEDED_FILES)
    )
    return sum(_count(each.get("size")) for each in wanted) or None


def _licence(answer: Mapping[str, Any]) -> str | None:
    tags = answer.get("tags")
    found = (str(tag)[8:] for tag in tags if str(tag).startswith("license:")) if isinstance(tags, list) else iter(())
    return printable(next(found, "")[:60]) or None


# ---- downloading ----------------------------------------------------------------------------------------------------


def refuse_unusable(model: HubModel, promised: int = 0) -> None:
    """Raise before a byte is downloaded: pickles, foreign code, terms that were not accepted, a disk that is too small
    beside the bytes that are `promised` to downloads that go on."""
    if model.problem is not None:
        kind = Forbidden if model.problem.code == "model.gated" else Invalid
        raise kind(f"{model.id}: {model.problem.message}", hint=model.problem.hint, code=model.problem.code)
    free = max(0, shutil.disk_usage(_standing(bases.hub_folder())).free - promised)
    needed = (model.bytes or 0) + SPARE_BYTES
    if free < needed:
        raise Invalid(
            f"The disk is too small: the model takes {_gib(model.bytes or 0)} GiB, and {_gib(free)} GiB are free.",
            hint="Make room, or let HF_HOME name a folder on a larger disk.",
            code="hub.disk",
        )


def _standing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f}"


def obtain(
    wanted: dict[str, Any],
    *,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """Fetch a model (`id`, `revision`, `total` bytes) by a process of its own: what it has of it stays when it is called off.
    Blocks. Raises `StudioError` in words."""
    run_limited(
        "backend.core.hub:fetch",
        wanted,
        memory_mib=DOWNLOAD_MIB,
        timeout_seconds=DOWNLOAD_SECONDS,
        file_mib=MIB_A_FILE,
        environment=_environment(),
        on_progress=on_progress,
        cancelled=cancelled,
    )


def _environment() -> dict[str, str]:
    """What the downloading process is told beside the usual: where the hub and its cache are, and who asks."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def fetch(payload: dict[str, Any]) -> dict[str, Any]:
    """Download a model into the hub's cache; a broken-off download goes on where it was. Runs in a process of its own."""
    from threading import Event, Thread

    blobs = bases.hub_folder() / f"models--{payload['id'].replace('/', '--')}" / "blobs"
    over = Event()

    def tell() -> None:
        while not over.wait(0.3):
            report({"done": min(_bytes_in(blobs), payload["total"]), "total": payload["total"]})

    teller = Thread(target=tell)
    teller.start()
    try:
        folder = bases.download(payload["id"], payload["revision"])
    finally:
        over.set()
        teller.join()
    return {"folder": str(folder)}


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder, of those as well that are still being written."""
    try:
        entries: Sequence[os.DirEntry[str]] = list(os.scandir(folder))
        return sum(entry.stat().st_size for entry in entries)
    except OSError:  # not there yet, or a file was renamed at this moment
        return 0
