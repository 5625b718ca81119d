"""Profiles: seen, changed, refused; and home."""

import pytest

from noxchat.extensions import db
from noxchat.models import Profile, User
from tests.conftest import Browser, befriend, make_person

EDIT = {"username": "Alice", "public_id": "alice", "bio": ""}


def test_a_profile_as_page_and_as_fragment(app, alice, at_alice):
    bob = make_person(app, "Bob", public_id="Bobby", bio="Bread.\nBicycles.")
    page, fragment = at_alice.get("/u/bobby"), at_alice.get("/u/BOBBY", htmx=True)
    assert "<html" in page.text and "<html" not in fragment.text
    for text in (page.text, fragment.text):
        assert "@Bobby" in text and "Bread.\nBicycles." in text and 'data-friendship="none"' in text
        assert bob.email not in text
    assert 'data-friendship="self"' in at_alice.get("/u/alice").text


def test_nobody_is_404(at_alice):
    assert at_alice.get("/u/nobody").status_code == 404
    assert at_alice.get("/u/nobody", htmx=True).status_code == 404


def test_presence_is_for_friends_only(any_app):
    from noxchat.database import now

    alice, bob = make_person(any_app, "Alice", public_id="alice"), make_person(any_app, "Bob", public_id="bobby")
    with any_app.app_context():
        db.session.get(User, bob.id).last_seen_at = now()
        db.session.commit()
    at_alice = Browser(any_app, alice)
    page = at_alice.get("/u/bobby").text
    assert "data-online" not in page and "last seen" not in page
    befriend(any_app, alice, bob)
    page = at_alice.get("/u/bobby").text
    assert "data-online" in page and 'data-friendship="friends"' in page
    assert 'data-user="bobby"' in at_alice.get("/").text


def test_home_greets_shows_the_moon_and_what_is_new(at_alice):
    page = at_alice.get("/").text
    assert "Alice" in page and "tonight." in page and "h-news" in page and "Make yourself at home" in page


@pytest.mark.parametrize("htmx", [False, True])
def test_a_profile_is_changed(any_app, htmx):
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
    ("field", "value", "words"),
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
def test_what_cannot_be_taken_stays_in_the_form(app, alice, at_alice, field, value, words, htmx):
    make_person(app, "Bob", public_id="bobby")
    answer = at_alice.post("/settings/profile", {**EDIT, "bio": "typed before", field: value}, htmx=htmx)
    assert answer.status_code == 422 and words in answer.text
    assert ("<html" in answer.text) is not htmx
    assert value in answer.text and 'id="errors"' in answer.text and 'aria-invalid="true"' in answer.text
    if field != "bio":
        assert "typed before" in answer.text
    with app.app_context():
        kept = db.session.get(Profile, alice.id)
        assert (kept.public_id, kept.bio) == ("alice", "")
        assert db.session.get(User, alice.id).username == "Alice"


def test_after_a_refusal_the_page_shows_the_person_unchanged(app, alice, at_alice):
    make_person(app, "Bob", public_id="bobby")
    answer = at_alice.post("/settings/profile", {**EDIT, "username": "Somebody else", "public_id": "bobby"})
    assert 'href="/u/alice"' in answer.text and 'href="/u/bobby"' not in answer.text


def test_extra_fields_do_nothing(app, alice, at_alice):
    bob = make_person(app, "Bob", public_id="bobby")
    extra = {"user_id": bob.id, "id": bob.id, "email": "evil@x", "password_hash": "x", "avatar_path": "/etc/passwd"}
    assert at_alice.post("/settings/profile", {**EDIT, **extra}).status_code == 303
    with app.app_context():
        assert db.session.get(User, alice.id).email == "alice@nox.example"
        assert db.session.get(Profile, bob.id).public_id == "bobby"
        assert db.session.get(Profile, alice.id).avatar is None


def test_changes_of_name_are_limited_and_what_was_typed_is_not_lost(make_app):
    app = make_app(RENAMES_PER_DAY=2)
    browser = Browser(app, make_person(app, "Alice", public_id="alice"))
    codes = [browser.post("/settings/profile", {**EDIT, "public_id": f"alice{n}"}).status_code for n in range(3)]
    assert codes == [303, 303, 429]
    answer = browser.post("/settings/profile", {**EDIT, "public_id": "alice9"}, htmx=True)
    assert (answer.status_code, answer.headers["HX-Retarget"]) == (429, "#toasts")
    assert browser.post("/settings/profile", {**EDIT, "public_id": "alice1", "bio": "still here"}).status_code == 303


