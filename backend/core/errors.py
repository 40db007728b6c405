"""One tree of errors. Each says what happened, where, and what to do next, and carries the HTTP status it becomes."""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass
from typing import Any


def sayable(text: str) -> str:
    """Words that quote a stranger's may hold half of a pair of surrogates, which no answer can carry."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with what a person gave us.

    `where` names the place as a person would look for it: `row 41`, `method.lora_alpha`, `line 7`.
    `code` is a stable, dotted word for programs and translations: `rows.no_answer`.
    """

    code: str
    message: str
    where: str = ""
    hint: str = ""

    def __post_init__(self) -> None:
        for name in ("message", "where", "hint"):
            object.__setattr__(self, name, sayable(getattr(self, name)))

    def as_json(self) -> dict[str, str]:
        return {key: value for key, value in asdict(self).items() if value}

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.message}{' ' + self.hint if self.hint else ''}"


class StudioError(Exception):
    """The root of every error that a person may see."""

    status = 500
    code = "error"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        where: str = "",
        code: str | None = None,
        problems: tuple[Problem, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message, self.hint, self.where = sayable(message), sayable(hint), sayable(where)
        self.problems = problems
        self.code = code or type(self).code

    @property
    def own(self) -> Problem:
        """What it says itself, without the problems that it lists."""
        return Problem(self.code, self.message, self.where, self.hint)

    def as_json(self) -> dict[str, Any]:
        """The error shape of the API: `{"error": {"code", "message", "where", "hint", "problems"}}`."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        body |= {key: value for key, value in (("where", self.where), ("hint", self.hint)) if value}
        if self.problems:
            body["problems"] = [problem.as_json() for problem in self.problems]
        return {"error": body}

    def __str__(self) -> str:
        lines = [str(self.own), *(f"  {p}" for p in self.problems)]
        return "\n".join(lines)


class Invalid(StudioError):
    """What was sent cannot be used; `problems` lists everything wrong with it at once."""

    status = 422
    code = "invalid"


class BadRequest(StudioError):
    """The request itself is malformed."""

    status = 400
    code = "bad_request"


class Unauthenticated(StudioError):
    status = 401
    code = "unauthenticated"


class Forbidden(StudioError):
    status = 403
    code = "forbidden"


class NotFound(StudioError):
    status = 404
    code = "not_found"


class Conflict(StudioError):
    """The thing is not in a state in which this can be done."""

    status = 409
    code = "conflict"


class TooLarge(StudioError):
    status = 413
    code = "too_large"


class TooMany(StudioError):
    """Try again later; `retry_after_seconds` says when."""

    status = 429
    code = "too_many"

    def __init__(self, message: str, *, retry_after_seconds: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(StudioError):
    """A service that this needs cannot be reached now."""

    status = 503
    code = "unavailable"
    retry_after_seconds = 5


class Unstorable(Unavailable):
    """A folder takes no file now: its disk is full, or it is closed to us."""

    status = 507
    code = "storage.refused"


FULL = (errno.ENOSPC, errno.EDQUOT)
POSTGRES_FULL = "53100"


def has_no_room(error: BaseException) -> bool:
    """Whether the disk, or what one may use of it, is full: for us, or for Postgres, which calls it an operation that failed."""
    cause = getattr(error, "orig", error)
    return cause.errno in FULL if isinstance(cause, OSError) else getattr(cause, "sqlstate", None) == POSTGRES_FULL


def disk_full() -> Unstorable:
    return Unstorable("The disk is full.", hint="Make room on the server, then try again.", code="disk_full")


class Fenced(StudioError):
    """A write under an attempt that is no longer the run's current one: it changed nothing."""

    status = 409
    code = "fenced"


def is_failure(error: BaseException) -> bool:
    """Whether something failed, and nobody ordered an end. A library in Rust that gives up raises what is no `Exception`, of
    a class that cannot be imported."""
    return isinstance(error, Exception) or is_panic(error)


def is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"
