"""URLs of static files. They change with the content, so that browsers may cache them for ever."""

import hashlib
from functools import cache
from pathlib import Path

from flask import Response, current_app, request, url_for
from flask_moment import moment

CACHE_SECONDS = 365 * 24 * 3600
CACHE_FOREVER = f"public, max-age={CACHE_SECONDS}, immutable"


@cache
def _digest(path: Path, _modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def find_asset_url(name: str) -> str:
    """Return the URL of a file under static/; empty if there is no such file."""
    path = Path(current_app.static_folder, name)
    try:
        return url_for("static", filename=name, v=_digest(path, path.stat().st_mtime_ns))
    except FileNotFoundError:
        return ""


@cache
def asset_url(name: str) -> str:
    """Return the same as find_asset_url, looked up once: for production, where files do not change."""
    return find_asset_url(name)


def moment_script_url() -> str:
    """Return the URL of Flask-Moment's script."""
    return url_for("main.moment_js", v=hashlib.sha256(moment.flask_moment_js().encode()).hexdigest()[:12])


def cache_static(response: Response) -> Response:
    """Let browsers cache a file for ever when its URL contains its digest."""
    if request.endpoint == "static" and response.status_code == 200 and "v" in request.args:
        response.headers["Cache-Control"] = CACHE_FOREVER
    return response
