"""Finding people, while typing or with Enter."""

from flask import request
from flask_login import current_user

from noxchat import circle
from noxchat.htmx import here, show
from noxchat.main import blueprint
from noxchat.main.friends import asked, entry, more
from noxchat.search import Query


@blueprint.route("/search")
def search():
    """Show the people who are called so, best first. To an empty box nobody, but what to do."""
    typed = asked()
    query = Query.of(typed)
    page = circle.search(current_user, query, request.args.get("after"))
    return show(
        "main/search.html",
        "partials/people/results.html" if page.start else "partials/people/rows.html",
        name="search",
        entries=[entry(person, state) for person, state in page.items],
        more=more(page, q=typed),
        typed=typed,
        query=query,
        back=here(),
        start=page.start,
        oob=True,
    )
