"""To whom an address belongs: confirming, changing and undoing, in every order, and at the same moment."""

import email
import re
from datetime import timedelta
from email import policy
from threading import Thread

import jwt
import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from noxchat import accounts, email_addresses, throttle, tokens
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.mail import queue, worker
from noxchat.models import EmailChange, Invitation, QueuedEmail, User
from tests.conftest import PASSWORD, Browser, make_person, run_in_threads

NEW = "another lamp in the night 8"
NEW_PASSWORD = {"password": NEW, "password2": NEW}
SHARED = "shared@nox.example"


class Place:
    """An application whose e-mails are sent when a test reads them, and the people in it."""

    def __init__(self, app):
        self.app = app
        app.extensions["mail_worker"].stopped = True
        self.browsers = {}

    def register(self, name, address=SHARED):
        """Register somebody; return their browser."""
        browser = self.browsers[name] = Browser(self.app)
        fields = {"username": name, "email": address, "password": PASSWORD}
        assert browser.post("/auth/register", fields).status_code == 303
        return browser

    def emails(self):
        """Return what was sent since the last time: pairs of recipient and text, in the order of sending."""
        with self.app.app_context():
            while worker.send_next():
                continue
        folder = self.app.config["MAIL_DIR"]
        found = []
        for path in sorted(folder.glob("*.eml")) if folder.exists() else []:
            message = email.message_from_bytes(path.read_bytes(), policy=policy.default)
            found.append((message["To"], message.get_body(("plain",)).get_content()))
            path.unlink()
        return found

    def links(self):
        """Return the paths of the links that were sent since the last time, by recipient and kind."""
        found = {}
        for address, text in self.emails():
            if link := re.search(r"http://[^/]+(/auth/(\w+|email-undo)/\S+)", text):
                found[address, link[2]] = link[1]
        return found

    def link(self):
        """Return the path of the only link that was sent since the last time."""
        [path] = self.links().values()
        return path

    def account(self, name):
        with self.app.app_context():
            return db.session.scalar(select(User).where(User.username == name))

    def holder(self, address=SHARED):
        """Return the name of the account to which an address belongs."""
        with self.app.app_context():
            user = email_addresses.find_holder(address)
            return user and user.username

    def change(self, name, address, password=PASSWORD):
        """Ask for another address in the settings."""
        return self.browsers[name].post("/settings/email", {"email": address, "password": password})

    def confirm(self, path):
        """Press the button of a link to confirm; return the status."""
        return Browser(self.app).post(path).status_code

    def confirmed(self, name, address):
        """Register somebody, who confirms the address."""
        self.register(name, address)
        assert self.confirm(self.link()) == 303

    def request_reset(self, address):
        assert Browser(self.app).post("/auth/reset", {"email": address}).status_code == 303

    def reset(self, path):
        return Browser(self.app).post(path, NEW_PASSWORD).status_code

    def is_logged_in(self, name):
        return self.browsers[name].get("/settings").status_code == 200

    def delete(self, name):
        assert self.browsers[name].post("/settings/delete", {"password": PASSWORD}).status_code == 303


@pytest.fixture
def place(any_app):
    return Place(any_app)


def run_elsewhere(call):
    """Call something in another thread, as another request would, and wait for it."""
    thread = Thread(target=call)
    thread.start()
    thread.join()


# Confirming


@pytest.mark.parametrize("htmx", [False, True])
def test_link_confirms_by_a_press_and_works_once(place, htmx):
    mila = place.register("Mila", "Mila@nox.example")
    [(address, text)] = place.emails()
    public_id = re.search(r"@(nox-\w+)", text)[1]
    assert address == "Mila@nox.example" and "7 days" in text and "Mila" not in text.replace(address, "")
    path = re.search(r"http://[^/]+(/auth/confirm/\S+)", text)[1]
    guest = Browser(place.app)
    page = guest.get(path, htmx=htmx)
    assert page.status_code == 200 and "Mila" in page.text and public_id in page.text
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert place.account("Mila").email_confirmed_at is None  # a mail scanner has opened it
    answer = guest.post(path, htmx=htmx)
    assert (answer.headers.get("HX-Redirect") or answer.location) == "/auth/login"
    assert guest.get("/settings").status_code == 302  # nobody is logged in
    assert place.account("Mila").email_confirmed_at and "not confirmed yet" not in mila.get("/").text
    for again in (guest.get(path, htmx=htmx), guest.post(path, htmx=htmx)):
        assert again.status_code == 400 and "no longer works" in again.text and ("<html" in again.text) != htmx


