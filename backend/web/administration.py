"""What settings show of people, their browsers, the audit and the disk. Reads only; pages and the API share it."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.core import audit, disk, people
from backend.core.bulk import among
from backend.core.models import ApiToken, Attempt, Run, SignIn, User
from backend.core.people import Identity
from backend.web.shapes.common import Json
from backend.web.shapes.people import AuditOut, MemberOut, SessionOut
from backend.web.shapes.studio import RunBytesOut, StorageOut, WasteOut

if TYPE_CHECKING:
    from backend.web.studio import Studio

# ---- people ---------------------------------------------------------------------------------------------------------


MEMBER_FIELDS = ("id", "name", "role", "language", "created_at", "disabled_at", "seen_at")


def members(session: Session, limit: int | None = None, offset: int = 0) -> list[MemberOut]:
    found = people.listing(session, limit, offset)
    hours, invitations = hours_this_month(session), people.open_invitations(session)
    last_admin = people.last_admin(session)
    runs = _counts(session, Run.owner_id)
    sessions = _counts(session, SignIn.user_id, SignIn.expires_at > func.clock_timestamp())
    unexpired = ApiToken.expires_at.is_(None) | (ApiToken.expires_at > func.clock_timestamp())
    tokens = _counts(session, ApiToken.user_id, ApiToken.revoked_at.is_(None), unexpired)
    return [
        MemberOut(
            **{field: getattr(user, field) for field in MEMBER_FIELDS},
            invited_until=invitations[user.id].expires_at if user.id in invitations else None,
            is_program=user.name == people.THIS_MACHINE,
            is_last_admin=user.id == last_admin,
            runs=runs.get(user.id, 0),
            device_hours=round(hours.get(user.id, 0.0), 2),
            sessions=sessions.get(user.id, 0),
            tokens=tokens.get(user.id, 0),
        )
        for user in found
    ]


def _counts(session: Session, owner: object, *where: object) -> dict[UUID, int]:
    query = select(owner, func.count()).where(owner.is_not(None), *where).group_by(owner)  # type: ignore[attr-defined,call-overload]
    return dict(session.execute(query).all())


def hours_this_month(session: Session) -> dict[UUID, float]:
    """Hours that each person's runs have held devices since the month began, in UTC."""
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = func.coalesce(Attempt.ended_at, func.clock_timestamp())
    seconds = func.sum(func.extract("epoch", end - func.greatest(Attempt.started_at, month)))
    query = select(Run.owner_id, seconds).join(Run, Run.id == Attempt.run_id)
    query = query.where(Run.owner_id.is_not(None), end > month).group_by(Run.owner_id)
    return {owner: float(total) / 3600 for owner, total in session.execute(query) if owner}


# ---- browsers -------------------------------------------------------------------------------------------------------

BROWSERS = (
    (r"Edg(?:A|iOS)?/(\d+)", "Edge"),
    (r"OPR/(\d+)", "Opera"),
    (r"(?:Firefox|FxiOS)/(\d+)", "Firefox"),
    (r"(?:Chrome|CriOS|Chromium)/(\d+)", "Chrome"),
    (r"Version/(\d+)[\d.]* (?:Mobile/\w+ )?Safari", "Safari"),
)
"""The more particular first: nearly all of them say they are Safari too."""
SYSTEMS = (
    (r"iPhone|iPad", "iOS"),
    (r"Android", "Android"),
    (r"Windows", "Windows"),
    (r"Mac OS X|Macintosh", "macOS"),
    (r"CrOS", "ChromeOS"),
    (r"Linux|X11", "Linux"),
)


def browser_of(user_agent: str) -> tuple[str, str]:
    """`("Firefox 142", "Linux")`; for what is no browser that we know, the first word of what it says of itself."""
    found = ((re.search(pattern, user_agent), name) for pattern, name in BROWSERS)
    browser = next((f"{name} {match[1]}" for match, name in found if match), "")
    system = next((name for pattern, name in SYSTEMS if re.search(pattern, user_agent)), "")
    return browser or user_agent.split(" ")[0].replace("/", " ")[:40], system


