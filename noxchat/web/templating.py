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
from jinja2.utils import concat
from jinja_partials import generate_render_partial, register_extensions
from markupsafe import Markup, escape

from noxchat import messages
from noxchat.counters import get_counters
from noxchat.models import BIO_LENGTH, PASSWORD_LENGTH, PUBLIC_ID_LENGTH
from noxchat.profiles import avatar_of
from noxchat.web import assets, i18n
from noxchat.web.htmx import current_path, render_partial
from noxchat.web.login import loaded_user
from noxchat.web.message_text import render_text
from noxchat.web.people import FriendButtons
from noxchat.web.preferences import LANGUAGES, language, sound, theme

# Macros that any template can call. An import in a template would prepare them anew for each page. Each file can use
# the macros of those before it.
MACROS = {
    "partials/ui/icons.html": ("icon", "moon_icon"),
    "partials/ui/notices.html": ("notice", "notices"),
    "partials/ui/copy.html": ("copy_button",),
    "partials/people/avatar.html": ("avatar",),
    "partials/friends/button_attributes.html": ("button_attributes",),
    "partials/friends/button.html": ("friend_button",),
    "partials/people/row.html": ("person_row",),
    "partials/settings/saving_form.html": ("saving_form",),
    "partials/chat/row.html": ("conversation_row",),
    "partials/chat/message.html": ("chat_message",),
}


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
        template = app.jinja_env.get_template(partial)
        names = partial_globals(template) | context
        try:
            return concat(template.root_render_func(template.new_context(names, shared=True)))
        except Exception:  # noqa: BLE001  raised again, with the lines of the templates
            app.jinja_env.handle_exception()

    # Template.render copies the globals for each partial, out of a ChainMap, which is slow.
    partial_globals = cache(lambda template: dict(template.globals))
    app.jinja_env.globals["render_partial"] = generate_render_partial(render)
    app.jinja_env.globals["cached_partial"] = CachedPartials()
    app.jinja_env.filters["highlight"] = highlight
    app.jinja_env.globals.update(
        _=i18n.gettext,
        asset_url=assets.find_asset_url if app.debug else assets.asset_url,
        moment_script_url=assets.moment_script_url,
        moment=i18n.Moment,
        month=i18n.month,
        script_texts=i18n.script_texts,
        language=language,
        theme=theme,
        sound=sound,
        LANGUAGES=LANGUAGES,
        viewer=loaded_user,
        avatar_of=avatar_of,
        profile_path=profile_path,
        render_text=render_text,
        describe_system_message=messages.describe_system_message,
        FriendButtons=FriendButtons,
        current_path=current_path,
        csrf_token=csrf_token,
        new_tab_id=new_tab_id,
        max_picture_bytes=lambda: current_app.config["AVATAR_BYTES"],
        max_picture_megabytes=max_picture_megabytes,
        BASE_URL=app.config["BASE_URL"],
        REGISTRATION=app.config["REGISTRATION"],
        SENDS_EMAIL=bool(app.config["MAIL_SERVER"]),
        BIO_LENGTH=BIO_LENGTH,
        PASSWORD_LENGTH=PASSWORD_LENGTH,
        PUBLIC_ID_LENGTH=PUBLIC_ID_LENGTH,
    )
    for template, names in MACROS.items():
        module: Any = app.jinja_env.get_template(template).module
        macros = {name: getattr(module, name) for name in names}
        # Drawn in every row of every list, always alike.
        is_constant = template == "partials/ui/icons.html"
        app.jinja_env.globals.update({name: cache(macro) if is_constant else macro for name, macro in macros.items()})


class CachedPartials:
    """Renders partials of which only some values differ from page to page: once for each language, with placeholders.

    Nothing about a person is kept. The layout would be a fifth of the cost of a page.
    """

    def __init__(self):
        self.rendered: dict[tuple, str] = {}

    def __call__(self, partial: str, values: dict[str, Any] | None = None, **fixed) -> Markup:
        """Return a partial as HTML. fixed: the values that it is kept for. values: that replace the placeholders."""
        values = values or {}
        if current_app.debug:
            return render_partial(partial, **fixed, **values)
        key = (partial, language(), *fixed.items())
        if key not in self.rendered:
            placeholders = {name: Markup(f"~{name}~") for name in values}  # noqa: S704
            self.rendered[key] = str(render_partial(partial, **fixed, **placeholders))
        html = self.rendered[key]
        for name, value in values.items():
            html = html.replace(f"~{name}~", str(escape(value)))
        return Markup(html)  # noqa: S704  the values are escaped


def page_context() -> dict:
    """Return what every page needs for somebody who is logged in: the numbers of the navigation.

    An error page does without, since the database may be what failed.
    """
    if g.get("failed") or not current_user.is_authenticated:
        return {}
    return {"counters": current_user.counters or get_counters(current_user)}


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
