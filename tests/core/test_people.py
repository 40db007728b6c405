"""People, sign-ins and tokens, on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.core import db, people
from backend.core.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from backend.core.models import ApiToken, Audit, Invitation, Role, SignIn, User
from backend.core.people import Identity


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    engine = db.engine(database_url, pool_size=1)
    with Session(engine) as session:
        yield session
    engine.dispose()


def person(session: Session, name: str, role: Role = Role.MEMBER) -> User:
    return people.create(session, name, "no password", role, by=None)


def signed_in(session: Session, user: User) -> Identity:
    identity = people.find_session(session, people.sign_in(session, user, "test", hours=1))
    assert identity
    return identity


def test_a_password_is_stored_as_argon2id_and_found_again() -> None:
    stored = people.hash_password("four quiet words here")
    assert stored.startswith("$argon2id$")
    assert people.password_matches("four quiet words here", stored)
    assert not people.password_matches("four quiet words", stored)
    assert not people.password_matches("anything", None)


@pytest.mark.parametrize("password", ["short", "x" * 1025, "é" * 600])
def test_a_password_has_bounds(password: str) -> None:
    with pytest.raises(Invalid, match="A password has"):
        people.check_password(password)


def test_a_ten_megabyte_password_is_never_hashed() -> None:
    assert not people.password_matches("x" * 10_000_000, people.hash_password("long enough"))


def test_the_set_up_link_works_once_and_is_kept_over_a_restart(session: Session, tmp_path: Path) -> None:
    link = people.setup_link(session, tmp_path)
    assert link == people.setup_link(session, tmp_path)
    assert (tmp_path / "setup-link").stat().st_mode & 0o777 == 0o600
    assert link is not None
    token = link.partition("=")[2]
    assert people.create_first_admin(session, token, "ada", "hash").role == Role.ADMIN
    with pytest.raises(Forbidden):
        people.create_first_admin(session, token, "eve", "hash")
    assert people.setup_link(session, tmp_path) is None
    assert not (tmp_path / "setup-link").exists()


def test_the_machines_own_account_cannot_sign_in_and_is_nobody_to_the_set_up_link(
    session: Session, tmp_path: Path
) -> None:
    machine = people.this_machine(session)
    assert people.this_machine(session) is machine
    assert not people.password_matches("", machine.password_hash)
    link = people.setup_link(session, tmp_path)
    assert link is not None
    ada = people.create_first_admin(session, link.partition("=")[2], "ada", "hash")
    with pytest.raises(Conflict):
        people.remove(session, ada, by=signed_in(session, ada))


def test_a_guessed_set_up_token_is_refused(session: Session, tmp_path: Path) -> None:
    people.setup_link(session, tmp_path)
    with pytest.raises(Forbidden):
        people.create_first_admin(session, "guess", "eve", "hash")


def test_a_name_is_taken_whatever_its_case(session: Session) -> None:
    person(session, "Ada")
    with pytest.raises(Conflict):
        person(session, "ada")
    assert people.find(session, "ADA").name == "Ada"


def test_who_took_the_id_of_another_as_a_name_is_not_found_by_it(session: Session) -> None:
    """Such an account may be there from a time when it could be made."""
    ada, thief = person(session, "ada"), person(session, "eve")
    thief.name = str(ada.id)
    session.flush()
    assert people.find(session, str(ada.id)) is people.by_id(session, ada.id) is ada


def test_nobody_takes_the_machines_own_name(session: Session) -> None:
    """Its tokens may do more than those of people."""
    ada = signed_in(session, person(session, "ada", Role.ADMIN))
    for password_hash, by in (("hash", ada), (people.NO_PASSWORD, ada), ("hash", None)):
        with pytest.raises(Conflict):
            people.create(session, " This Machine", password_hash, Role.ADMIN, by=by)
    assert people.this_machine(session).role == Role.ADMIN


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\nb", "x" * 81, "<b>", "01A21E20-986a-7c08-9e24-715bf460277f"])
def test_a_name_that_cannot_be_one_is_refused(session: Session, name: str) -> None:
    with pytest.raises(Invalid):
        person(session, name)


def test_the_last_administrator_stays_one(session: Session) -> None:
    ada = person(session, "ada", Role.ADMIN)
    admin = signed_in(session, ada)
    for act in (
        lambda: people.set_role(session, ada, Role.MEMBER, by=admin),
        lambda: people.disable(session, ada, by=admin),
        lambda: people.remove(session, ada, by=admin),
    ):
        with pytest.raises(Conflict, match="last administrator"):
            act()
    person(session, "bob", Role.ADMIN)
    people.set_role(session, ada, Role.MEMBER, by=admin)
    assert ada.role == Role.MEMBER


def test_a_sign_in_ends_by_sign_out_by_time_and_by_disabling(session: Session) -> None:
    ada = person(session, "ada")
    admin = signed_in(session, person(session, "root", Role.ADMIN))
    first, second = people.sign_in(session, ada, "a", hours=1), people.sign_in(session, ada, "b", hours=1)
    identity = people.find_session(session, first)
    assert identity
    people.sign_out(session, identity)
    assert people.find_session(session, first) is None
    people.disable(session, ada, by=admin)
    assert people.find_session(session, second) is None
    with pytest.raises(Unauthenticated):
        people.sign_in(session, ada, "c", hours=1)
    people.enable(session, ada, by=admin)
    third = people.sign_in(session, ada, "d", hours=1)
    session.execute(update(SignIn).values(expires_at=SignIn.created_at))
    assert people.find_session(session, third) is None


def test_whoever_signs_in_very_often_is_signed_out_where_they_were_not_seen_for_longest(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "MOST_SIGN_INS", 3)
    ada, bob = (people.create(session, name, "no password", Role.MEMBER, by=None) for name in ("ada", "bob"))
    his = people.sign_in(session, bob, "", hours=1)
    cookies = [people.sign_in(session, ada, "", hours=1) for _ in range(5)]
    assert [people.find_session(session, each) is not None for each in cookies] == [False, False, True, True, True]
    assert people.find_session(session, his)


def test_a_new_password_ends_every_other_sign_in(session: Session) -> None:
    ada = person(session, "ada")
    here, elsewhere = people.sign_in(session, ada, "here", hours=1), people.sign_in(session, ada, "there", hours=1)
    identity = people.find_session(session, here)
    assert identity
    people.set_password(session, ada, "new hash", by=identity)
    assert people.find_session(session, here)
    assert people.find_session(session, elsewhere) is None


def test_secrets_are_stored_hashed(session: Session) -> None:
    ada = person(session, "ada")
    cookie = people.sign_in(session, ada, "", hours=1)
    token = people.create_token(session, ada, "ci", role=Role.MEMBER, days=1, by=None)
    stored = [session.scalars(select(SignIn.token_hash)).one(), session.scalars(select(ApiToken.token_hash)).one()]
    assert stored == [people.hashed(cookie), people.hashed(token.secret)]


def test_a_token_is_bounded_by_its_role_and_by_its_owners(session: Session) -> None:
    ada = person(session, "ada", Role.ADMIN)
    person(session, "root", Role.ADMIN)
    admin = signed_in(session, ada)
    small = people.create_token(session, ada, "small", role=Role.VIEWER, days=None, by=None)
    large = people.create_token(session, ada, "large", role=Role.ADMIN, days=None, by=None)
    assert _role(session, small.secret) == Role.VIEWER
    assert _role(session, large.secret) == Role.ADMIN
    people.set_role(session, ada, Role.MEMBER, by=admin)
    assert _role(session, large.secret) == Role.MEMBER
    with pytest.raises(Forbidden):
        people.create_token(session, ada, "more", role=Role.ADMIN, days=None, by=None)


def _role(session: Session, secret: str) -> Role:
    session.flush()
    identity = people.find_bearer(session, secret)
    assert identity
    return identity.role


def test_a_token_is_refused_when_revoked_expired_or_its_owner_disabled(session: Session) -> None:
    ada = person(session, "ada")
    admin = signed_in(session, person(session, "root", Role.ADMIN))
    first, second, third = (
        people.create_token(session, ada, name, role=Role.MEMBER, days=1, by=None) for name in ("a", "b", "c")
    )
    people.revoke_token(session, str(first.row.id), owner_id=ada.id, by=ada.id)
    session.flush()
    assert people.find_bearer(session, first.secret) is None
    session.execute(update(ApiToken).where(ApiToken.id == second.row.id).values(expires_at=ApiToken.created_at))
    assert people.find_bearer(session, second.secret) is None
    assert people.find_bearer(session, third.secret)
    people.disable(session, ada, by=admin)
    session.flush()
    assert people.find_bearer(session, third.secret) is None


def test_nobody_revokes_the_token_of_another(session: Session) -> None:
    ada, eve = person(session, "ada"), person(session, "eve")
    token = people.create_token(session, ada, "ci", role=Role.MEMBER, days=1, by=None)
    with pytest.raises(NotFound):
        people.revoke_token(session, str(token.row.id), owner_id=eve.id, by=eve.id)


def test_what_was_done_to_people_is_written_down(session: Session) -> None:
    ada, root = person(session, "ada"), person(session, "root", Role.ADMIN)
    admin = signed_in(session, root)
    people.set_role(session, ada, Role.VIEWER, by=admin)
    people.remove(session, ada, by=admin)
    session.flush()
    told = session.execute(select(Audit.action, Audit.subject).where(Audit.user_id == root.id).order_by(Audit.id))
    assert [tuple(row) for row in told][-2:] == [("person.role", "ada"), ("person.remove", "ada")]


def test_the_machines_own_account_is_no_second_administrator(session: Session) -> None:
    people.this_machine(session)
    ada = person(session, "ada", Role.ADMIN)
    with pytest.raises(Conflict, match="last administrator"):
        people.set_role(session, ada, Role.VIEWER, by=signed_in(session, ada))


# ---- invitations ----------------------------------------------------------------------------------------------------


def test_an_invitation_works_once_and_a_fresh_one_replaces_it(session: Session) -> None:
    admin, bob = signed_in(session, person(session, "ada", Role.ADMIN)), person(session, "bob")
    old, new = people.invite(session, bob, by=admin), people.invite(session, bob, by=admin)
    assert new not in session.scalars(select(Invitation.token_hash))
    with pytest.raises(Forbidden, match="not the newest"):
        people.invited(session, old)
    assert people.accept(session, new, "fresh").role == Role.MEMBER
    with pytest.raises(Forbidden, match="used already"):
        people.accept(session, new, "again")


def test_a_link_holds_no_more_once_the_password_is_set_or_the_account_disabled(session: Session) -> None:
    admin, bob = signed_in(session, person(session, "ada", Role.ADMIN)), person(session, "bob")
    forgotten = people.invite(session, bob, by=admin)
    people.set_password(session, bob, "his own", by=signed_in(session, bob))
    with pytest.raises(Forbidden):
        people.invited(session, forgotten)
    kept = people.invite(session, bob, by=admin)
    people.disable(session, bob, by=admin)
    people.enable(session, bob, by=admin)
    with pytest.raises(Forbidden):
        people.invited(session, kept)


def test_nobody_gets_a_password_for_the_account_of_this_machine(session: Session) -> None:
    admin, machine = signed_in(session, person(session, "ada", Role.ADMIN)), people.this_machine(session)
    with pytest.raises(Conflict, match="no password"):
        people.invite(session, machine, by=admin)
    with pytest.raises(Conflict, match="no password"):
        people.set_password(session, machine, "a hash", by=admin)
