"""Files that are not static: pictures of people, and Flask-Moment's script."""

from flask import abort, current_app, make_response, send_from_directory
from flask_moment import moment

from noxchat.look import YEAR
from noxchat.main import avatar_utils, blueprint
from noxchat.names import PUBLIC_ID
from noxchat.security import for_machines


@blueprint.route("/avatars/<public_id>/<name>")
@for_machines
def avatar(public_id, name):
    """Send a picture, to be kept for a year. Its name cannot be guessed, and another picture has another name."""
    if not PUBLIC_ID.fullmatch(public_id) or not avatar_utils.FILE_NAME.fullmatch(name):
        abort(404)
    path = avatar_utils.folder(public_id) / name
    if path.is_symlink() or path.parent.is_symlink():
        abort(404)
    relative = f"{public_id.lower()}/{name}"
    response = send_from_directory(current_app.config["AVATAR_DIR"], relative, mimetype="image/webp")
    response.headers["Cache-Control"] = f"public, max-age={YEAR}, immutable"
    return response


@blueprint.route("/moment.js")
@for_machines
def moment_js():
    """Send Flask-Moment's script as a file, since our policy forbids it inside a page."""
    response = make_response(moment.flask_moment_js())
    response.mimetype = "text/javascript"
    response.headers["Cache-Control"] = f"public, max-age={YEAR}, immutable"
    return response
