"""Finding people, while typing or with Enter."""

from flask import request
from flask_login import current_user

from noxchat import blocks, circle, keyset
from noxchat.htmx import here, show
from noxchat.main import blueprint
from noxchat.main.friends import asked, entry, more
from noxchat.models import User
from noxchat.search import Hit, Query


@blueprint.route("/search")
def search():
    """Show the people who are called so, best first. To an empty box nobody, but what to do."""
    typed = asked()
    query, cursor = Query.of(typed), request.args.get("after")
    place = keyset.decode(cursor, int, str)
    after = Hit(0, *place) if place and 0 <= place[0] < 4 else None
    hits = User.search(query, after, keyset.SIZE + 1, unseen=blocks.UNSEARCHED, viewer=current_user.id) if query else []
    page = keyset.page(hits, cursor if after else None, lambda hit: (hit.rank, hit.text))
    people = circle.meet(current_user, page.items)
    return show(
        "main/search.html",
        "partials/people/results.html" if page.start else "partials/people/rows.html",
        name="search",
        entries=[entry(person, state) for person, state in people],
        more=more(page, q=typed),
        typed=typed,
        query=query,
        back=here(),
        start=page.start,
        oob=True,
    )
