"""Invitations: making links, using them to register and to become friends, and who may not."""

import re
from datetime import timedelta
from html import unescape
from threading import Barrier, Thread

import pytest
from sqlalchemy import func, select, update

from noxchat import friendships, invitations, passwords
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import Event, Invitation, User, friend_requests, friends
from tests.auth.test_email_addresses import run_elsewhere
from tests.auth.test_register import MILA
from tests.conftest import PASSWORD, Browser, act, befriend, make_person


@pytest.fixture
def alice_any(any_app):
    return make_person(any_app, "Alice", public_id="alice")


def make_link(app, person, htmx=False, **fields):
    """Make an invitation in the settings; return the path of its link."""
    answer = Browser(app, person).post("/settings/invitations", fields, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    page = answer.text if htmx else Browser(app, person).get("/settings/invitations").text
    return re.search(r'value="http://[^/"]+(/i/[^"]+)"', page)[1]


def friend_names(app, name):
    """Return the names of somebody's friends."""
    with app.app_context():
        user = db.session.scalar(select(User.id).where(User.username == name))
        found = select(User.username).join(friends, friends.c.friend_id == User.id).where(friends.c.user_id == user)
        return sorted(db.session.scalars(found))


def uses(app):
    with app.app_context():
        return db.session.scalar(select(func.sum(Invitation.uses)))


def registration_path(page):
    return unescape(re.search(r'href="(/auth/register[^"]+)"', page)[1])


def register_with(app, link, browser=None, **more):
    """Open a link, go to the form to register, and send it; return the answer."""
    browser = browser or Browser(app)
    form = browser.get(registration_path(browser.get(link).text)).text
    token = unescape(re.search(r'name="invitation" value="([^"]+)"', form)[1])
    return browser.post("/auth/register", {**MILA, "invitation": token, **more})


@pytest.mark.parametrize("htmx", [False, True])
def test_who_registers_through_a_link_becomes_a_friend(any_app, alice_any, htmx):
    link = make_link(any_app, alice_any, htmx)
    guest = Browser(any_app)
    page = guest.get(link, htmx=htmx)
    assert page.status_code == 200 and "Alice" in page.text and "@alice" in page.text
    assert page.headers["Cache-Control"] == "no-store"
    answer = register_with(any_app, link, guest)
    assert (answer.status_code, answer.location) == (303, "/")
    home = guest.get("/").text
    assert "You and Alice are friends now." in home and 'data-user="alice"' in home
    assert friend_names(any_app, "Mila") == ["Alice"] and friend_names(any_app, "Alice") == ["Mila"]
    assert uses(any_app) == 1


def test_inviter_is_told_live(any_app, alice_any):
    register_with(any_app, make_link(any_app, alice_any))
    with any_app.app_context():
        assert db.session.scalar(select(func.count()).where(Event.user_id == alice_any.id)) == 1


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize("before", ["none", "outgoing", "incoming", "declined"])
def test_be_friends(any_app, alice_any, before, htmx):
    bob = make_person(any_app, "Bob", public_id="bobby")
    with any_app.test_request_context():
        begin_write(db.session)
        if before in ("outgoing", "declined"):
            act(friendships.send, bob, alice_any)
        if before == "declined":
            act(friendships.decline, alice_any, bob)
        if before == "incoming":
            act(friendships.send, alice_any, bob)
        db.session.commit()
    link = make_link(any_app, alice_any)
    browser = Browser(any_app, bob)
    assert "Be friends" in browser.get(link, htmx=htmx).text
    answer = browser.post(link, htmx=htmx)
    assert (answer.headers.get("HX-Redirect") or answer.location) == "/u/alice"
    assert answer.status_code == (200 if htmx else 303)
    page = browser.get("/u/alice").text
    assert "You and Alice are friends now." in page and 'data-friendship="friends"' in page
    assert friend_names(any_app, "Bob") == ["Alice"] and uses(any_app) == 1
    with any_app.app_context():
        assert db.session.scalar(select(func.count()).select_from(friend_requests)) == 0


@pytest.mark.parametrize("htmx", [False, True])
def test_friends_use_nothing_of_it(any_app, alice_any, htmx):
    bob = make_person(any_app, "Bob")
    befriend(any_app, alice_any, bob)
    link = make_link(any_app, alice_any)
    browser = Browser(any_app, bob)
    assert "You are friends already" in browser.get(link, htmx=htmx).text
    for _again in range(2):
        assert browser.post(link, htmx=htmx).status_code == (200 if htmx else 303)
    assert uses(any_app) == 0 and "are friends now" not in browser.get("/").text


def test_own_link_and_blocked_inviter(any_app, alice_any):
    link = make_link(any_app, alice_any)
    own = Browser(any_app, alice_any)
    assert "your own invitation" in own.get(link).text
    assert own.post(link, htmx=True).status_code == 409
    bob = Browser(any_app, make_person(any_app, "Bob", public_id="bobby"))
    bob.post("/u/alice/block")
    assert bob.get(link).status_code == 200
    answer = bob.post(link)
    assert answer.status_code == 303 and "You blocked Alice" in bob.get("/").text
    assert bob.post(link, htmx=True).status_code == 409
    assert uses(any_app) == 0 and friend_names(any_app, "Bob") == []


def test_used_expired_revoked_and_blocked_get_the_same_404(any_app, alice_any):
    bob = make_person(any_app, "Bob", public_id="bobby")
    used, expired, revoked, blocked = (make_link(any_app, alice_any) for _each in range(4))
    alice = Browser(any_app, alice_any)
    with any_app.app_context():
        ids = list(db.session.scalars(select(Invitation.id).order_by(Invitation.id)))
        db.session.execute(update(Invitation).where(Invitation.id == ids[0]).values(uses=5))
        past = now() - timedelta(seconds=1)
        db.session.execute(update(Invitation).where(Invitation.id == ids[1]).values(expires_at=past))
        db.session.commit()
    assert alice.post(f"/settings/invitations/{ids[2]}/revoke").status_code == 303
    listed = alice.get("/settings/invitations").text
    assert "used up" in listed and "expired" in listed and listed.count('value="http') == 1
    alice.post("/u/bobby/block")
    browser, texts = Browser(any_app, bob), set()
    for link in (used, expired, revoked, blocked, "/i/nonsense", blocked + "x", blocked[:-1], "/i/" + "x" * 3000):
        for htmx in (False, True):
            page = browser.get(link, htmx=htmx)
            assert page.status_code == 404, link
            assert browser.post(link, htmx=htmx).status_code == 404
            texts.add((htmx, page.text.replace(page.headers["X-Request-ID"], "").replace(link, "")))
        assert Browser(any_app).get(link).status_code == (200 if link == blocked else 404)
    assert len(texts) == 2
    assert uses(any_app) == 5 and friend_names(any_app, "Bob") == []


def test_visitor_who_presses_is_asked_to_log_in_and_comes_back(any_app, alice_any):
    link = make_link(any_app, alice_any)
    guest = Browser(any_app)
    assert guest.post(link).location == f"/auth/login?next={link}"
    answer = guest.post(link, htmx=True, headers={"HX-Current-URL": f"http://localhost{link}"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, f"/auth/login?next={link}")
    make_person(any_app, "Bob", public_id="bobby")
    assert f'href="/auth/login?next={link}"' in guest.get(link).text
    fields = {"identifier": "bobby", "password": PASSWORD}
    assert guest.post(f"/auth/login?next={link}", fields).location == link


def test_token_is_required(any_app, alice_any):
    link = make_link(any_app, alice_any)
    bob = Browser(any_app, make_person(any_app, "Bob"))
    assert bob.post(link, token=None).status_code == 400
    assert Browser(any_app, alice_any).post("/settings/invitations", token=None).status_code == 400
    assert uses(any_app) == 0


def in_threads(*calls):
    """Call all at once; return what each returned."""
    barrier, results = Barrier(len(calls)), []

    def run(call):
        barrier.wait()
        results.append(call())

    threads = [Thread(target=run, args=(call,)) for call in calls]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return results


def test_one_of_eight_gets_the_last_use(any_app, alice_any):
    """Four who register and four who have an account, at the same moment."""
    link = make_link(any_app, alice_any, uses=1)
    calls = []
    for letter in "abcd":
        person = Browser(any_app, make_person(any_app, f"Person {letter}"))
        token = person.token()
        calls.append(lambda person=person, token=token: person.post(link, token=token).status_code)
        guest = Browser(any_app)
        token = guest.token()
        fields = {**MILA, "username": f"Guest {letter}", "email": f"g{letter}@x.example", "invitation": link[3:]}
        calls.append(
            lambda guest=guest, token=token, fields=fields: (
                guest.post("/auth/register", fields, token=token).status_code
            )
        )
    codes = in_threads(*calls)
    assert codes.count(303) == 1 and set(codes) <= {303, 404, 422}, codes
    assert len(friend_names(any_app, "Alice")) == 1 and uses(any_app) == 1
    with any_app.app_context():  # nobody is half-registered
        assert db.session.scalar(select(func.count()).select_from(User)) in (5, 6)


def test_newcomer_does_not_use_another_invitation_than_the_one_they_opened(any_app, alice_any, monkeypatch):
    """Alice revokes hers while the password is hashed, and Clara makes one, which must not get its id."""
    link, clara = make_link(any_app, alice_any), make_person(any_app, "Clara")
    alice, hash_password = Browser(any_app, alice_any), passwords.hash_password
    token = alice.token()

    def revoke():
        alice.post("/settings/invitations/1/revoke", token=token)
        make_link(any_app, clara, uses=1)

    def revoke_first(password):
        run_elsewhere(revoke)
        return hash_password(password)

    monkeypatch.setattr(passwords, "hash_password", revoke_first)
    answer = Browser(any_app).post("/auth/register", {**MILA, "invitation": link[3:]})
    assert answer.status_code == 422 and uses(any_app) == 0
    with any_app.app_context():
        assert list(db.session.scalars(select(Invitation.id))) == [2]


def test_inviter_who_takes_the_newcomers_name_meanwhile_is_no_deadlock(make_app):
    app = make_app("postgresql")
    alice = make_person(app, "Alice", public_id="alice")
    link, browser, token = make_link(app, alice), Browser(app, alice), None
    token = browser.token()
    for number in range(6):
        name = f"Same name {'abcdef'[number]}"
        guest = Browser(app)
        fields = {**MILA, "username": name, "email": f"n{number}@nox.example", "invitation": link[3:]}
        guest_token = guest.token()
        codes = in_threads(
            lambda guest=guest, fields=fields, guest_token=guest_token: (
                guest.post("/auth/register", fields, token=guest_token).status_code
            ),
            lambda name=name: (
                browser.post(
                    "/settings/profile", {"username": name, "public_id": "alice", "bio": ""}, token=token
                ).status_code
            ),
        )
        assert set(codes) <= {303, 422}, codes


def test_logged_in_person_who_opens_the_form_is_sent_to_the_invitation(any_app, alice_any):
    link = make_link(any_app, alice_any)
    bob = Browser(any_app, make_person(any_app, "Bob"))
    assert bob.get(f"/auth/register?invitation={link[3:]}").location == link
    page = Browser(any_app).get(f"/auth/register?invitation={link[3:]}").text
    assert f'href="/auth/login?next={link}"' in page  # nor is it lost by those who would rather log in


def test_registering_with_a_dead_invitation_keeps_what_was_typed(any_app, alice_any):
    link = make_link(any_app, alice_any, uses=1)
    guest = Browser(any_app)
    assert "You become friends with" in guest.get("/auth/register?invitation=" + link[3:]).text
    Browser(any_app, make_person(any_app, "Bob")).post(link)
    answer = guest.post("/auth/register", {**MILA, "invitation": link[3:]})
    assert answer.status_code == 422 and "no longer works" in answer.text
    assert 'value="Mila"' in answer.text and 'name="invitation"' not in answer.text
    assert guest.get("/auth/register?invitation=nonsense").text.count("no longer works") == 1
    assert guest.post("/auth/register", MILA).status_code == 303
    assert friend_names(any_app, "Mila") == []


def test_language_switch_keeps_the_invitation(any_app, alice_any):
    """Also after an error, when the URL of the page does not name it any more."""
    link = make_link(any_app, alice_any)
    guest = Browser(any_app)
    for page in (
        guest.get(f"/auth/register?invitation={link[3:]}"),
        guest.post("/auth/register", {"invitation": link[3:]}),
    ):
        back = unescape(re.search(r'name="next" value="([^"]+)"', page.text)[1])
        answer = guest.post("/settings/look", {"language": "ru", "next": back})
        assert "Вашим другом станет" in guest.get(answer.location).text


def test_place_for_invited_people(make_app):
    app = make_app(REGISTRATION="invitation")
    alice = make_person(app, "Alice", public_id="alice")
    link = make_link(app, alice, uses=1)
    assert Browser(app).get("/auth/register?invitation=nonsense").status_code == 403
    assert register_with(app, link).status_code == 303
    assert friend_names(app, "Alice") == ["Mila"]
    late = Browser(app).post("/auth/register", {**MILA, "username": "Nika", "invitation": link[3:]})
    assert late.status_code == 403 and "To join, you need an invitation" in late.text


def test_closed_place_lets_nobody_register_but_friends_meet(make_app):
    app = make_app(REGISTRATION="closed")
    alice, bob = make_person(app, "Alice", public_id="alice"), make_person(app, "Bob", public_id="bobby")
    link = make_link(app, alice)
    page = Browser(app).get(link).text
    assert "/auth/register" not in page and "New people cannot join" in page
    assert Browser(app).post("/auth/register", {**MILA, "invitation": link[3:]}).status_code == 403
    assert Browser(app, bob).post(link).status_code == 303 and friend_names(app, "Bob") == ["Alice"]


def test_command_makes_the_first_link(make_app):
    app = make_app(REGISTRATION="invitation")
    run = app.test_cli_runner().invoke
    done = run(args=["invite", "--uses", "2"])
    assert done.exit_code == 0, done.output
    link = re.search(r"http://[^/]+(/i/\S+)", done.output)[1]
    page = Browser(app).get(link).text
    assert "You are invited" in page
    assert register_with(app, link).status_code == 303 and friend_names(app, "Mila") == []
    mila = Browser(app)
    mila.log_in("mila@nox.example")
    assert "You have an account here already" in mila.get(link).text
    assert mila.post(link).status_code == 404 and uses(app) == 1
    done = run(args=["invite", "--from", "mila@nox.example"])
    link = re.search(r"http://[^/]+(/i/\S+)", done.output)[1]
    assert "Mila" in Browser(app).get(link).text
    assert run(args=["invite", "--from", "nobody"]).exit_code == 1
    assert run(args=["invite", "--uses", "0"]).exit_code == 2


# In the settings


@pytest.mark.parametrize(
    "fields",
    [{"uses": "0"}, {"uses": "101"}, {"uses": "x"}, {"uses": "1e3"}, {"uses": ""}, {"uses": "9" * 5000}]
    + [{"days": "0"}, {"days": "31"}, {"days": "-1"}, {"days": ""}, {"days": "7", "uses": "1.5"}],
)
@pytest.mark.parametrize("htmx", [False, True])
def test_invalid_numbers_are_refused(app, alice, alice_browser, fields, htmx):
    answer = alice_browser.post("/settings/invitations", fields, htmx=htmx)
    assert answer.status_code == 422 and answer.text.count("Write a whole number from 1 to") == 2  # summary and field
    assert ("<html" in answer.text) != htmx
    with app.app_context():
        assert db.session.scalar(select(func.count()).select_from(Invitation)) == 0


def test_numbers_are_stored_and_have_defaults(app, alice):
    for fields in ({}, {"uses": "100", "days": "30"}, {"uses": " 1 ", "days": "1"}):
        make_link(app, alice, **fields)
    with app.app_context():
        rows = list(db.session.scalars(select(Invitation).order_by(Invitation.id)))
        found = [(row.max_uses, round((row.expires_at - now()) / timedelta(days=1))) for row in rows]
        assert found == [(5, 7), (100, 30), (1, 1)]
        # The link is not in the database.
        assert all(row.code in invitations.tokens.create_invitation_token(row) for row in rows)
        assert len({row.code for row in rows}) == 3


@pytest.mark.parametrize("htmx", [False, True])
def test_somebody_has_at_most_ten_open_invitations(app, alice, alice_browser, htmx):
    links = [make_link(app, alice, uses=1) for _each in range(10)]
    answer = alice_browser.post("/settings/invitations", htmx=htmx)
    assert answer.status_code == (409 if htmx else 303)
    text = answer.text if htmx else alice_browser.get("/settings/invitations").text
    assert "You have 10 invitations open" in text
    assert Browser(app, make_person(app, "Bob")).post(links[0]).status_code == 303
    make_link(app, alice)  # the used one makes room, and is deleted
    with app.app_context():
        assert db.session.scalar(select(func.count()).select_from(Invitation)) == 10


@pytest.mark.parametrize("htmx", [False, True])
def test_only_own_invitations_can_be_revoked_and_drawn(app, alice, alice_browser, htmx):
    make_link(app, alice)
    bob = Browser(app, make_person(app, "Bob"))
    assert bob.post("/settings/invitations/1/revoke", htmx=htmx).status_code == (200 if htmx else 303)
    for number in (1, 2, 2**40):
        assert bob.get(f"/settings/invitations/{number}/code.svg").status_code == 404
    assert uses(app) == 0
    assert alice_browser.post(f"/settings/invitations/{2**40}/revoke").status_code == 404
    for _again in range(2):
        answer = alice_browser.post("/settings/invitations/1/revoke", htmx=htmx)
        assert answer.status_code == (200 if htmx else 303)
    assert uses(app) is None


def test_qr_code_is_drawn(app, alice, alice_browser):
    make_link(app, alice)
    answer = alice_browser.get("/settings/invitations/1/code.svg")
    assert answer.mimetype == "image/svg+xml" and answer.headers["Cache-Control"] == "no-store"
    assert answer.text.lstrip().startswith(("<?xml", "<svg")) and "<script" not in answer.text
    assert '/settings/invitations/1/code.svg"' in alice_browser.get("/settings/invitations").text


def test_empty_friends_page_offers_a_link(app, alice, alice_browser):
    page = alice_browser.get("/friends").text
    assert (
        'action="/settings/invitations"' in page and "Make an invitation link" in page and 'data-copy="alice"' in page
    )
    befriend(app, alice, make_person(app, "Bob"))


def test_reset_revokes_links(any_app, alice_any):
    """tests/auth/test_email_addresses.py has the whole of it."""
    link = make_link(any_app, alice_any)
    with any_app.app_context():
        begin_write(db.session)
        invitations.revoke_all(alice_any)
        db.session.commit()
    assert Browser(any_app).get(link).status_code == 404


def test_deleting_the_account_deletes_its_links(any_app, alice_any):
    link = make_link(any_app, alice_any)
    assert Browser(any_app, alice_any).post("/settings/delete", {"password": PASSWORD}).status_code == 303
    assert Browser(any_app).get(link).status_code == 404
