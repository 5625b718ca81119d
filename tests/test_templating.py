"""Partials that are rendered once for all pages."""

from markupsafe import Markup

from noxchat.web.templating import csrf_token
from tests.conftest import TOKEN, Browser, make_person


def test_cached_layout_contains_nothing_about_a_person(app):
    people = [make_person(app, name, public_id=f"{name}_id".lower()) for name in ("Alice", "Bob")]
    pages = {}
    for person in people:
        for language in ("en", "ru"):
            browser = Browser(app, person)
            browser.post("/settings/look", {"language": language})
            page = browser.get("/friends").text
            pages[person.username, language] = page, TOKEN.search(page)[1]  # another page's may be a second younger
    cached = app.jinja_env.globals["cached_partial"].rendered
    assert len(cached) >= 4  # styles and navigation in two languages
    for (name, language), (page, token) in pages.items():
        assert f'href="/u/{name.lower()}_id"' in page and page.count(token) >= 2
        assert ("Поиск" in page) == (language == "ru")
        assert not any(text in html for html in cached.values() for text in (token, name, f"{name.lower()}_id"))
        assert "~" not in page


def test_values_of_cached_partials_are_escaped(app):
    cached_partial = app.jinja_env.globals["cached_partial"]
    with app.test_request_context("/"):
        values = {
            "token": csrf_token(),
            "public_id": "mila",
            "picture": Markup("<i></i>"),
            "incoming": "<script>",
            "unread": "",
        }
        html = cached_partial("partials/nav/main.html", section="home", values=values)
        assert "&lt;script&gt;" in html and "<script>" not in html and "<i></i>" in html
        assert "<b>" in cached_partial(
            "partials/nav/main.html", section="home", values={**values, "incoming": Markup("<b>")}
        )


def test_partials_are_not_cached_in_debug_mode(app):
    app.debug = True
    cached_partial = app.jinja_env.globals["cached_partial"]
    with app.test_request_context("/"):
        assert cached_partial("partials/ui/styles.html").startswith("<link")
    assert not cached_partial.rendered
