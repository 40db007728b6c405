"""The one folder of a studio: who owns it, its secrets, its short-lived files and the locks that guard it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.core.errors import StudioError

SOCKET_PATH_LIMIT = 107
"""Bytes that the kernel leaves for the path of a unix socket."""


class HomeError(StudioError):
    """The home folder cannot be used as it is."""

    code = "home"


class Locked(HomeError):
    """Another process holds the lock; `holder` is what it wrote there, such as its process id."""

    status = 409
    code = "home.locked"

    def __init__(self, message: str, *, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


def prepare_home(home: Path) -> Path:
    """Make `home` where it is missing, private to us, with the folder for base models, and return its absolute path.

    Raises `HomeError` where the folder belongs to somebody else, with the line that repairs it.
    """
    home = home.expanduser().resolve()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        hint = "Set STUDIO_HOME to a folder that you may write to."
        raise HomeError(f"{home} cannot be made: {error.strerror}.", hint=hint) from error
    owner = home.stat().st_uid
    if owner != os.geteuid():
        raise HomeError(
            f"{home} belongs to user {owner}, and this is user {os.geteuid()}.",
            hint=f"Run: sudo chown -R {os.geteuid()}:{os.getegid()} {home}  (or set STUDIO_HOME to another folder).",
        )
    if not (home / "models").is_symlink():
        (home / "models").mkdir(exist_ok=True)  # a model's folder copied to where none is would become that folder
    return home


def private_folder(path: Path) -> Path:
    """A folder that only we may enter. One that somebody else prepared is refused, a symbolic link too."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise HomeError(f"{path} is not a folder of ours.", hint="Remove it and start again.")
    path.chmod(0o700)
    return path


def secret(path: Path) -> str:
    """The password kept in `path`, made on first use; only we may read the file."""
    if path.exists():
        return path.read_text().strip()
    made = secrets.token_urlsafe(32)
    write_private(path, made + "\n")
    return made


def write_private(path: Path, text: str) -> None:
    """Write `text` so that nobody else can read it at any time and no half of it is ever seen."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def digest_of(home: Path) -> str:
    """A short name for this home, for files that cannot lie in it."""
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:12]


def socket_folder(home: Path, socket_name: str) -> Path:
    """A private folder in which a socket called `socket_name` has a path that the kernel takes.

    That is `home/run`, or where its path is too long a folder in the user's runtime directory or in `/tmp`.
    """
    short = f"finetune-studio-{os.geteuid()}-{digest_of(home)}"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    places = [
        home / "run",
        *([Path(runtime) / short] if Path(runtime).is_dir() and runtime else []),
        Path("/tmp") / short,
    ]
    for place in places:
        if len(os.fsencode(place / socket_name)) <= SOCKET_PATH_LIMIT:
            return private_folder(place)
    raise HomeError(
        f"No folder is short enough for a unix socket ({places[-1]}).", hint="Set STUDIO_HOME to a short path."
    )


def lock(path: Path, *, wait_seconds: float = 0.0, note: str = "") -> int:
    """Take the exclusive lock of `path` and return its file descriptor; closing every copy of it frees the lock.

    A child that inherits the descriptor holds the lock as well, for as long as it or one of its own children lives.
    Raises `Locked` when somebody still holds it after `wait_seconds`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_seconds
    while not _try_lock(descriptor):
        if time.monotonic() >= deadline:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise Locked(f"{path} is held by another process.", holder=holder)
        time.sleep(0.02)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, note.encode())
    return descriptor


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def standing_note(path: Path, note: str) -> Iterator[None]:
    """`note` in `path`, private, for as long as the context lasts. Its lock is that of this very file, taken before anybody can
    see it: whoever ends without a word leaves a note that `noted` does not take for a living one's."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    held = lock(draft, note=note)
    try:
        draft.rename(path)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(held)


def noted(path: Path) -> str:
    """What stands in the `standing_note` of a process that lives; empty where there is none."""
    try:
        file = path.open()
    except OSError:
        return ""
    with file:
        abandoned = _try_lock(file.fileno(), fcntl.LOCK_SH)  # shared: others who read it do not hold it against us
        return "" if abandoned else file.read().strip()


def rotated_log(home: Path, name: str) -> Path:
    """`home/logs/<name>.log`, fresh; what the last start wrote there is kept as `<name>.log.1`."""
    path = private_folder(home / "logs") / f"{name}.log"
    if path.exists() and path.stat().st_size:
        path.replace(path.with_name(f"{name}.log.1"))
    return path
