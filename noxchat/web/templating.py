"""What templates can use besides the names that routes pass to them."""

import secrets
from functools import cache
from pathlib import Path
from typing import Any

from flask import Flask, current_app, g
from flask_babel import format_decimal
from flask_login import current_user
from flask_wtf.csrf import generate_csrf
from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader, StrictUndefined
from jinja_partials import generate_render_partial, register_extensions
from markupsafe import Markup, escape

from noxchat.counters import get_counters
from noxchat.models import BIO_LENGTH, PASSWORD_LENGTH, PUBLIC_ID_LENGTH
from noxchat.profiles import avatar_of
from noxchat.web import assets, i18n
from noxchat.web.htmx import current_path
from noxchat.web.login import loaded_user
from noxchat.web.people import FriendButtons
from noxchat.web.preferences import LANGUAGES, language, theme


def configure_loaders(app: Flask, root: Path):
    """Let templates come from templates/ and partials/. To be called before any extension touches the environment."""
    app.jinja_options = {**app.jinja_options, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    partials = PrefixLoader({"partials": FileSystemLoader(root / "partials")})
    app.jinja_loader = ChoiceLoader([FileSystemLoader(root / "templates"), partials])


def init_app(app: Flask):
    """Add the globals and filters of templates."""
    i18n.compile_translations(Path(app.root_path).parent / "translations")
    register_extensions(app)
    app.extensions["moment"] = i18n.Moment
    app.context_processor(page_context)

    # Flask's render_template runs context processors and signals, which partials do not need.
    def render(partial, /, **context):
        return app.jinja_env.get_template(partial).render(context)

    app.jinja_env.globals["render_partial"] = generate_render_partial(render)
    app.jinja_env.filters["highlight"] = highlight
    # The macros of a template are attributes of its module.
    drawings: Any = app.jinja_env.get_template("partials/ui/icons.html").module
    people: Any = app.jinja_env.get_template("partials/people/avatar.html").module
    app.jinja_env.globals.update(
        # Drawn in every row of every list, always alike.
        icon=cache(drawings.icon),
        moon_icon=cache(drawings.moon),
        avatar=people.avatar,
        _=i18n.gettext,
        asset_url=assets.find_asset_url if app.debug else assets.asset_url,
        moment_script_url=assets.moment_script_url,
        moment=i18n.Moment,
        script_texts=i18n.script_texts,
        language=language,
        theme=theme,
        LANGUAGES=LANGUAGES,
        viewer=loaded_user,
        avatar_of=avatar_of,
        profile_path=profile_path,
        FriendButtons=FriendButtons,
        current_path=current_path,
        csrf_token=csrf_token,
        new_tab_id=new_tab_id,
        max_picture_megabytes=max_picture_megabytes,
        BIO_LENGTH=BIO_LENGTH,
        PASSWORD_LENGTH=PASSWORD_LENGTH,
        PUBLIC_ID_LENGTH=PUBLIC_ID_LENGTH,
    )


def page_context() -> dict:
    """Return what every page needs for somebody who is logged in: the numbers of the navigation.

    An error page does without, since the database may be what failed.
    """
    if g.get("failed") or not current_user.is_authenticated:
        return {}
    return {"counters": get_counters(current_user)}


def highlight(text: str, query) -> Markup | str:
    """Return a text with what was searched for in <mark> elements. query: a search.Query, or None."""
    if not query:
        return text
    segments = ((escape(segment), matches) for segment, matches in query.highlight(text))
    return Markup("".join(f"<mark>{text}</mark>" if matches else text for text, matches in segments))  # noqa: S704


def profile_path(public_id: str) -> str:
    """Return the path of somebody's profile; the friend actions are below it: /u/PID/request.

    The same as url_for, which is slow for the many rows of a list. A Public ID needs no quoting.
    """
    return f"/u/{public_id}"


def csrf_token() -> str:
    """Return Flask-WTF's token, which looks up its settings each time that it is asked for."""
    return g.get("csrf_token") or generate_csrf()


def new_tab_id() -> str:
    """Return an id for the browser tab in which this page will be."""
    return secrets.token_hex(4)


def max_picture_megabytes() -> str:
    """Return the largest size of a picture in megabytes, as a number in the reader's language."""
    return format_decimal(current_app.config["AVATAR_BYTES"] / 1_000_000)
