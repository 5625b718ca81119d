"""Static files: URLs that change with the content, so that browsers may cache them for ever; compressed only once."""

import hashlib
import io
import mimetypes
from functools import cache
from pathlib import Path

from flask import Flask, Request, Response, abort, current_app, request, send_file, url_for
from flask_moment import moment

from noxchat.extensions import compress

CACHE_SECONDS = 365 * 24 * 3600
CACHE_FOREVER = f"public, max-age={CACHE_SECONDS}, immutable"


def init_app(app: Flask):
    """Compress responses, and keep static files compressed."""
    app.config.update(COMPRESS_CACHE_BACKEND=CompressedFiles, COMPRESS_CACHE_KEY=compressed_key)
    compress.init_app(app)
    app.after_request(cache_static)  # called before what was registered before, such as the compression


@cache
def _digest(path: Path, _modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def find_asset_url(name: str) -> str:
    """Return the URL of a file under static/; empty if there is no such file."""
    path = Path(current_app.static_folder or "", name).resolve()
    try:
        return url_for("static", filename=name, v=_digest(path, path.stat().st_mtime_ns))
    except FileNotFoundError:
        return ""


@cache
def asset_url(name: str) -> str:
    """Return the same as find_asset_url, looked up once: for production, where files do not change."""
    return find_asset_url(name)


def preload_static_files(app: Flask):
    """Keep all static files in memory, so that a server goes on with those that its pages were written for."""
    root = Path(app.static_folder or "")
    app.extensions["static_files"] = {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
    with app.test_request_context():
        for name in app.extensions["static_files"]:
            asset_url(name)


def send_preloaded(files: dict[str, bytes], name: str) -> Response:
    """Send a static file that is kept in memory."""
    if name not in files:
        abort(404)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    digest = hashlib.sha256(files[name]).hexdigest()[:12]
    return send_file(io.BytesIO(files[name]), mimetype=kind, etag=digest, conditional=True)


def moment_script_url() -> str:
    """Return the URL of Flask-Moment's script."""
    return url_for("main.moment_js", v=hashlib.sha256(moment.flask_moment_js().encode()).hexdigest()[:12])


def cache_static(response: Response) -> Response:
    """Let browsers cache a file for ever when its URL contains the digest of its content."""
    if request.endpoint == "static" and response.status_code in (200, 304):
        if _linked_digest(request):
            response.headers["Cache-Control"] = CACHE_FOREVER
        if response.status_code == 200 and (response.mimetype or "").startswith("text/"):
            data = b"".join(response.iter_encoded())
            response.close()
            response.set_data(data)  # Flask-Compress keeps nothing that is streamed
    return response


def _linked_digest(request: Request) -> str | None:
    """Return the digest in the URL if that is how our pages link to this static file, else None."""
    find = asset_url if current_app.extensions.get("static_files") else find_asset_url
    is_linked = request.full_path == find((request.view_args or {})["filename"])
    return request.args["v"] if is_linked else None


NOT_KEPT = ""


def compressed_key(request: Request) -> str:
    """Return the key under which Flask-Compress keeps a response: the digest of a static file, or NOT_KEPT."""
    is_whole_file = request.endpoint == "static" and "Range" not in request.headers
    return (_linked_digest(request) if is_whole_file else None) or NOT_KEPT


class CompressedFiles(dict):
    """Flask-Compress's cache, limited to static files."""

    def set(self, key: str, value: bytes):
        """Keep a compressed response. key: the algorithm, a semicolon, and what compressed_key returned."""
        if not key.endswith(f";{NOT_KEPT}"):
            self[key] = value