def test_confirming_while_logged_in_leads_to_the_settings(place):
    browser = place.register("Mila")
    answer = browser.post(place.link())
    assert answer.location == "/settings/email"
    assert f"{SHARED} is confirmed" in browser.get(answer.location).text


def test_link_works_for_seven_days(place, monkeypatch):
    place.register("Mila")
    path = place.link()
    claims = jwt.decode(path.rpartition("/")[2], options={"verify_signature": False})
    assert abs(claims["exp"] - (now() + timedelta(days=7)).timestamp()) < 60
    expired = {**claims, "exp": now() - timedelta(seconds=1)}
    with place.app.app_context():
        key, other_key = tokens._key(tokens.CONFIRMATION), tokens._key(tokens.RESET)
    others = [jwt.encode(expired, key, "HS256"), jwt.encode(claims, other_key, "HS256"), "x", path[-40:]]
    for token in others:
        assert place.confirm(f"/auth/confirm/{token}") == 400
    assert place.confirm(path) == 303


@pytest.mark.parametrize("htmx", [False, True])
def test_link_is_sent_again_and_earlier_ones_stop_working(place, htmx):
    browser = place.register("Mila")
    old = place.link()
    answer = browser.post("/settings/email/resend", htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    new = place.link()
    assert place.confirm(old) == 400 and place.confirm(new) == 303
    browser.post("/settings/email/resend", htmx=htmx)  # nothing is left to confirm
    assert place.emails() == []


def test_a_queued_link_is_not_sent_once_it_is_out_of_date(place):
    browser = place.register("Mila")
    for _again in range(2):
        browser.post("/settings/email/resend")
    place.change("Mila", "other@nox.example")
    assert [address for address, _text in place.emails()] == ["other@nox.example"]


def test_head_request_of_a_mail_scanner_confirms_nothing(place):
    place.register("Mila")
    path = place.link()
    answer = Browser(place.app).client.head(path)
    assert (answer.status_code, answer.data) == (200, b"")
    assert place.account("Mila").email_confirmed_at is None and place.confirm(path) == 303


def test_confirming_leaves_a_reset_link_alone(place):
    place.register("Mila")
    place.request_reset(SHARED)
    links = place.links()
    assert place.confirm(links[SHARED, "confirm"]) == 303
    assert place.reset(links[SHARED, "reset"]) == 303


def test_emails_greet_by_name_only_who_has_proved_the_address(place):
    """Names may look like host names: somebody could write to strangers with them."""
    place.register("evil-site.example", SHARED)
    place.request_reset(SHARED)
    sent = place.emails()
    assert len(sent) == 2 and all("evil-site" not in text and "@nox-" in text for _address, text in sent)
    place.browsers["evil-site.example"].post("/settings/email/resend")
    assert place.confirm(place.link()) == 303
    place.request_reset(SHARED)
    [(_address, text)] = place.emails()
    assert "Hello evil-site.example" in text


def test_reset_names_the_account(place):
    """Of two accounts that gave an address, the first gets the link: the other has to see that it is not theirs."""
    place.register("First")
    place.register("Second")
    place.emails()
    place.request_reset(SHARED)
    [(_address, text)] = place.emails()
    public_id = place.browsers["First"].get("/").text.partition("/u/")[2].partition('"')[0]
    path = re.search(r"http://[^/]+(/auth/reset/\S+)", text)[1]
    assert f"@{public_id}" in text and f"@{public_id}" in Browser(place.app).get(path).text


def test_command_confirms_an_address(place):
    run = place.app.test_cli_runner().invoke
    place.register("Mila")
    for expected in (0, 1):  # the second time it is confirmed already
        done = run(args=["users", "confirm", SHARED])
        assert done.exit_code == expected and "confirmed" in done.output
    place.register("Nika")
    done = run(args=["users", "confirm", place.browsers["Nika"].get("/").text.partition("/u/")[2].partition('"')[0]])
    assert done.exit_code == 1 and "another account" in done.output
    assert "not confirmed" in run(args=["users", "list"]).output


# Two accounts with one address


def test_address_belongs_to_the_first_until_another_confirms_it(place):
    for name in ("First", "Second", "Third"):
        place.register(name)
    assert place.holder() == "First"
    place.emails()
    place.browsers["Second"].post("/settings/email/resend")
    second = place.link()
    assert place.confirm(second) == 303 and place.holder() == "Second"
    for name in ("First", "Third"):
        assert f"{SHARED} is not confirmed yet" in place.browsers[name].get("/settings").text
    logged_in = Browser(place.app)
    assert logged_in.log_in(SHARED).status_code == 303
    assert "Second" in logged_in.get("/").text


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_confirms_first_keeps_it(place, order):
    names = ("First", "Second")
    paths = []
    for name in names:
        place.register(name)
        paths.append(place.link())
    first, second = order
    assert place.confirm(paths[first]) == 303
    assert Browser(place.app).get(paths[second]).status_code == 400
    assert place.confirm(paths[second]) == 400
    assert place.holder() == names[first]
    # From now on its owner is told of others who give it, and those get no link.
    place.browsers[names[second]].post("/settings/email/resend")
    place.register("Third")
    sent = place.emails()
    assert [address for address, _text in sent] == [SHARED] * 2
    assert all("already have an account" in text and "/auth/reset" in text for _address, text in sent)
    public_id = place.browsers[names[first]].get("/").text.partition("/u/")[2].partition('"')[0]
    assert all(f"@{public_id}" in text for _address, text in sent)


def test_one_of_two_simultaneous_confirmations_wins(place):
    paths = []
    for name in ("First", "Second", "Third", "Fourth"):
        place.register(name)
        paths.append(place.link())
    links = [path.rpartition("/")[2] for path in paths]

    def confirm(number):
        link = tokens.verify_confirmation_token(links[number])
        db.session.commit()
        if link is None:
            return False
        begin_write(db.session)
        done = accounts.confirm_email(link)
        db.session.commit() if done else db.session.rollback()
        return done

    results = run_in_threads(place.app, 4, confirm)
    assert sorted(results) == [False, False, False, True], results
    with place.app.app_context():
        confirmed = select(User.username).where(User.email_confirmed_at.is_not(None))
        assert list(db.session.scalars(confirmed)) == [place.holder()]


# What happens to First and Second, who gave the same address, in this order; and then: to whom it belongs.
ORDERS = {
    "nothing": ("First", []),
    "delete first": ("Second", ["delete First"]),
    "delete second": ("First", ["delete Second"]),
    "confirm second, delete it": ("First", ["confirm Second", "delete Second"]),
    "confirm second, delete first": ("Second", ["confirm Second", "delete First"]),
    "delete first, confirm second": ("Second", ["delete First", "confirm Second"]),
    "change first, not confirmed": ("First", ["change First"]),
    "change first": ("Second", ["change First", "confirm First"]),
    "change first back before it is confirmed": ("First", ["change First", "change back First"]),
    "confirm first, change it": ("Second", ["confirm First", "change First", "confirm First"]),
    "confirm first, change it, undo": ("First", ["confirm First", "change First", "confirm First", "undo"]),
    "confirm first, change it, second confirms, undo": (
        "Second",
        ["confirm First", "change First", "confirm First", "confirm Second", "undo"],
    ),
    "confirm first, change it, undo, second cannot confirm": (
        "First",
        ["confirm First", "change First", "confirm First", "undo", "refused Second"],
    ),
    "confirm first, change it, second deleted, undo": (
        "First",
        ["confirm First", "change First", "confirm First", "delete Second", "undo"],
    ),
    "reset goes to first and confirms": ("First", ["reset", "refused Second"]),
    "confirm second, reset goes to second": ("Second", ["confirm Second", "reset"]),
    "reset requested, second confirms, reset refused": ("Second", ["request reset", "confirm Second", "reset refused"]),
    "first changes, reset refused": (
        "Second",
        ["confirm First", "request reset", "change First", "confirm First", "reset refused"],
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_address_belongs_to_the_right_account_in_every_order(place, order):
    for name in ("First", "Second"):
        place.register(name)
    place.emails()
    holder, steps = ORDERS[order]
    undo = reset = None
    for step in steps:
        action, _space, name = step.rpartition(" ")
        if action in ("confirm", "refused"):
            place.browsers[name].post("/settings/email/resend")
            links = place.links()
            path = links.get((SHARED, "confirm")) or links.get(("moved@nox.example", "confirm"))
            if action == "refused":
                assert path is None
            else:
                assert place.confirm(path) == 303, step
                undo = place.links().get((SHARED, "email-undo"), undo)
        elif action == "change":
            assert place.change(name, "moved@nox.example").status_code == 303
        elif action == "change back":
            assert place.change(name, SHARED).status_code == 303
        elif action == "delete":
            place.delete(name)
        elif step == "undo":
            assert Browser(place.app).post(undo, NEW_PASSWORD).status_code == 303
        elif step == "request reset":
            place.request_reset(SHARED)
            reset = place.links()[SHARED, "reset"]
        elif step == "reset refused":
            assert place.reset(reset) == 400
        else:
            place.request_reset(SHARED)
            assert place.reset(place.links()[SHARED, "reset"]) == 303
    assert place.holder() == holder
    logged_in = Browser(place.app)
    assert 303 in {logged_in.log_in(SHARED, password).status_code for password in (PASSWORD, NEW)}
    assert holder in logged_in.get("/").text


# Changing the address


@pytest.mark.parametrize("htmx", [False, True])
def test_new_address_counts_once_confirmed(place, htmx):
    place.confirmed("Mila", "old@nox.example")
    mila = place.browsers["Mila"]
    fields = {"email": "New@Nox.example", "password": PASSWORD}
    answer = mila.post("/settings/email", fields, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    page = answer.text if htmx else mila.get("/settings/email").text
    assert "New@Nox.example" in page or "New@nox.example" in page
    assert "old@nox.example" in page and "is not confirmed yet" in page
    assert (place.holder("old@nox.example"), place.holder("new@nox.example")) == ("Mila", None)
    links = place.links()
    assert list(links) == [("New@nox.example", "confirm")]
    assert place.confirm(links["New@nox.example", "confirm"]) == 303
    assert (place.holder("old@nox.example"), place.holder("new@nox.example")) == (None, "Mila")
    assert Browser(place.app).log_in("new@nox.example").status_code == 303
    assert Browser(place.app).log_in("old@nox.example").status_code == 422
    [(address, text)] = place.emails()
    assert address == "old@nox.example" and "72 hours" in text and "/auth/email-undo/" in text
    assert "new@" not in text.lower()


def test_unconfirmed_former_address_gets_no_notice(place):
    place.register("Mila", "typo@nox.example")
    place.emails()
    place.change("Mila", "right@nox.example")
    assert place.confirm(place.link()) == 303
    assert place.emails() == [] and place.holder("typo@nox.example") is None


def test_password_change_ends_a_change_that_somebody_else_began(place):
    place.confirmed("Mila", "mila@nox.example")
    mila = place.browsers["Mila"]
    mila.post("/settings/invitations")
    place.change("Mila", "thief@nox.example")
    path = place.link()
    assert mila.post("/settings/password", {"current_password": PASSWORD, **NEW_PASSWORD}).status_code == 303
    assert place.confirm(path) == 400
    assert "thief" not in mila.get("/settings/email").text
    with place.app.app_context():
        assert list(db.session.scalars(select(Invitation))) == []


def test_change_after_a_recovery_meanwhile_is_refused(place, monkeypatch):
    """The thief's password was right when it was checked, but the owner resets it before the change is saved."""
    place.confirmed("Mila", "mila@nox.example")
    place.request_reset("mila@nox.example")
    reset_path, token = place.link(), place.browsers["Mila"].token()
    allow = throttle.allow_confirmation_email

    def reset_first(email):
        run_elsewhere(lambda: place.reset(reset_path))
        return allow(email)

    monkeypatch.setattr(throttle, "allow_confirmation_email", reset_first)
    fields = {"email": "thief@nox.example", "password": PASSWORD}
    answer = place.browsers["Mila"].post("/settings/email", fields, token=token)
    assert answer.status_code in (302, 303) and place.account("Mila").pending_email is None
    assert place.emails() == []


@pytest.mark.parametrize("path", ["/auth/reset", "/auth/register", "/settings/email"])
def test_holder_who_deletes_the_account_meanwhile_is_no_error(make_app, monkeypatch, path):
    """On PostgreSQL, where both happen at once: whoever comes second waits for the other."""
    place = Place(make_app("postgresql"))
    place.confirmed("Holder", SHARED)
    place.confirmed("Mila", "mila@nox.example")
    browser, holder = place.browsers["Mila"] if "settings" in path else Browser(place.app), place.browsers["Holder"]
    tokens_of = browser.token(), holder.token()
    fields = {"email": SHARED, "password": PASSWORD, "username": "Newcomer"}
    enqueue, deletions = queue.enqueue, []

    def delete_first(*arguments, **more):
        deletion = Thread(
            target=lambda: holder.post("/settings/delete", {"password": PASSWORD}, token=tokens_of[1]), daemon=True
        )
        deletion.start()
        deletions.append(deletion)
        deletion.join(1)
        enqueue(*arguments, **more)

    monkeypatch.setattr(queue, "enqueue", delete_first)
    assert browser.post(path, fields, token=tokens_of[0]).status_code == 303
    for deletion in deletions:
        deletion.join()
    assert place.account("Holder") is None


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"email": "", "password": PASSWORD}, 422, "Fill in this field"),
        ({"email": "nonsense", "password": PASSWORD}, 422, "not an e-mail address"),
        ({"email": "new@nox.example", "password": ""}, 422, "Fill in this field"),
        ({"email": "new@nox.example", "password": "wrong wrong 1"}, 422, "not your password"),
        ({"email": "OLD@nox.example", "password": PASSWORD}, 422, "already your address"),
        ({"email": "nonsense", "password": "wrong wrong 1"}, 422, "2 fields need another look"),
        ({"email": "old@nox.example", "password": "wrong wrong 1"}, 422, "2 fields need another look"),
    ],
)
@pytest.mark.parametrize("htmx", [False, True])
def test_invalid_change_is_refused(place, fields, status, message, htmx):
    place.confirmed("Mila", "old@nox.example")
    answer = place.browsers["Mila"].post("/settings/email", fields, htmx=htmx)
    assert answer.status_code == status and message in answer.text and PASSWORD not in answer.text
    assert fields["email"] in answer.text and ("<html" in answer.text) != htmx
    assert place.account("Mila").pending_email is None and place.emails() == []


