"""Profile pages, editing the profile, and the home page."""

from collections import Counter

import pytest
from bs4 import BeautifulSoup

from noxchat.extensions import db
from noxchat.models import Profile, User
from tests.conftest import Browser, befriend, make_person

EDIT = {"username": "Alice", "public_id": "alice", "bio": ""}


def test_profile_as_page_and_fragment(app, alice, alice_browser):
    bob = make_person(app, "Bob", public_id="Bobby", bio="Bread.\nBicycles.")
    page, fragment = alice_browser.get("/u/bobby"), alice_browser.get("/u/BOBBY", htmx=True)
    assert "<html" in page.text and "<html" not in fragment.text
    for text in (page.text, fragment.text):
        assert "@Bobby" in text and "Bread.\nBicycles." in text and 'data-friendship="none"' in text
        assert bob.email not in text
    assert 'data-friendship="self"' in alice_browser.get("/u/alice").text


def test_unknown_profile_is_404(alice_browser):
    assert alice_browser.get("/u/nobody").status_code == 404
    assert alice_browser.get("/u/nobody", htmx=True).status_code == 404


def test_presence_is_shown_to_friends_only(any_app):
    from noxchat.database import now

    alice, bob = make_person(any_app, "Alice", public_id="alice"), make_person(any_app, "Bob", public_id="bobby")
    with any_app.app_context():
        db.session.get(User, bob.id).last_seen_at = now()
        db.session.commit()
    alice_browser = Browser(any_app, alice)
    page = alice_browser.get("/u/bobby").text
    assert "data-online" not in page and "last seen" not in page
    befriend(any_app, alice, bob)
    page = alice_browser.get("/u/bobby").text
    assert "data-online" in page and 'data-friendship="friends"' in page
    assert 'data-user="bobby"' in alice_browser.get("/").text


def test_home_shows_greeting_moon_phase_and_first_steps_until_there_is_a_friend(any_app):
    alice, bob = make_person(any_app, "Alice", public_id="alice"), make_person(any_app, "Bob", public_id="bobby")
    browser = Browser(any_app, alice)
    for htmx in (False, True):
        page = browser.get("/", htmx=htmx).text
        assert "Alice" in page and "tonight." in page and "Make yourself at home" in page and "h-news" not in page
        assert "data-complete" not in page
    browser.post("/settings/profile", {"username": "Alice", "public_id": "alice", "bio": "Here I am."})
    assert browser.get("/").text.count("data-complete") == 1
    browser.post("/u/bobby/request")
    for htmx in (False, True):
        page = browser.get("/", htmx=htmx).text
        assert page.count("data-complete") == 2 and "/friends/outgoing" in page
    befriend(any_app, alice, bob)
    page = browser.get("/").text
    assert "Make yourself at home" not in page and "h-news" in page


@pytest.mark.parametrize("htmx", [False, True])
def test_edit_profile(any_app, htmx):
    alice = make_person(any_app, "Alice", public_id="alice")
    browser = Browser(any_app, alice)
    fields = {"username": "Alice Ø", "public_id": "Wonder", "bio": "Down the\r\nhole 🐇"}
    answer = browser.post("/settings/profile", fields, htmx=htmx)
    assert (answer.headers.get("HX-Redirect") or answer.location) == "/u/Wonder"
    assert answer.status_code == (200 if htmx else 303)
    page = browser.get("/u/wonder").text
    assert "Alice Ø" in page and "Down the\nhole 🐇" in page and "Your profile is saved." in page
    assert browser.get("/u/alice").location == "/u/Wonder"
    assert browser.get("/settings/profile").text.count("hole 🐇") == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("username", "", "Fill in this field."),
        ("username", "x" * 33, "at most 32 characters"),
        ("username", "B0b", "taken"),
        ("public_id", "ab", "at least 3 characters"),
        ("public_id", "bobby", "already in use"),
        ("public_id", "BOBBY", "already in use"),
        ("public_id", "al ice", "begins with a letter or digit"),
        ("public_id", "settings", "reserved"),
        ("bio", "x" * 150, "10 characters too many"),
        ("bio", "a\u202eb", "U+202E"),
    ],
)
@pytest.mark.parametrize("htmx", [False, True])
def test_invalid_profile_is_refused_and_input_kept(app, alice, alice_browser, field, value, message, htmx):
    make_person(app, "Bob", public_id="bobby")
    answer = alice_browser.post("/settings/profile", {**EDIT, "bio": "typed before", field: value}, htmx=htmx)
    assert answer.status_code == 422 and message in answer.text
    assert ("<html" in answer.text) is not htmx
    assert value in answer.text and 'id="errors"' in answer.text and 'aria-invalid="true"' in answer.text
    if field != "bio":
        assert "typed before" in answer.text
    with app.app_context():
        kept = db.session.get(Profile, alice.id)
        assert (kept.public_id, kept.bio) == ("alice", "")
        assert db.session.get(User, alice.id).username == "Alice"


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize(("name", "public_id"), [("Support", "www"), ("Nox Team", "sign-up"), ("Mila\u200b", "_ab")])
def test_values_older_than_a_rule_are_kept_but_not_taken(app, alice, htmx, name, public_id):
    old = Browser(app, make_person(app, name, "old@nox.example", public_id=public_id))
    fields = {"username": name, "public_id": public_id, "bio": "Two\r\nlines"}
    for _time in range(2):  # the second time, the bio is unchanged too
        answer = old.post("/settings/profile", fields, htmx=htmx)
        assert answer.status_code == (200 if htmx else 303) and "error" not in answer.text
    with app.app_context():
        profile = db.session.get(Profile, old.user_id)
        assert (profile.public_id, profile.bio) == (public_id, "Two\nlines")
        assert db.session.get(User, old.user_id).username == name
    for field, other in (("username", "Admin"), ("public_id", "new")):
        answer = old.post("/settings/profile", {**fields, field: other}, htmx=htmx)
        assert answer.status_code == 422 and f'id="{field}-error"' in answer.text
    alice_browser = Browser(app, alice)
    for field in ("username", "public_id"):
        answer = alice_browser.post("/settings/profile", {**EDIT, field: fields[field]}, htmx=htmx)
        assert answer.status_code == 422 and f'id="{field}-error"' in answer.text


