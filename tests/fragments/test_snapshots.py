"""A snapshot of every partial in every state: what htmx gets, and pages show, changes only when it was meant to.

Renew them with bin/test tests/fragments --snapshot-update, and read the difference before committing it.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from flask import g
from flask_babel import force_locale
from jinja_partials import render_partial
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from noxchat import people, sky, whatsnew
from noxchat.auth.forms import LoginForm, NewPasswordForm, RegisterForm, ResetForm
from noxchat.circle import Counters
from noxchat.forms import ChangePasswordForm
from noxchat.main.forms import DeleteForm, LookForm, ProfileForm
from noxchat.main.friends import Entry
from noxchat.models import Profile, Session, User
from noxchat.refusal import Invalid
from noxchat.search import Query

ROOT = Path(__file__).resolve().parents[2]
MOMENT = datetime(2026, 11, 23, 21, 38, tzinfo=UTC)


class Html(SingleFileSnapshotExtension):
    """One .html file for each snapshot, to be read and compared as such."""

    _write_mode = WriteMode.TEXT
    file_extension = "html"


@pytest.fixture
def snapshot(snapshot):
    return snapshot.use_extension(Html)


def plain(html):
    """Return HTML without what differs from run to run, a tag a line."""
    html = re.sub(r'(name="csrf_token" value=)"[^"]*"', r'\1"token"', str(html))
    html = re.sub(r"\?v=[0-9a-f]{12}", "?v=hash", html)
    return BeautifulSoup(html.replace("\r\n", "\n"), "html.parser").prettify()


def person(number, username, **more):
    profile = {"public_id": username.lower(), "public_id_key": username.lower(), "bio": "", "avatar": None, **more}
    return User(
        id=number,
        username=username,
        email=f"{username.lower()}@nox.example",
        theme="auto",
        created_at=MOMENT,
        last_seen_at=MOMENT,
        profile=Profile(**profile),
    )


MILA = {"bio": "Amateur astronomer, <b>professional</b> insomniac.", "avatar": "0" * 32 + ".webp"}


def form(kind, *errors, **data):
    made = kind(formdata=None, data=data)
    for field, text in errors:
        made.refuse(Invalid(text, field))
    return made


def button(state, place="", focus=False):
    return {"person": person(2, "Nika"), "state": state, "place": place, "back": "/search?q=ni", "focus": focus}


def counter(name, number, *, lit=False, label="", hide=False, oob=False):
    return {"name": name, "number": number, "id": f"count-{name}", "lit": lit, "label": label, "hide": hide, "oob": oob}


def home(asking=(), friends=(), known=(), news=None):
    moment = {"moon": sky.moon(MOMENT), "today": MOMENT, "news": [entry()] if news is None else news}
    return {"asking": asking, "friends": friends, "known": known, "back": "/", **moment}


def inserted(place):
    state = "friends" if place == "friends" else place
    return {"entry": Entry(person(2, "Nika"), state), "place": place, "back": "/friends"}


def profile(who, state, online=False):
    return {"person": who, "state": state, "online": online, "hue": 3, "back": "/u/nika"}


def row(state, online=False, note="", query=None):
    about = Entry(person(2, "Nika", **MILA), state, online, note)
    return {"entry": about, "place": "", "query": query, "back": "/search?q=ni"}


def rows_of(entries, more):
    return {"entries": entries, "more": more, "name": "friends", "query": None, "back": "/friends"}


def results(name, entries, typed="", oob=False):
    asked = {"typed": typed, "query": Query.of(typed), "back": "/search", "start": True, "oob": oob}
    return {"entries": entries, "more": "", "name": name, **asked}


def status(typed, count, more="", oob=False):
    return {"typed": typed, "query": Query.of(typed), "count": count, "more": more, "oob": oob}


def entry():
    return whatsnew.Entry("1.0", MOMENT, ("Something new.",))


def rows():
    two = [Session(id=1, last_used_at=MOMENT, created_at=MOMENT), Session(id=2, last_used_at=MOMENT, created_at=MOMENT)]
    return [
        {"session": two[0], "device": "Firefox on Linux", "here": True},
        {"session": two[1], "device": "Safari on iPhone", "here": False},
    ]


STATES = {
    "auth/login": {
        "empty": lambda: {"form": form(LoginForm), "target": "/"},
        "wrong": lambda: {"form": form(LoginForm, (None, "Wrong."), identifier="mila"), "target": "/settings"},
    },
    "auth/register": {
        "empty": lambda: {"form": form(RegisterForm)},
        "taken": lambda: {"form": form(RegisterForm, ("username", "Taken."), username='"><i>', email="a@x")},
    },
    "auth/reset": {
        "empty": lambda: {"form": form(ResetForm), "minutes": 10},
        "bad": lambda: {"form": form(ResetForm, ("email", "Bad.")), "minutes": 1},
    },
    "auth/reset_sent": {"": dict},
    "auth/reset_void": {"": dict},
    "auth/new_password": {"empty": lambda: {"form": form(NewPasswordForm), "user": person(1, "Mila")}},
    "errors/notice": {
        "400": lambda: {
            "code": 400,
            "title": "Old",
            "text": "Text",
            "ways": [{"href": "/", "label": "Go"}],
            "request_id": "x",
            "moon": "new",
        },
        "500": lambda: {
            "code": 500,
            "title": "Broken",
            "text": "Text",
            "ways": [],
            "request_id": "abc",
            "moon": "full",
        },
    },
    "forms/errors": {
        "none": lambda: {"form": form(LoginForm), "fields": True},
        "two": lambda: {"form": form(ProfileForm, ("username", "Bad."), ("bio", "Long.")), "fields": True},
    },
    "forms/field": {
        "plain": lambda: {"field": form(RegisterForm).username, "hint": "", "attributes": {}},
        "wrong": lambda: {
            "field": form(RegisterForm, ("email", "Bad.")).email,
            "hint": "Hint.",
            "attributes": {"maxlength": 9},
        },
    },
    "forms/new_password": {"": lambda: {"form": form(NewPasswordForm)}},
    "friends/button": {
        **{
            state: lambda state=state: button(state)
            for state in ("self", "none", "outgoing", "incoming", "friends", "blocked")
        },
        **{
            f"{state} on a profile, pressed": lambda state=state: button(state, place="profile", focus=True)
            for state in ("none", "outgoing", "incoming", "friends", "blocked")
        },
        "incoming in its list": lambda: button("incoming", place="incoming"),
    },
    "main/home": {
        "newcomer": lambda: home(known=[Entry(person(3, "Leo"), "none", note="One friend in common")]),
        "friends": lambda: home(
            asking=[Entry(person(4, "Sorin"), "incoming")], friends=[Entry(person(2, "Nika"), "friends", True)], news=[]
        ),
    },
    "nav/counter": {
        "some in the navigation": lambda: counter("incoming", 3, lit=True, label="new requests", hide=True),
        "none in the navigation": lambda: counter("incoming", 0, lit=True, label="new requests", hide=True),
        "in a tab": lambda: counter("friends", 24),
        "out of band": lambda: counter("outgoing", 0, oob=True),
    },
    "nav/counters": {"": lambda: {"counters": Counters(24, 3, 2, 77)}},
    "nav/logout": {"button": lambda: {"wide": False}, "row": lambda: {"wide": True}},
    "nav/picture": {
        "in place": lambda: {"person": person(1, "Mila"), "oob": False},
        "out of band": lambda: {"person": person(1, "Mila", **MILA), "oob": True},
    },
    "people/inserted": {
        "before a friend": lambda: {**inserted("friends"), "follows": person(3, "Leo")},
        "last of the friends": lambda: {**inserted("friends"), "follows": None},
        "first of the requests": lambda: {**inserted("incoming"), "follows": None},
    },
    "people/profile": {
        "self": lambda: profile(person(1, "Mila", **MILA), "self"),
        "friend online": lambda: profile(person(2, "Nika"), "friends", online=True),
        "friend away": lambda: profile(person(2, "Nika"), "friends"),
        "stranger": lambda: profile(person(2, "Nika"), "none"),
        "blocked": lambda: profile(person(2, "Nika"), "blocked"),
    },
    "people/removed": {"": lambda: {"public_id": "nika"}},
    "people/results": {
        **{
            name: lambda name=name: results(name, [])
            for name in ("friends", "incoming", "outgoing", "blocked", "search")
        },
        "nobody called so": lambda: results("search", [], typed="<zoe>"),
        "somebody": lambda: results("search", [Entry(person(2, "Nika"), "none")], typed="ni", oob=True),
    },
    "people/row": {
        "online": lambda: row("friends", online=True),
        "away, marked": lambda: row("none", query=Query.of("nik")),
        "with a note": lambda: row("none", note="One friend in common"),
    },
    "people/rows": {
        "more to come": lambda: rows_of([Entry(person(2, "Nika"), "friends")], more="/friends?after=abc"),
        "the last": lambda: rows_of([], more=""),
    },
    "people/search_box": {"": lambda: {"action": "/search", "label": "Name", "typed": '"><b>'}},
    "people/status": {
        "silent": lambda: status("", 0),
        "nobody": lambda: status("zoe", 0),
        "one": lambda: status("zoe", 1),
        "one letter, more": lambda: status("z", 20, more="/search?after=abc", oob=True),
    },
    "settings/delete": {
        "empty": lambda: {"form": form(DeleteForm)},
        "wrong": lambda: {"form": form(DeleteForm, ("password", "Wrong."))},
    },
    "settings/head": {"": lambda: {"title": "Settings", "back": "/", "back_label": "Home"}},
    "settings/index": {
        "": lambda: {
            "form": form(LookForm, theme="night", language="en"),
            "password_form": form(ChangePasswordForm),
            "sessions": 2,
        }
    },
    "settings/look": {"": lambda: {"form": form(LookForm, theme="auto", language="en")}},
    "settings/password": {
        "empty": lambda: {"form": form(ChangePasswordForm)},
        "wrong": lambda: {"form": form(ChangePasswordForm, ("current_password", "Wrong."))},
    },
    "settings/picture": {
        "initials": lambda: {"person": person(1, "Mila"), "errors": []},
        "picture": lambda: {"person": person(1, "Mila", **MILA), "errors": []},
        "bad file": lambda: {"person": person(1, "Mila"), "errors": ["Damaged."]},
    },
    "settings/profile": {
        "as kept": lambda: {
            "form": form(ProfileForm, username="Mila", public_id="mila", bio="Hello."),
            "person": person(1, "Mila", **MILA),
        },
        "two errors": lambda: {
            "form": form(
                ProfileForm, ("public_id", "Taken."), ("avatar", "Damaged."), username="Mila", public_id="nika", bio=""
            ),
            "person": person(1, "Mila"),
        },
    },
    "settings/sessions": {"two": lambda: {"rows": rows()}, "one": lambda: {"rows": rows()[:1]}},
    "ui/look_switch": {"": lambda: {"next": "/auth/login"}},
    "ui/toast": {"ok": lambda: {"text": "<Saved>", "kind": "ok"}, "error": lambda: {"text": "No.", "kind": "error"}},
}
MACROS = {"friends/around", "people/avatar", "ui/icons", "ui/notices"}  # drawn through the others
CASES = [(name, state) for name, states in STATES.items() for state in states]


def test_every_partial_is_here():
    there = {str(path.relative_to(ROOT / "partials").with_suffix("")) for path in (ROOT / "partials").rglob("*.html")}
    assert there == set(STATES) | MACROS


@pytest.mark.parametrize(
    ("name", "state"), CASES, ids=[f"{name} {state}".strip().replace("/", " ") for name, state in CASES]
)
def test_a_partial_is_as_it_was(app, snapshot, name, state):
    with app.test_request_context("/settings", base_url="http://localhost"), force_locale("en"):
        g._login_user = person(1, "Mila", **MILA)
        assert plain(render_partial(f"partials/{name}.html", **STATES[name][state]())) == snapshot


def test_what_a_page_shows_is_what_the_fragment_is(app, alice, at_alice):
    """The page holds, word for word, what the route answers to htmx."""
    from tests.house.routes import ROUTES

    def bare(html):
        html = re.sub(r'(name="csrf_token" value=|datetime=|data-timestamp=)"[^"]*"', "", html)
        soup = BeautifulSoup(html, "html.parser")
        for elsewhere in soup.select("[hx-swap-oob]"):  # what a fragment renews beside itself
            elsewhere.decompose()
        return re.sub(r"\s+", " ", str(soup)).strip()

    for endpoint, route in ROUTES.items():
        if route.page and not route.gate and endpoint not in {"auth.reset_password"}:
            page, fragment = at_alice.get(route.path).text, at_alice.get(route.path, htmx=True).text
            assert bare(fragment) in bare(page), endpoint


def test_hues_are_few():
    assert {people.hue(f"person{number}") for number in range(99)} == set(range(people.HUES))