def test_taking_back_a_change_before_it_is_confirmed(place):
    place.confirmed("Mila", "old@nox.example")
    place.change("Mila", "new@nox.example")
    path = place.link()
    answer = place.change("Mila", "old@nox.example")
    assert answer.status_code == 303 and "not confirmed yet" not in place.browsers["Mila"].get("/settings/email").text
    assert place.confirm(path) == 400 and place.emails() == []


def test_changes_of_address_are_limited(make_app):
    place = Place(make_app(RENAMES_PER_DAY=2))
    place.confirmed("Mila", "old@nox.example")
    codes = [place.change("Mila", f"new{number}@nox.example").status_code for number in range(3)]
    assert codes == [303, 303, 429]
    assert place.account("Mila").pending_email == "new1@nox.example"
    assert place.change("Mila", "old@nox.example").status_code == 303  # taking it back is always possible
    assert place.account("Mila").pending_email is None


def test_what_others_did_with_an_address_is_not_told_by_a_limit(place):
    for number in range(6):
        place.register(f"Stranger {'abcdef'[number]}")
    mila = place.register("Mila")
    assert len(place.emails()) == 5
    codes = [mila.post("/settings/email/resend").status_code for _again in range(6)]
    assert codes == [303] * 5 + [429] and place.emails() == []


