"""The search for people, while typing or with Enter."""

from flask import request
from flask_login import current_user

from noxchat import relationships
from noxchat.main import blueprint
from noxchat.relationships import person_row
from noxchat.search import Query
from noxchat.web.people import search_term, show_people


@blueprint.route("/search")
def search():
    """Show the people whom a search term matches, best match first; without a term, what to do."""
    page = relationships.search_people(current_user, Query.parse(search_term()), request.args.get("after"))
    rows = [person_row(current_user, person, state, "", person.cooldown_until) for person, state in page.items]
    return show_people("main/search.html", "search", page, rows, search_term())