def sessions(session: Session, who: Identity) -> list[SessionOut]:
    return [_session_out(row, who) for row in people.sessions_of(session, who.id)]


def _session_out(row: SignIn, who: Identity) -> SessionOut:
    browser, system = browser_of(row.user_agent)
    return SessionOut(
        id=people.session_name(row),
        browser=browser,
        system=system,
        user_agent=row.user_agent,
        is_this=row.token_hash == who.credential,
        created_at=row.created_at,
        seen_at=row.seen_at,
        expires_at=row.expires_at,
    )


# ---- the audit ------------------------------------------------------------------------------------------------------


def audit_page(session: Session, wanted: audit.Wanted, limit: int) -> tuple[list[AuditOut], str | None]:
    """A page of the audit, and the cursor of the one after it."""
    rows = audit.entries(session, wanted, limit + 1)
    following = str(rows[limit - 1].id) if len(rows) > limit else None
    return [AuditOut.model_validate(row) for row in rows[:limit]], following


# ---- the disk -------------------------------------------------------------------------------------------------------


class Gauge:
    """How full the disk is, measured beside the requests, so that none of them waits for it."""

    FRESH_SECONDS = 60.0

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.usage: disk.Usage | None = None
        self.waste: disk.Waste | None = None
        self.measured_at = -self.FRESH_SECONDS
        self.is_measuring = False

    def look(self) -> None:
        """Measure again if what is known is old. Returns at once."""
        if not self.is_measuring and time.monotonic() - self.measured_at > self.FRESH_SECONDS:
            self.is_measuring = True
            self.studio.spawn(self.measure())

    async def measure(self) -> None:
        try:
            self.usage = await asyncio.to_thread(disk.measure, self.studio.settings.root)
            self.waste = await asyncio.to_thread(self._look_for_waste)
        finally:
            self.measured_at, self.is_measuring = time.monotonic(), False

    def _look_for_waste(self) -> disk.Waste:
        with self.studio.at_once() as session:
            return disk.waste(session, self.studio.settings)

    async def clean_up(self, by: Identity) -> disk.Waste:
        """Free what can be freed, and measure anew."""
        try:
            return await asyncio.to_thread(self._clean_up, by)
        finally:
            await self.measure()

    def _clean_up(self, by: Identity) -> disk.Waste:
        freed = disk.Waste()
        try:
            for each in disk.clean_up(self.studio.sync_sessions.begin, self.studio.settings):
                freed += each
        except Exception:
            if freed.total_bytes:
                self._note(by, freed)
            raise
        self._note(by, freed)
        return freed

    def _note(self, by: Identity, freed: disk.Waste) -> None:
        with self.studio.sync_sessions.begin() as session:
            people.audit(session, by.id, "storage.clean_up", "", **_waste_fields(freed))


def waste_out(waste: disk.Waste) -> WasteOut:
    return WasteOut.model_validate(_waste_fields(waste))


def _waste_fields(waste: disk.Waste) -> Json:
    return vars(waste) | {"total_bytes": waste.total_bytes}


def storage_out(session: Session, gauge: Gauge) -> StorageOut:
    """What the gauge last saw; the runs by the names that they have now."""
    seen = gauge.usage
    if seen is None:
        return StorageOut(is_measuring=gauge.is_measuring)
    return StorageOut(
        at=seen.at,
        is_measuring=gauge.is_measuring,
        total_bytes=seen.total_bytes,
        free_bytes=seen.free_bytes,
        used_bytes=seen.used_bytes,
        kinds=seen.kinds,
        runs=_run_bytes(session, seen.runs),
        waste=waste_out(gauge.waste) if gauge.waste else None,
    )


def _run_bytes(session: Session, sizes: dict[UUID, int]) -> list[RunBytesOut]:
    query = select(Run.id, Run.name, User.name, Run.state).outerjoin(User, User.id == Run.owner_id)
    known = {row[0]: row[1:] for row in session.execute(query.where(among(Run.id, sizes)))}
    nobody = (None, None, None)
    return [
        RunBytesOut(id=run_id, name=name, owner=owner, state=state, bytes=size)
        for run_id, size in sizes.items()
        for name, owner, state in (known.get(run_id, nobody),)
    ]