def test_bio_older_than_a_rule_is_kept(app):
    fields = {"username": "Mila", "public_id": "mila", "bio": "a\u202eb"}
    browser = Browser(app, make_person(app, "Mila", public_id="mila", bio=fields["bio"]))
    assert browser.post("/settings/profile", {**fields, "username": "Mila M"}).status_code == 303
    assert browser.post("/settings/profile", {**fields, "bio": "a\u202ec"}).status_code == 422


def test_page_links_to_the_stored_public_id_after_a_refused_edit(app, alice, alice_browser):
    make_person(app, "Bob", public_id="bobby")
    answer = alice_browser.post("/settings/profile", {**EDIT, "username": "Somebody else", "public_id": "bobby"})
    assert 'href="/u/alice"' in answer.text and 'href="/u/bobby"' not in answer.text


def test_extra_form_fields_are_ignored(app, alice, alice_browser):
    bob = make_person(app, "Bob", public_id="bobby")
    extra = {"user_id": bob.id, "id": bob.id, "email": "evil@x", "password_hash": "x", "avatar_path": "/etc/passwd"}
    assert alice_browser.post("/settings/profile", {**EDIT, **extra}).status_code == 303
    with app.app_context():
        assert db.session.get(User, alice.id).email == "alice@nox.example"
        assert db.session.get(Profile, bob.id).public_id == "bobby"
        assert db.session.get(Profile, alice.id).avatar is None


def test_public_id_changes_are_rate_limited_but_other_edits_are_not(make_app):
    app = make_app(RENAMES_PER_DAY=2)
    browser = Browser(app, make_person(app, "Alice", public_id="alice"))
    codes = [browser.post("/settings/profile", {**EDIT, "public_id": f"alice{n}"}).status_code for n in range(3)]
    assert codes == [303, 303, 429]
    answer = browser.post("/settings/profile", {**EDIT, "public_id": "alice9"}, htmx=True)
    assert (answer.status_code, answer.headers["HX-Retarget"]) == (429, "#toasts")
    assert browser.post("/settings/profile", {**EDIT, "public_id": "alice1", "bio": "still here"}).status_code == 303


INJECTIONS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
    "${7*7}",
    "' OR 1=1 --",
    "%s%n",
    "</textarea><b>",
    "&lt;",
    "javascript:alert(1)",
]


def test_bio_is_escaped(app, alice_browser):
    page, form = ("/u/alice", ".bio"), ("/settings/profile", "textarea")
    alice_browser.post("/settings/profile", {**EDIT, "bio": "plain"})
    alice_browser.get("/")  # shows the notice
    plain = {path: count_elements(alice_browser, path) for path, _selector in (page, form)}
    for text in INJECTIONS:
        assert alice_browser.post("/settings/profile", {**EDIT, "bio": text}).status_code == 303, text
        alice_browser.get("/")  # shows the notice
        for path, selector in (page, form):
            soup = BeautifulSoup(alice_browser.get(path).text, "html.parser")
            assert soup.select_one(selector).get_text().strip() == text, path
            assert count_elements(alice_browser, path) == plain[path], (text, path)


def count_elements(browser, path):
    """Return how many elements of each name and set of attributes there are in a page."""
    soup = BeautifulSoup(browser.get(path).text, "html.parser")
    return Counter(tag.name if not tag.attrs else f"{tag.name} {sorted(tag.attrs)}" for tag in soup.find_all(True))


@pytest.mark.parametrize("htmx", [False, True])
def test_taken_name_and_public_id_are_told_at_once_with_free_ones(app, alice, alice_browser, htmx):
    make_person(app, "Zoe", public_id="zoe_1")
    answer = alice_browser.post("/settings/profile", {"username": "zoe", "public_id": "ZOE_1", "bio": "Hi."}, htmx=htmx)
    soup = BeautifulSoup(answer.text, "html.parser")
    assert answer.status_code == 422 and "2 fields need another look" in soup.select_one("#errors").text
    names, ids = ([button.text for button in soup.select(f"[data-fill={name}]")] for name in ("username", "public_id"))
    assert len(names) == len(ids) == 3 and all(name.startswith("zoe") for name in names)
    fields = {"username": names[0], "public_id": ids[0], "bio": "Hi."}
    assert alice_browser.post("/settings/profile", fields).location == f"/u/{ids[0]}"