def test_changing_to_a_known_address_looks_the_same_and_tells_its_owner(place):
    place.confirmed("Olga", "olga@nox.example")
    place.confirmed("Mila", "mila@nox.example")
    place.confirmed("Nika", "nika@nox.example")
    pages = []
    for name, address in (("Mila", "olga@nox.example"), ("Nika", "free@nox.example")):
        answer = place.change(name, address)
        soup = BeautifulSoup(place.browsers[name].get("/settings/email").text, "html.parser")
        text = soup.select_one("#email-settings").text + soup.select_one("#toasts").text
        pages.append((answer.status_code, text.replace(address, "@").replace(name.lower(), "")))
    assert pages[0] == pages[1]
    sent = place.emails()
    assert [address for address, _text in sent] == ["olga@nox.example", "free@nox.example"]
    assert "already have an account" in sent[0][1] and "/auth/confirm/" in sent[1][1]


# Undoing a change


def changed(place, name="Mila", addresses=("old@nox.example", "new@nox.example")):
    """Register somebody who changes the address, each of them confirmed. Returns the links to undo that."""
    place.confirmed(name, addresses[0])
    links = []
    for address in addresses[1:]:
        assert place.change(name, address).status_code == 303
        assert place.confirm(place.link()) == 303
        links.append(place.link())
    return links


