"""Pages: one Jinja environment, the reader's language, hashed addresses of scripts and styles."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from backend.core.people import Identity
from backend.web.contexts.page import Here, Page
from backend.web.phrases import Phrases
from backend.web.security import host_name, is_loopback
from backend.web.shapes.common import Json
from backend.web.shapes.people import PersonOut

WEB = Path(__file__).resolve().parent
STATIC = WEB / "static"
LANGUAGES = ("en", "zh")
LANGUAGE_COOKIE = "language"
YEAR_SECONDS = 365 * 24 * 3600

_language: ContextVar[str] = ContextVar("language", default="en")
"""Jinja's overlays share globals, so a language set there would leak between readers; this does not."""


def frontend_folder() -> Path:
    """Templates and catalogues: beside the packages in a checkout, inside `backend` in an installed wheel."""
    inside = WEB.parent / "frontend"
    return inside if inside.is_dir() else WEB.parents[1] / "frontend"


class Renderer:
    """Draws what `contexts` describes."""

    def __init__(self, folder: Path | None = None, static: Path = STATIC) -> None:
        folder = folder or frontend_folder()
        manifest = static / "manifest.json"
        self.assets: Mapping[str, str] = json.loads(manifest.read_text()) if manifest.exists() else {}
        self.locales = folder / "locales"
        self.environment = self._environment(folder)

    @cached_property
    def catalogue(self) -> Mapping[str, str]:
        """The pages' texts in Chinese. It is read when somebody first reads Chinese, for it is a megabyte and a half."""
        texts: Mapping[str, str] = json.loads((self.locales / "zh.json").read_text("utf-8"))
        return texts

    @cached_property
    def phrases(self) -> Phrases:
        """The server's messages in Chinese."""
        return Phrases(json.loads((self.locales / "messages.zh.json").read_text("utf-8")))

    def _environment(self, folder: Path) -> Environment:
        environment = Environment(
            loader=FileSystemLoader([folder / "pages", folder]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.i18n"],
        )
        environment.install_gettext_callables(self.gettext, self.ngettext, newstyle=False)  # type: ignore[attr-defined]
        environment.globals |= {"asset": self.asset, "now": lambda: datetime.now(UTC).isoformat()}
        environment.filters |= {
            "bytes": size,
            "number": number,
            "amount": amount,
            "rate": rate,
            "metric": metric,
            "said": self.said,
            "placed": self.placed,
            "when": when,
            "duration": partial(duration, self.gettext),
            "roughly": lambda seconds: duration(self.gettext, roughly(seconds)),
        }
        return environment

    def gettext(self, message: str) -> str:
        """The English text in the reader's language; itself where there is no translation."""
        return message if _language.get() == "en" else self.catalogue.get(message) or message

    def ngettext(self, one: str, many: str, count: int) -> str:
        """Chinese has one form, which stands at the plural."""
        return (one if count == 1 else many) if _language.get() == "en" else self.gettext(many)

    def said(self, message: str) -> str:
        """What the server says of a problem, in the reader's language."""
        return message if _language.get() == "en" else self.phrases.said(message)

    def placed(self, where: str) -> str:
        """Where a problem is, in the reader's language."""
        return where if _language.get() == "en" else self.phrases.placed(where)

    def told(self, request: Request, body: Json) -> Json:
        """An error of the API in the reader's language. Its codes are the same in all."""
        _language.set(language_of(request))
        spoken = {key: self.said(body[key]) for key in ("message", "hint") if key in body}
        parts = {key: [self.told(request, each) for each in body[key]] for key in ("problems",) if key in body}
        return body | spoken | parts

    def asset(self, name: str) -> str:
        """`main.js` → `/static/main-3F2A.js`."""
        return f"/static/{self.assets.get(name, name)}"

    def page(
        self, request: Request, page: Page, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """The page in the reader's language. `?lang=` changes the language from now on."""
        language = language_of(request)
        _language.set(language)
        context = {item.name: getattr(page, item.name) for item in fields(page)}
        html = self.environment.get_template(page.template).render(context, here=here(request, language))
        response = HTMLResponse(html, status or page.status, {"Vary": "HX-Request-Type", **(headers or {})})
        if request.query_params.get("lang") == language:
            secure = request.url.scheme == "https"
            response.set_cookie(LANGUAGE_COOKIE, language, max_age=YEAR_SECONDS, secure=secure, samesite="lax")
        return response


@cache
def renderer() -> Renderer:
    """The one of this process: each template is compiled once, however many applications draw with it."""
    return Renderer()


def here(request: Request, language: str) -> Here:
    identity: Identity | None = request.state.identity
    other = "en" if language == "zh" else "zh"
    return Here(
        path=request.url.path,
        nonce=request.state.nonce,
        language=language,
        person=person_of(identity) if identity else None,
        csrf_token=identity.csrf_token if identity else "",
        on_plain_http=request.url.scheme == "http" and not is_loopback(host_name(request.headers.get("host", ""))),
        other_language=f"?{request.url.include_query_params(lang=other).query}",
    )


def person_of(identity: Identity) -> PersonOut:
    return PersonOut(
        id=identity.id,
        name=identity.name,
        role=identity.role.value,
        language=identity.language,
        created_at=identity.created_at,
    )


def language_of(request: Request) -> str:
    """What the address says, else the cookie, else the person's choice, else the browser's first that we speak."""
    identity: Identity | None = request.state.identity
    wishes = [
        request.query_params.get("lang"),
        request.cookies.get(LANGUAGE_COOKIE),
        identity.language if identity else None,
        *(part.split(";")[0].strip()[:2] for part in request.headers.get("accept-language", "").split(",")),
    ]
    return next((wish for wish in wishes if wish in LANGUAGES), "en")


# ---- filters --------------------------------------------------------------------------------------------------------


def size(count: float | None) -> str:
    """`1.2 MiB`."""
    if count is None:
        return "–"
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while count >= 1024 and power < len(units) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.0f} {units[power]}" if power == 0 or count >= 100 else f"{count:.1f} {units[power]}"


def number(value: float | None) -> str:
    """`12,345`."""
    return "–" if value is None else f"{value:,}"


def amount(value: float | None) -> str:
    """`7.6 B`, `494 M`; in Chinese by its own powers of ten: `76 亿`, `4.9 亿`."""
    if value is None:
        return "–"
    powers = ((1e8, "亿"), (1e4, "万")) if _language.get() == "zh" else ((1e9, "B"), (1e6, "M"), (1e3, "k"))
    power, unit = next(((power, unit) for power, unit in powers if value >= power), (1, ""))
    count = value / power
    return f"{count:,.0f} {unit}".strip() if count >= 100 or power == 1 else f"{count:.1f} {unit}"


def rate(value: float | None) -> str:
    """`2e-4`: ready-made formats round a learning rate to 0."""
    if value is None:
        return "–"
    return f"{value:g}" if value == 0 or value >= 0.01 else _exponential(value)


def _exponential(value: float) -> str:
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def metric(value: float | str | None) -> str:
    """A metric's value to four digits, as `metric` of src/words.ts says it; what is not finite comes as text."""
    if value is None or isinstance(value, str):
        return value or "–"
    if value != 0 and not 0.001 <= abs(value) < 1e6:
        return _exponential(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{float(f'{value:.4g}'):,.0f}"


def when(moment: datetime | None) -> Markup:
    """How long ago, the exact time on hover."""
    if moment is None:
        return Markup("–")
    exact = moment.astimezone(UTC)
    ago = _ago(round((exact - datetime.now(UTC)).total_seconds()), _language.get())
    written = f"{exact:%Y-%m-%d %H:%M:%S} UTC"
    return Markup(f'<time data-ago datetime="{exact.isoformat()}" title="{written}">{escape(ago)}</time>')


def _ago(seconds: int, language: str) -> str:
    """A list shows fifty of these, and most are alike: whole minutes from two on are worked out once."""
    seconds = seconds or -1  # nothing is 0 seconds ago
    return _in_words(seconds if abs(seconds) < 120 else seconds // 60 * 60, "zh_Hans" if language == "zh" else "en")


@lru_cache(maxsize=4096)
def _in_words(seconds: int, locale: str) -> str:
    from babel.dates import format_timedelta

    return format_timedelta(timedelta(seconds=seconds), add_direction=True, locale=locale)


def roughly(seconds: float) -> float:
    """An estimate says no more than it knows: ten seconds below ten minutes, then minutes, from two hours on ten of them."""
    grain = 10 if seconds < 600 else 60 if seconds < 7200 else 600
    return max(grain, round(seconds / grain) * grain) if seconds >= 10 else seconds


def duration(gettext: Callable[[str], str], seconds: float | None) -> str:
    """`2 h 5 min`: the two largest units."""
    if seconds is None:
        return "–"
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    parts = ((hours, "{n} h"), (minutes, "{n} min"), (seconds, "{n} s"))
    words = [gettext(form).format(n=count) for count, form in parts if count][:2]
    return " ".join(words) or gettext("{n} s").format(n=0)
