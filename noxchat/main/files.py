"""Files that are not below static/: avatars, Flask-Moment's script, and the icon that browsers ask for unasked."""

from flask import abort, current_app, make_response, render_template, send_from_directory
from flask_moment import moment

from noxchat import avatars
from noxchat.main import blueprint
from noxchat.names import PUBLIC_ID
from noxchat.web.assets import CACHE_FOREVER
from noxchat.web.security import machine_endpoint

ICON_SECONDS = 24 * 3600


@blueprint.route("/avatars/<public_id>/<name>")
@machine_endpoint
def avatar(public_id, name):
    """Send an avatar, cacheable for a year. Its name cannot be guessed, and a new picture gets a new name."""
    if not PUBLIC_ID.fullmatch(public_id) or not avatars.FILE_NAME.fullmatch(name):
        abort(404)
    path = avatars.folder(public_id) / name
    if path.is_symlink() or path.parent.is_symlink():
        abort(404)
    relative = f"{public_id.lower()}/{name}"
    response = send_from_directory(current_app.config["AVATAR_DIR"], relative, mimetype="image/webp")
    response.headers["Cache-Control"] = CACHE_FOREVER
    return response


@blueprint.route("/favicon.ico")
@machine_endpoint
def favicon():
    """Send the icon to whoever asks for it without having read a page, such as bookmarks and feed readers."""
    return send_from_directory(current_app.static_folder or "", "img/favicon.ico", max_age=ICON_SECONDS)


@blueprint.route("/favicon/<int(min=1, max=10):waiting>.svg")
@machine_endpoint
def counting_favicon(waiting):
    """Send the icon of a tab with the number of what waits on it; 10 stands for more than 9."""
    response = make_response(render_template("favicon.svg", text=waiting if waiting < 10 else "9+"))
    response.mimetype = "image/svg+xml"
    response.headers["Cache-Control"] = CACHE_FOREVER
    return response


@blueprint.route("/moment.js")
@machine_endpoint
def moment_js():
    """Send Flask-Moment's script as a file, since the CSP forbids it inside a page."""
    response = make_response(moment.flask_moment_js())
    response.mimetype = "text/javascript"
    response.headers["Cache-Control"] = CACHE_FOREVER
    return response