@pytest.mark.parametrize("htmx", [False, True])
def test_undo_gives_the_address_back_and_ends_all_sessions(place, htmx):
    [path] = changed(place)
    mila, guest = place.browsers["Mila"], Browser(place.app)
    mila.post("/settings/invitations")
    page = guest.get(path, htmx=htmx)
    assert page.status_code == 200 and "old@nox.example" in page.text
    assert page.headers["Referrer-Policy"] == "no-referrer"
    refused = guest.post(path, {"password": "short", "password2": "short"}, htmx=htmx)
    assert refused.status_code == 422 and place.holder("old@nox.example") is None
    answer = guest.post(path, NEW_PASSWORD, htmx=htmx)
    assert (answer.headers.get("HX-Redirect") or answer.location) == "/auth/login"
    assert (place.holder("old@nox.example"), place.holder("new@nox.example")) == ("Mila", None)
    assert place.account("Mila").email_confirmed_at and not place.is_logged_in("Mila")
    assert guest.log_in("old@nox.example", NEW).status_code == 303
    with place.app.app_context():
        assert list(db.session.scalars(select(Invitation))) == []
    assert guest.get(path).status_code == 400 and guest.post(path, NEW_PASSWORD).status_code == 400


def test_undo_works_for_72_hours(place):
    paths = changed(place, addresses=("a@nox.example", "b@nox.example"))
    claims = jwt.decode(paths[0].rpartition("/")[2], options={"verify_signature": False})
    assert abs(claims["exp"] - (now() + timedelta(hours=72)).timestamp()) < 60
    with place.app.app_context():
        expired = jwt.encode({**claims, "exp": now() - timedelta(seconds=1)}, tokens._key(tokens.UNDO), "HS256")
        # An e-mail that is sent late does not make it longer.
        change = db.session.scalar(select(EmailChange))
        change.changed_at = now() - timedelta(hours=73)
        late = tokens.create_undo_token(change, db.session.get(User, change.user_id))
        db.session.rollback()
    for token in (expired, late, "x"):
        assert Browser(place.app).post(f"/auth/email-undo/{token}", NEW_PASSWORD).status_code == 400


