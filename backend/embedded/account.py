"""As whom Postgres runs. It refuses to be root, so root gives it a user: one made by the kernel, or `nobody`."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from backend.embedded.home import digest_of, private_folder

NOBODY = 65534
NAMESPACE = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
"""A user namespace in which our own files belong to `nobody`, a uid that every /etc/passwd knows."""

SYSTEM_DATA = Path("/var/lib/finetune-studio")


@dataclass(frozen=True)
class Account:
    """How to start a program that must not run as root.

    `prefix` goes before the command; `uid` is the user to become, or None to stay who we are.
    """

    prefix: tuple[str, ...] = ()
    uid: int | None = None

    def folder(self, home: Path) -> Path:
        """Where the program's data lie: `home/postgres`, or for another user a place that this user can reach.

        The second is named by a link in the home, for the home is closed to others, as are the folders above it often.
        Data once made there stay there, whoever we are at a later start.
        """
        inside = private_folder(home / "postgres")
        link = inside / "elsewhere"
        if self.uid is None and not link.is_symlink():
            return inside
        outside = SYSTEM_DATA / digest_of(home)
        outside.mkdir(parents=True, exist_ok=True)
        SYSTEM_DATA.chmod(0o711)
        outside.chmod(0o700)
        if (inside / "data").exists():
            shutil.move(inside / "data", outside / "data")
        if not link.is_symlink():
            link.symlink_to(outside)
        self.own(outside)
        return outside

    def own(self, path: Path) -> None:
        """Give `path` and all below it to this account, where it is not so already."""
        uid = os.geteuid() if self.uid is None else self.uid
        if path.exists() and path.stat().st_uid != uid:
            os.chown(path, uid, uid)
            for entry in path.rglob("*"):
                os.chown(entry, uid, uid, follow_symlinks=False)


OURSELVES = Account()
NAMESPACED = Account(prefix=NAMESPACE)
AS_NOBODY = Account(uid=NOBODY)


def choose_account() -> Account:
    """Ourselves, unless we are root or a number without a name, which Postgres refuses both.

    Then a user namespace; where the kernel refuses that, root takes `nobody`.
    """
    if os.geteuid() != 0 and _has_name(os.geteuid()):
        return OURSELVES
    if namespaces_work():
        return NAMESPACED
    return AS_NOBODY if os.geteuid() == 0 else OURSELVES


def _has_name(uid: int) -> bool:
    """Containers are often run as a number that their /etc/passwd does not know."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def namespaces_work() -> bool:
    """Whether this kernel and container let us make a user namespace."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
