"""Registration, with and without htmx."""

import re

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import func, select

from noxchat import passwords
from noxchat.extensions import db
from noxchat.models import QueuedEmail, User
from tests.conftest import PASSWORD, Browser, make_person

MILA = {"username": "Mila", "email": "mila@nox.example", "password": PASSWORD, "password2": PASSWORD}


def count_accounts(app):
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(User))


def test_registered_account_can_log_in_at_once(any_app):
    anonymous = Browser(any_app)
    answer = anonymous.post("/auth/register", MILA)
    assert (answer.status_code, answer.location) == (303, "/auth/login")
    page = anonymous.get("/auth/login").text
    assert 'data-kind="info"' in page and "Your password is" in page
    assert anonymous.get("/").text.count("Create account")  # not logged in yet
    assert anonymous.log_in("MILA@nox.example").status_code == 303
    assert "Mila" in anonymous.get("/").text


def test_htmx_registration_answers_with_hx_redirect(app, anonymous):
    answer = anonymous.post("/auth/register", MILA, htmx=True)
    assert (answer.status_code, answer.headers["HX-Redirect"], answer.text) == (200, "/auth/login", "")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("username", "", "Fill in this field"),
        ("username", "x", "at least 2 characters"),
        ("username", "mi\u200bla", "U+200B"),
        ("email", "nobody", "not an e-mail address"),
        ("password", "short", "at least 8 characters"),
        ("password", "password", "first that get guessed"),
        ("password2", "another", "passwords differ"),
    ],
)
@pytest.mark.parametrize("htmx", [False, True])
def test_invalid_field_is_refused_and_input_kept(app, anonymous, field, value, message, htmx):
    fields = {**MILA, field: value}
    if field == "password":
        fields["password2"] = value
    answer = anonymous.post("/auth/register", fields, htmx=htmx)
    assert answer.status_code == 422
    assert message in answer.text
    assert ("<html" in answer.text) is not htmx
    assert PASSWORD not in answer.text
    kept = "mila@nox.example" if field != "email" else 'value="Mila"'
    assert kept in answer.text
    assert count_accounts(app) == 0


def test_taken_username_is_refused(app, anonymous, alice):
    answer = anonymous.post("/auth/register", {**MILA, "username": "АLICE"})
    assert answer.status_code == 422 and "taken" in answer.text


@pytest.mark.parametrize("htmx", [False, True])
def test_all_errors_are_shown_at_once(app, anonymous, alice, htmx):
    fields = {"username": "Alice", "email": "nonsense", "password": "qwerty123", "password2": "qwerty124"}
    answer = anonymous.post("/auth/register", fields, htmx=htmx)
    assert answer.status_code == 422 and count_accounts(app) == 1
    soup = BeautifulSoup(answer.text, "html.parser")
    summary = soup.select_one("#errors")
    assert summary.has_attr("autofocus") and "4 fields need another look" in summary.text
    assert [link["href"] for link in summary.select("a")] == ["#username", "#email", "#password", "#password2"]
    errors = [soup.select_one(f"#{name}-error").text for name in ("username", "email", "password", "password2")]
    assert all(
        part in error for part, error in zip(("taken", "address", "get guessed", "differ"), errors, strict=True)
    ), errors
    assert soup.select_one("#username")["value"] == "Alice" and soup.select_one("#email")["value"] == "nonsense"
    assert "qwerty12" not in answer.text


def test_repeated_password_may_be_absent(any_app):
    anonymous = Browser(any_app)
    fields = {name: value for name, value in MILA.items() if name != "password2"}
    assert anonymous.post("/auth/register", {**fields, "password2": ""}).status_code == 422
    assert anonymous.post("/auth/register", fields).status_code == 303
    assert anonymous.log_in("mila@nox.example").status_code == 303


@pytest.mark.parametrize("name", ["Alice", "Мила", "王小明", "a" * 32, "Jean‑Luc"])
def test_free_names_are_offered_instead_of_a_taken_one(any_app, name):
    for taken in (name, f"{name[:31]}2"):
        make_person(any_app, taken, f"{taken}@nox.example")
    answer = Browser(any_app).post("/auth/register", {**MILA, "username": name})
    offered = [button.text for button in BeautifulSoup(answer.text, "html.parser").select("[data-fill=username]")]
    assert len(set(offered)) == 3 and f"{name[:31]}2" not in offered
    for number, offer in enumerate(offered):
        fields = {**MILA, "username": offer, "email": f"new{number}@nox.example"}
        assert Browser(any_app).post("/auth/register", fields).status_code == 303, offer


def test_taken_email_is_not_revealed_and_its_owner_is_notified(any_app):
    make_person(any_app, "Alice", "alice@nox.example")
    any_app.extensions["mail_worker"].stopped = True  # keeps the e-mail in the queue
    taken, free = Browser(any_app), Browser(any_app)
    taken_answer = taken.post("/auth/register", {**MILA, "email": "ALICE@nox.example"})
    free_answer = free.post("/auth/register", {**MILA, "username": "Nika"})
    assert (taken_answer.status_code, taken_answer.location) == (free_answer.status_code, free_answer.location)

    def login_page(browser):
        text = re.sub(r"\S+@\S+", "@", browser.get("/auth/login").text)
        return re.sub(r'(value|content)="[^"]*"', "", text)

    assert login_page(taken) == login_page(free)
    with any_app.app_context():
        assert [email.kind for email in db.session.scalars(select(QueuedEmail))] == ["address_taken"]
    assert count_accounts(any_app) == 2


def test_registration_computes_one_hash_whether_the_email_is_taken_or_not(app, alice, anonymous, monkeypatch):
    """Which takes nearly all of the time, so that it does not tell which addresses have an account."""
    hashed = []
    monkeypatch.setattr(passwords, "generate_password_hash", lambda password: hashed.append(password) or "scrypt:x")
    for username, email in (("Nika", "alice@nox.example"), ("Mila", "mila@nox.example")):
        answer = anonymous.post("/auth/register", {**MILA, "username": username, "email": email})
        assert (answer.status_code, answer.location) == (303, "/auth/login")
    assert hashed == [PASSWORD] * 2 and count_accounts(app) == 2


def test_extra_form_fields_are_ignored(app, anonymous):
    anonymous.post(
        "/auth/register",
        {**MILA, "id": 999, "password_hash": "x", "public_id": "root1", "theme": "night", "user_id": 7},
    )
    with app.app_context():
        user = db.session.scalar(select(User))
        assert (user.id, user.theme) == (1, "auto") and user.password_hash.startswith("scrypt:")


def test_registration_is_rate_limited_per_ip_address(make_app):
    app = make_app(SIGN_UPS_PER_HOUR=2)
    anonymous = Browser(app, address="10.0.0.1")
    codes = []
    for number in range(3):
        answer = anonymous.post(
            "/auth/register", {**MILA, "username": f"Mila {'abc'[number]}", "email": f"m{number}@nox.example"}
        )
        codes.append(answer.status_code)
    assert codes == [303, 303, 429]
    assert int(answer.headers["Retry-After"]) > 0
    other = Browser(app, address="10.0.0.2")
    assert other.post("/auth/register", {**MILA, "username": "Nika", "email": "n@nox.example"}).status_code == 303


def test_logged_in_user_is_redirected_from_register_and_login(alice_browser):
    assert alice_browser.get("/auth/register").location == "/"
    assert alice_browser.get("/auth/login?next=/settings").location == "/settings"