TEXTS = [
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


@pytest.mark.parametrize("text", TEXTS)
def test_text_never_becomes_an_element(app, at_alice, text):
    from bs4 import BeautifulSoup

    assert at_alice.post("/settings/profile", {**EDIT, "bio": text}).status_code == 303
    for path in ("/u/alice", "/settings/profile"):
        soup = BeautifulSoup(at_alice.get(path).text, "html.parser")
        assert text in soup.get_text() or text in [field.text.strip() for field in soup.find_all("textarea")]
        assert not soup.find("b", string=False) or not soup.find("img", src="x")
        assert not soup.find_all("script", src=False)
        assert not [tag for tag in soup.find_all(True) if any(name.startswith("on") for name in tag.attrs)]


@pytest.mark.parametrize("htmx", [False, True])
def test_the_look_is_kept_for_guests_and_for_people(any_app, htmx):
    guest = Browser(any_app)
    answer = guest.post("/settings/look", {"theme": "night", "language": "ru", "next": "/auth/register"}, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert answer.headers.get("HX-Refresh") == ("true" if htmx else None)
    if not htmx:
        assert answer.location == "/auth/register"
    page = guest.get("/auth/register").text
    assert '<html lang="ru" data-theme="night">' in page and "Создать аккаунт" in page
    alice = make_person(any_app, "Alice", public_id="alice")
    here, there = Browser(any_app, alice), Browser(any_app, alice)
    here.post("/settings/look", {"theme": "day"}, htmx=htmx)
    here.post("/settings/look", {"language": "ru"}, htmx=htmx)
    assert '<html lang="ru" data-theme="day">' in there.get("/").text


@pytest.mark.parametrize("fields", [{}, {"theme": "pink"}, {"language": "xx"}, {"theme": "night", "language": "../en"}])
@pytest.mark.parametrize("htmx", [False, True])
def test_an_unknown_look_is_refused(app, guest, at_alice, fields, htmx):
    for browser in (guest, at_alice):
        assert browser.post("/settings/look", fields, htmx=htmx).status_code == 422
        assert '<html lang="en">' in browser.get("/").text


def test_the_look_goes_back_only_to_this_site(guest):
    for target in ("//evil.example", "https://evil.example", "/\\evil"):
        assert guest.post("/settings/look", {"theme": "day", "next": target}).location == "/"


def test_a_browsers_language_counts_until_one_is_chosen(guest):
    page = guest.get("/auth/login", headers={"Accept-Language": "ru-RU,ru;q=0.9,en;q=0.5"}).text
    assert '<html lang="ru">' in page and "Войти" in page


@pytest.mark.parametrize("htmx", [False, True])
def test_leaving_for_good(any_app, htmx):
    from tests.conftest import PASSWORD

    alice, bob = make_person(any_app, "Alice", public_id="alice"), make_person(any_app, "Bob", public_id="bobby")
    befriend(any_app, alice, bob)
    here, there, at_bob = Browser(any_app, alice), Browser(any_app, alice), Browser(any_app, bob)
    assert here.post("/settings/delete", {"password": "not mine 1234"}, htmx=htmx).status_code == 422
    assert here.post("/settings/delete", {"password": ""}, htmx=htmx).status_code == 422
    assert there.get("/settings").status_code == 200
    answer = here.post("/settings/delete", {"password": PASSWORD}, htmx=htmx)
    assert (answer.headers.get("HX-Redirect") or answer.location) == "/"
    assert "Your account is deleted" in here.get("/").text
    assert there.get("/settings").status_code == 302
    assert at_bob.get("/u/alice").status_code == 404
    assert Browser(any_app).sign_in("alice").status_code == 422
    assert 'data-user="alice"' not in at_bob.get("/").text


def test_health(make_app):
    app = make_app()
    guest = Browser(app)
    assert guest.get("/healthz").json == {"status": "ok"}
    ready = guest.get("/readyz")
    assert ready.status_code == 200 and ready.json["database"] == "sqlite, answers, tables are current"
    for answer in (ready, guest.get("/healthz")):
        assert "Set-Cookie" not in answer.headers


def test_not_ready_without_tables(make_app, tmp_path):
    ready = Browser(make_app(uri=f"sqlite:///{tmp_path}/nothing.db")).get("/readyz")
    assert ready.status_code == 503 and "db upgrade" in ready.json["database"]


def test_what_is_down_beside_the_database_is_told_and_no_reason_to_fail(make_app):
    app = make_app(MAIL_SERVER="127.0.0.1", MAIL_PORT=9, ELASTICSEARCH_URL="http://127.0.0.1:9", WORKERS=2)
    ready = Browser(app).get("/readyz")
    assert ready.status_code == 200
    assert "queue" in ready.json["mail"] and "database searches" in ready.json["elasticsearch"]
    assert "each process counts by itself" in ready.json["limits"]
