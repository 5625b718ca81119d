"""Snapshots of every partial in every state.

Update them with bin/test tests/fragments --snapshot-update, and read the difference before committing it.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from flask import current_app, g
from flask_babel import force_locale
from markupsafe import Markup
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from noxchat import changelog, moon_phase, profiles
from noxchat.auth.forms import LoginForm, RegisterForm, RequestResetForm, ResetPasswordForm
from noxchat.counters import Counters
from noxchat.exceptions import InvalidInput
from noxchat.invitations import OpenInvitation
from noxchat.main.forms import ProfileForm
from noxchat.models import Invitation, Profile, Session, User
from noxchat.relationships import PersonRow, ProfileDetails
from noxchat.search import Query
from noxchat.settings.forms import (
    ChangePasswordForm,
    DeleteAccountForm,
    EmailForm,
    InvitationForm,
    PreferencesForm,
    PrivacyForm,
)
from noxchat.web.htmx import render_partial
from noxchat.web.templating import csrf_token
from tests.fragments import chat_states

ROOT = Path(__file__).resolve().parents[2]
MOMENT = datetime(2026, 11, 23, 21, 38, tzinfo=UTC)


class Html(SingleFileSnapshotExtension):
    """Stores each snapshot as an .html file."""

    _write_mode = WriteMode.TEXT
    file_extension = "html"


@pytest.fixture
def snapshot(snapshot):
    return snapshot.use_extension(Html)


def normalized(html):
    """Return HTML with one tag per line, without what differs between runs.

    Of an icon, only the name is kept, so that it can be redrawn.
    """
    html = re.sub(r'(name="csrf_token" value=)"[^"]*"', r'\1"token"', str(html))
    html = re.sub(r"\?v=[0-9a-f]{12}", "?v=hash", html)
    soup = BeautifulSoup(html.replace("\r\n", "\n"), "html.parser")
    for drawing in soup.find_all("svg"):
        drawing.string = drawings()[drawing.decode_contents()]
    for form in soup.select("#settings form"):  # each has snapshots of its own
        form.clear()
    return soup.prettify()


@cache
def drawings():
    """Return the names of all icons and moons by what is in their <svg>."""
    icons = current_app.jinja_env.get_template("partials/ui/icons.html").module
    drawn = {name: icons.icon(name) for name in [*icons.PATHS, "brand"]}
    drawn |= {f"{name} moon": icons.moon_icon(name) for name in icons.LIT}
    return {BeautifulSoup(svg, "html.parser").svg.decode_contents(): name for name, svg in drawn.items()}


def person(number, username, pending_email=None, confirmed_at=MOMENT, **more):
    profile = {"public_id": username.lower(), "public_id_key": username.lower(), "bio": "", "avatar": None, **more}
    return User(
        id=number,
        username=username,
        email=f"{username.lower()}@nox.example",
        email_confirmed_at=confirmed_at,
        pending_email=pending_email,
        theme="auto",
        show_presence="friends",
        findable="everybody",
        show_typing=True,
        show_seen=False,
        created_at=MOMENT,
        last_seen_at=MOMENT,
        profile=Profile(**profile),
    )


USER_FORMS = (ChangePasswordForm, DeleteAccountForm, EmailForm, ProfileForm, ResetPasswordForm)
MILA = {"bio": "Amateur astronomer, <b>professional</b> insomniac.", "avatar": "0" * 32 + ".webp"}


def form(form_class, *errors, **data):
    """Return a form with values and errors. Those in USER_FORMS take a user."""
    users = (person(1, "Mila"),) if form_class in USER_FORMS else ()
    instance = form_class(*users)
    instance.process(data=data)
    for field, text in errors:
        instance.with_error(InvalidInput(text, field))
    return instance


def button(state, list_name="", focus=False):
    values = {"state": state, "list_name": list_name, "focus": focus}
    return {"person": person(2, "Nika"), "back": "/search?q=ni", "ask_again_at": None, **values}


def counter(name, number, *, lit=False, label="", hide=False, oob=False):
    return {"name": name, "number": number, "id": f"count-{name}", "lit": lit, "label": label, "hide": hide, "oob": oob}


def home(requests=(), chats=(), friends=(), suggestions=(), entries=None, online=()):
    entries = [changelog_entry()] if entries is None else entries
    today = {"moon": moon_phase.moon_phase(MOMENT), "today": MOMENT, "changelog": entries}
    steps = {"has_profile": True, "has_asked": False}
    return {
        "requests": requests,
        "chats": chats,
        "friends": friends,
        "online": online,
        "most_online": 24,
        "first_steps": steps,
        "suggestions": suggestions,
        "back": "/",
        **today,
    }


def done(state, text, undo="", leaves=True, focus=True):
    values = {"state": state, "text": text, "undo": undo, "leaves": leaves, "focus": focus}
    return {"person": person(2, "Nika"), "list_name": "incoming" if leaves else "", "back": "/", **values}


def profile(user, state, online=False, last_seen_at=None, in_common=(), cooldown_until=None):
    return {
        "details": ProfileDetails(user, state, 6, cooldown_until, list(in_common), 14 if in_common else 0),
        "last_seen_at": last_seen_at,
        "online": online,
        "most_online": 24,
        "hue": 3,
        "back": "/u/nika",
        "own_counters": Counters(24, 3, 2, 0, 77),
    }


def row(state, online=False, note="", query=None, ask_again_at=None):
    nika = PersonRow(person(2, "Nika", **MILA), state, online, note, ask_again_at)
    return {"row": nika, "list_name": "", "query": query, "back": "/search?q=ni"}


def rows_of(people, next_url):
    return {"rows": people, "next_url": next_url, "list_name": "friends", "query": None, "back": "/friends"}


def results(list_name, people, term="", oob=False):
    search = {"term": term, "query": Query.parse(term), "back": "/search", "is_first": True, "oob": oob}
    return {"rows": people, "next_url": "", "list_name": list_name, **search}


def status(term, count, next_url="", oob=False):
    return {"term": term, "query": Query.parse(term), "count": count, "next_url": next_url, "oob": oob}


def changelog_entry():
    return changelog.ChangelogEntry("1.0", MOMENT, ("Something new.",))


def session_rows():
    sessions = [
        Session(id=1, last_used_at=MOMENT, created_at=MOMENT),
        Session(id=2, last_used_at=MOMENT, created_at=MOMENT),
    ]
    return [
        {"session": sessions[0], "device": "Firefox on Linux", "is_current": True},
        {"session": sessions[1], "device": "Safari on iPhone", "is_current": False},
    ]


def invited():
    """Return a form to register through an invitation of Nika."""
    instance = form(RegisterForm)
    instance.open_invitation = OpenInvitation(Invitation(), person(2, "Nika"), "token")
    return instance


def invitation(number, **more):
    values = {"max_uses": 5, "uses": 2, "expires_at": MOMENT + timedelta(days=9999), **more}
    return {"invitation": Invitation(id=number, **values), "link": "" if more else "https://nox.example/i/token"}


STATES = {
    **chat_states.STATES,
    "auth/confirm_email": {"": lambda: {"user": person(1, "Mila"), "email": "mila@nox.example"}},
    "auth/link_invalid": {"": dict},
    "auth/strength": {"none": lambda: {"text": ""}, "some": lambda: {"text": "Your password is <fair>."}},
    "auth/undo_email_change": {
        "empty": lambda: {"form": form(ResetPasswordForm), "user": person(1, "Mila"), "email": "old@nox.example"}
    },
    "friends/invitation": {
        state: lambda state=state: {"inviter": person(2, "Nika", **MILA), "state": state, "token": "abc"}
        for state in ("self", "friends", "none")
    }
    | {"of the command line": lambda: {"inviter": None, "state": None, "token": "abc"}},
    "main/first_steps": {
        "none done": lambda: {"has_profile": False, "has_asked": False},
        "two done": lambda: {"has_profile": True, "has_asked": True},
    },
    "settings/email": {
        "confirmed": lambda: {"form": form(EmailForm), "user": person(1, "Mila")},
        "not confirmed": lambda: {"form": form(EmailForm), "user": person(1, "Mila", confirmed_at=None)},
        "another one waits": lambda: {
            "form": form(EmailForm, ("password", "Wrong."), email="new@x"),
            "user": person(1, "Mila", pending_email="new@nox.example"),
        },
    },
    "settings/invitations": {
        "none": lambda: {"form": form(InvitationForm, uses=5, days=7), "rows": []},
        "open, used up, expired": lambda: {
            "form": form(InvitationForm, ("uses", "Wrong."), uses=500, days=7),
            "rows": [invitation(3), invitation(2, uses=5), invitation(1, expires_at=MOMENT)],
        },
    },
    "settings/unconfirmed_email": {
        "none": lambda: {"user": person(1, "Mila"), "href": ""},
        "one": lambda: {"user": person(1, "Mila", confirmed_at=None), "href": "/settings/email"},
    },
    "auth/login": {
        "empty": lambda: {"form": form(LoginForm), "target": "/"},
        "wrong": lambda: {"form": form(LoginForm, (None, "Wrong."), identifier="mila"), "target": "/settings"},
    },
    "auth/register": {
        "empty": lambda: {"form": form(RegisterForm), "target": "/"},
        "invited": lambda: {"form": invited(), "target": "/u/nika"},
        "taken": lambda: {
            "form": form(RegisterForm, ("username", "Taken."), username='"><i>', email="a@x"),
            "target": "/",
        },
    },
    "auth/request_reset": {
        "empty": lambda: {"form": form(RequestResetForm), "minutes": 10},
        "bad": lambda: {"form": form(RequestResetForm, ("email", "Bad.")), "minutes": 1},
    },
    "auth/reset_sent": {"": dict},
    "auth/reset_invalid": {"": dict},
    "auth/new_password": {"empty": lambda: {"form": form(ResetPasswordForm), "user": person(1, "Mila")}},
    "errors/notice": {
        "400": lambda: {
            "code": 400,
            "title": "Old",
            "text": "Text",
            "links": [{"href": "/", "label": "Go"}],
            "request_id": "x",
            "request_name": "POST /u/nika/request",
            "moon": "new",
        },
        "500": lambda: {
            "code": 500,
            "title": "Broken",
            "text": "Text",
            "links": [],
            "request_id": "abc",
            "request_name": "GET /search",
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
    "forms/new_password": {"": lambda: {"form": form(ResetPasswordForm)}},
    "friends/button": {
        **{
            state: lambda state=state: button(state)
            for state in ("self", "none", "outgoing", "incoming", "friends", "blocked")
        },
        **{
            f"{state} on a profile, pressed": lambda state=state: button(state, list_name="profile", focus=True)
            for state in ("none", "outgoing", "incoming", "friends", "blocked")
        },
        "incoming in its list": lambda: button("incoming", list_name="incoming"),
        "none, too soon": lambda: {**button("none", list_name="profile"), "ask_again_at": MOMENT},
    },
    "friends/done": {
        "declined": lambda: done("none", "Declined", "decline"),
        "accepted": lambda: done("friends", "Friends"),
        "accepted in a search": lambda: done("friends", "Friends", leaves=False),
        "cancelled in a search": lambda: done("none", "Cancelled", "cancel", leaves=False, focus=False),
    },
    "main/home": {
        "newcomer": lambda: home(suggestions=[PersonRow(person(3, "Leo"), "none", note="One friend in common")]),
        "friends": lambda: home(
            requests=[PersonRow(person(4, "Sorin"), "incoming")],
            chats=[chat_states.row()],
            friends=[PersonRow(person(2, "Nika"), "friends", True)],
            entries=[],
            online=[person(2, "Nika")],
        ),
        "friends, presence hidden": lambda: home(friends=[PersonRow(person(2, "Nika"), "friends")], online=None),
    },
    "nav/counter": {
        "some in the navigation": lambda: counter("incoming", 3, lit=True, label="new requests", hide=True),
        "none in the navigation": lambda: counter("incoming", 0, lit=True, label="new requests", hide=True),
        "in a tab": lambda: counter("friends", 24),
        "more than 99": lambda: counter("unread", 100, lit=True, label="unread chats", hide=True),
        "out of band": lambda: counter("outgoing", 0, oob=True),
    },
    "nav/counters": {"": lambda: {"counters": Counters(24, 3, 2, 5, 77), "unread": True}},
    "nav/logout": {
        "button": lambda: {"wide": False, "token": csrf_token()},
        "row": lambda: {"wide": True, "token": csrf_token()},
    },
    "nav/main": {
        section: lambda section=section: {
            "section": section,
            "public_id": "mila",
            "picture": Markup("<i>picture</i>"),
            "unread": Markup("<i>5</i>"),
            "incoming": Markup("<i>3</i>"),
            "token": csrf_token(),
        }
        for section in ("friends", "settings")
    },
    "nav/picture": {
        "in place": lambda: {"person": person(1, "Mila"), "oob": False},
        "out of band": lambda: {"person": person(1, "Mila", **MILA), "oob": True},
    },
    "people/inserted": {
        "": lambda: {"row": PersonRow(person(2, "Nika"), "incoming"), "list_name": "incoming", "back": "/friends"}
    },
    "people/newcomers": {
        "one request": lambda: {"list_name": "incoming", "count": 1, "href": "/friends/incoming"},
        "two friends": lambda: {"list_name": "friends", "count": 2, "href": "/friends"},
    },
    "people/profile": {
        "self": lambda: profile(person(1, "Mila", **MILA), "self"),
        "friend online": lambda: profile(person(2, "Nika"), "friends", online=True),
        "friend away": lambda: profile(person(2, "Nika"), "friends", last_seen_at=MOMENT),
        "friend whose presence is hidden": lambda: profile(person(2, "Nika"), "friends"),
        "stranger": lambda: profile(person(2, "Nika"), "none", in_common=[person(3, "Boris"), person(4, "Zoë")]),
        "stranger, too soon": lambda: profile(person(2, "Nika"), "none", cooldown_until=MOMENT),
        "blocked": lambda: profile(person(2, "Nika"), "blocked"),
    },
    "people/detail": {"": dict},
    "people/faces": {
        "online": lambda: {"people": [person(2, "Nika"), person(1, "Mila", **MILA)], "online": True},
        "away": lambda: {"people": [person(2, "<b>Nika")], "online": False},
    },
    "people/online": {
        "somebody": lambda: {"people": [person(2, "Nika")], "most": 24},
        "as many as are shown": lambda: {"people": [person(2, "Nika"), person(3, "Leo")], "most": 2},
        "nobody": lambda: {"people": [], "most": 24},
    },
    "people/results": {
        **{
            name: lambda name=name: results(name, [])
            for name in ("friends", "incoming", "outgoing", "blocked", "search")
        },
        "nobody found": lambda: results("search", [], term="<zoe>"),
        "somebody found": lambda: results("search", [PersonRow(person(2, "Nika"), "none")], term="ni", oob=True),
    },
    "people/row": {
        "online": lambda: row("friends", online=True),
        "away, highlighted": lambda: row("none", query=Query.parse("nik")),
        "with a note": lambda: row("none", note="One friend in common"),
        "too soon": lambda: row("none", ask_again_at=MOMENT),
    },
    "people/rows": {
        "with a next page": lambda: rows_of([PersonRow(person(2, "Nika"), "friends")], next_url="/friends?after=abc"),
        "at the end": lambda: rows_of([], next_url=""),
    },
    "people/search_box": {"": lambda: {"action": "/search", "label": "Name", "term": '"><b>'}},
    "people/result_count": {
        "silent": lambda: status("", 0),
        "nobody": lambda: status("zoe", 0),
        "one": lambda: status("zoe", 1),
        "one letter, more": lambda: status("z", 20, next_url="/search?after=abc", oob=True),
    },
    "settings/delete": {
        "empty": lambda: {"form": form(DeleteAccountForm)},
        "wrong": lambda: {"form": form(DeleteAccountForm, ("password", "Wrong."))},
    },
    "ui/page_header": {"": lambda: {"title": "Settings", "back": "/", "back_label": "Home"}},
    "settings/index": {
        "": lambda: {
            "form": form(PreferencesForm, theme="night", language="en"),
            "privacy_form": PrivacyForm(person(1, "Mila")),
            "password_form": form(ChangePasswordForm),
            "session_count": 2,
            "user": person(1, "Mila"),
        }
    },
    "settings/preferences": {"": lambda: {"form": form(PreferencesForm, theme="auto", language="en")}},
    "settings/privacy": {
        "": lambda: {"form": PrivacyForm(person(1, "Mila"))},
        "error": lambda: {"form": PrivacyForm(person(1, "Mila")).with_error(InvalidInput("Choose one."))},
    },
    "settings/password": {
        "empty": lambda: {"form": form(ChangePasswordForm)},
        "wrong": lambda: {"form": form(ChangePasswordForm, ("current_password", "Wrong."))},
    },
    "main/picture": {
        "initials": lambda: {"person": person(1, "Mila"), "errors": []},
        "picture": lambda: {"person": person(1, "Mila", **MILA), "errors": []},
        "bad file": lambda: {"person": person(1, "Mila"), "errors": ["Damaged."]},
    },
    "main/edit_profile": {
        "as stored": lambda: {
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
    "settings/sessions": {"two": lambda: {"rows": session_rows()}, "one": lambda: {"rows": session_rows()[:1]}},
    "ui/error_notice": {"": dict},
    "ui/preference_switch": {"": lambda: {"next": "/auth/login"}},
    "ui/scripts": {"": dict},
    "ui/htmx": {"": dict},
    "ui/styles": {"": dict},
    "ui/toast": {
        "ok": lambda: {"text": "<Saved>", "kind": "ok", "subject": "nika"},
        "error": lambda: {"text": "No.", "kind": "error", "subject": ""},
    },
}
MACROS = {
    "friends/button_attributes",
    "people/avatar",
    "settings/saving_form",
    "ui/copy",
    "ui/icons",
    "ui/notices",
}  # rendered by other partials
CASES = [(name, state) for name, states in STATES.items() for state in states]


def test_every_partial_has_snapshots():
    partials = {
        str(path.relative_to(ROOT / "partials").with_suffix("")) for path in (ROOT / "partials").rglob("*.html")
    }
    assert partials == set(STATES) | MACROS


@pytest.mark.parametrize(
    ("name", "state"), CASES, ids=[f"{name} {state}".strip().replace("/", " ") for name, state in CASES]
)
def test_fragment_snapshot(app, snapshot, name, state):
    with app.test_request_context("/settings", base_url="http://localhost"), force_locale("en"):
        g._login_user = person(1, "Mila", **MILA)
        assert normalized(render_partial(f"partials/{name}.html", **STATES[name][state]())) == snapshot


def test_page_contains_its_fragment(app, alice, alice_browser):
    from tests.architecture.routes import ROUTES

    def without_volatile_parts(html):
        html = re.sub(r'(name="csrf_token" value=|datetime=|data-timestamp=)"[^"]*"', "", html)
        soup = BeautifulSoup(html, "html.parser")
        for out_of_band in soup.select("[hx-swap-oob]"):
            out_of_band.decompose()
        return re.sub(r"\s+", " ", str(soup)).strip()

    for endpoint, route in ROUTES.items():
        if route.page and not route.guests_only and route.status == 200:
            page, fragment = alice_browser.get(route.path).text, alice_browser.get(route.path, htmx=True).text
            assert without_volatile_parts(fragment) in without_volatile_parts(page), endpoint


def test_hues_are_within_range():
    assert {profiles.hue(f"person{number}") for number in range(99)} == set(range(profiles.HUES))
