"""Lists of people: what the lists of friends, requests, blocked people and the search have in common."""

from types import SimpleNamespace

from flask import request, url_for
from markupsafe import Markup, escape
from werkzeug.wrappers import Response

from noxchat.keyset import Page
from noxchat.relationships import BLOCKED, FRIENDS, INCOMING, OUTGOING, PersonRow
from noxchat.search import Query
from noxchat.web.htmx import current_path, show

# The lists in which a person belongs only while their friend button has this state.
LIST_STATES = {"friends": FRIENDS, "incoming": INCOMING, "outgoing": OUTGOING, "blocked": BLOCKED}


def search_term() -> str:
    """Return what is typed into the search box of this page."""
    return request.args.get("q", "").strip()


def next_page_url(page: Page, endpoint: str = "", **values) -> str:
    """Return the URL of the following page of a list; empty at the end. endpoint: of the list, by default this one."""
    return url_for(endpoint or request.endpoint or "", after=page.next_cursor, **values) if page.next_cursor else ""


def show_people(template: str, list_name: str, page: Page, rows: list[PersonRow], term: str = "") -> Response:
    """Answer with a list of people, or with its next rows when htmx asked for those.

    list_name: a key of LIST_STATES, or `search`. rows: those of the page. term: what was searched for.
    """
    return show(
        template,
        "partials/people/results.html" if page.is_first else "partials/people/rows.html",
        list_name=list_name,
        rows=rows,
        next_url=next_page_url(page, q=term or None),
        term=term,
        query=Query.parse(term),
        back=current_path(),
        is_first=page.is_first,
        oob=True,
    )


class FriendButtons:
    """Renders the friend buttons of a list. Called like the macro of friends/button.html.

    The buttons of a list differ only in their state and the person, and would be a fifth of the cost of a page. So each
    state is rendered once with placeholders, which are replaced for each person.
    """

    ID, NAME = "~id~", "~name~"  # no Public ID and no escaped name contains a ~

    def __init__(self, macro):
        self.macro = macro
        self.rendered = {}
        self.placeholder = SimpleNamespace(username=self.NAME, public_id=self.ID)

    def __call__(self, person, state, list_name, back, focus, ask_again_at=None):
        if "~" in back or ask_again_at:  # a search term may contain anything
            return self.macro(person, state, list_name, back, focus, ask_again_at)
        if state not in self.rendered:
            self.rendered[state] = str(self.macro(self.placeholder, state, list_name, back, focus))
        button = self.rendered[state].replace(self.ID, person.public_id)
        return Markup(button.replace(self.NAME, str(escape(person.username))))  # noqa: S704  both are HTML