def test_former_addresses_are_not_kept_for_ever(place):
    changed(place, "Mila", ("a@nox.example", "b@nox.example"))
    with place.app.app_context():
        db.session.execute(update(EmailChange).values(changed_at=now() - timedelta(hours=73)))
        db.session.commit()
    changed(place, "Nika", ("c@nox.example", "d@nox.example"))
    with place.app.app_context():
        begin_write(db.session)
        assert email_addresses.delete_old(db.session) is False
        db.session.commit()
        assert list(db.session.scalars(select(EmailChange.former_email))) == ["c@nox.example"]


def test_the_later_of_two_changes_is_undone_alone(place):
    first, second = changed(place, addresses=("a@nox.example", "b@nox.example", "c@nox.example"))
    assert Browser(place.app).post(second, NEW_PASSWORD).status_code == 303
    assert place.holder("b@nox.example") == "Mila"
    assert Browser(place.app).post(first, NEW_PASSWORD).status_code == 303
    assert place.holder("a@nox.example") == "Mila"


def test_undoing_the_earlier_change_undoes_the_later_one_too(place):
    first, second = changed(place, addresses=("a@nox.example", "b@nox.example", "c@nox.example"))
    assert Browser(place.app).post(first, NEW_PASSWORD).status_code == 303
    assert Browser(place.app).post(second, NEW_PASSWORD).status_code == 400
    assert (place.holder("a@nox.example"), place.holder("b@nox.example")) == ("Mila", None)


def test_undo_ends_a_change_that_is_not_confirmed(place):
    [path] = changed(place)
    place.change("Mila", "third@nox.example")
    pending = place.link()
    assert Browser(place.app).post(path, NEW_PASSWORD).status_code == 303
    assert place.confirm(pending) == 400


def test_undo_survives_a_password_change_but_not_a_reset(place):
    [path] = changed(place)
    fields = {"current_password": PASSWORD, **NEW_PASSWORD}
    assert place.browsers["Mila"].post("/settings/password", fields).status_code == 303
    assert Browser(place.app).get(path).status_code == 200
    place.request_reset("new@nox.example")
    assert place.reset(place.link()) == 303
    assert Browser(place.app).post(path, NEW_PASSWORD).status_code == 400


def test_undo_when_another_account_has_confirmed_the_address_meanwhile(place):
    """The owner gets the account back, but an address that was confirmed stays where it is."""
    [path] = changed(place)
    place.confirmed("Another", "old@nox.example")
    assert Browser(place.app).post(path, NEW_PASSWORD).status_code == 303
    assert (place.holder("old@nox.example"), place.holder("new@nox.example")) == ("Another", None)
    assert not place.is_logged_in("Mila") and place.account("Mila").email_confirmed_at is None


def test_undo_of_a_deleted_account_is_refused(place):
    [path] = changed(place)
    place.delete("Mila")
    assert Browser(place.app).post(path, NEW_PASSWORD).status_code == 400


def test_undo_works_once_at_the_same_moment(place):
    [path] = changed(place)
    token = path.rpartition("/")[2]

    def undo(_number):
        found = tokens.verify_undo_token(token)
        db.session.commit()
        if found is None:
            return False
        begin_write(db.session)
        change, user = found
        done = accounts.undo_email_change(user, change, "scrypt:x")
        db.session.commit() if done else db.session.rollback()
        return done

    assert sorted(run_in_threads(place.app, 4, undo)) == [False, False, False, True]


# Resetting the password


def test_reset_goes_to_the_holder_and_confirms_and_ends_everything_else(place):
    first, _second = place.register("First"), place.register("Second")
    place.change("First", "other@nox.example")
    pending = place.links()["other@nox.example", "confirm"]
    first.post("/settings/invitations")
    place.request_reset(SHARED)
    path = place.link()
    assert place.reset(path) == 303
    account = place.account("First")
    assert account.confirmed_email == SHARED and account.unconfirmed_email is None
    assert not place.is_logged_in("First") and place.is_logged_in("Second")
    assert place.confirm(pending) == 400
    with place.app.app_context():
        assert list(db.session.scalars(select(Invitation))) == []


def test_reset_of_an_address_that_nobody_holds_sends_nothing(place):
    place.confirmed("Mila", "old@nox.example")
    place.change("Mila", "pending@nox.example")
    place.emails()
    place.request_reset("pending@nox.example")
    assert place.emails() == []


def test_link_of_the_command_line_resets_without_confirming(place):
    place.register("Mila")
    done = place.app.test_cli_runner().invoke(args=["users", "reset-link", SHARED])
    path = "/auth/reset/" + done.output.split("/auth/reset/")[1].split()[0]
    assert place.reset(path) == 303
    assert place.account("Mila").email_confirmed_at is None


def test_unconfirmed_addresses_are_kept_apart_by_the_database(place):
    """Not by the rules alone: two accounts cannot both have confirmed an address."""
    for name in ("First", "Second"):
        place.register(name)
    with place.app.app_context():
        with pytest.raises(IntegrityError):
            db.session.execute(update(User).values(email_confirmed_at=now()))
        db.session.rollback()


def test_resending_is_refused_to_visitors_and_without_token(place):
    place.register("Mila")
    place.emails()
    assert Browser(place.app).post("/settings/email/resend").status_code == 302
    assert place.browsers["Mila"].post("/settings/email/resend", token=None).status_code == 400
    with place.app.app_context():
        assert list(db.session.scalars(select(QueuedEmail))) == []


@pytest.mark.parametrize("server", ["", "smtp.nox.example"])
def test_without_a_mail_server_nothing_is_promised(make_app, server):
    place = Place(make_app(MAIL_SERVER=server))
    page = place.register("Mila").get("/").text
    assert ("Open the link in our e-mail" in page) == bool(server)
    resent = place.browsers["Mila"].post("/settings/email/resend", htmx=True).text
    assert ("is on its way" in resent) == bool(server)
    assert ("no mail server" in page) != bool(server) and "not confirmed yet" in page


def test_own_and_other_pages_show_addresses_to_their_owner_only(place):
    place.confirmed("Mila", "mila@nox.example")
    public_id = place.browsers["Mila"].get("/").text.partition("/u/")[2].partition('"')[0]
    place.change("Mila", "secret@nox.example")
    make_person(place.app, "Alice", public_id="alice")
    other = Browser(place.app, make_person(place.app, "Bob"))
    assert "@nox.example" not in other.get(f"/u/{public_id}").text
    assert "mila@nox.example" in place.browsers["Mila"].get(f"/u/{public_id}").text
