"""Static files: their URLs, and compressing them once."""

import gzip
from pathlib import Path

import flask_compress.flask_compress
import pytest

from noxchat.web import assets


@pytest.fixture
def script_url(app):
    with app.test_request_context():
        return assets.find_asset_url("js/app.js")


def test_static_file_is_compressed_once(app, script_url, monkeypatch):
    calls, compress = [], flask_compress.flask_compress._compress_data
    monkeypatch.setattr(
        flask_compress.flask_compress, "_compress_data", lambda *args: calls.append(args) or compress(*args)
    )
    monkeypatch.setattr("noxchat.extensions.compress.cache", assets.CompressedFiles())
    expected = (Path(app.static_folder) / "js/app.js").read_bytes()
    for _request in range(3):
        response = app.test_client().get(script_url, headers={"Accept-Encoding": "gzip"})
        assert gzip.decompress(response.data) == expected and "immutable" in response.headers["Cache-Control"]
    assert len(calls) == 1
    assert app.test_client().get(script_url, buffered=True).data == expected
    part = app.test_client().get(script_url, headers={"Accept-Encoding": "gzip", "Range": "bytes=0-99"}, buffered=True)
    assert part.status_code == 206 and part.data == expected[:100]


@pytest.mark.parametrize(
    "url",
    ["/auth/login", "/static/js/app.js", "/static/js/app.js?v=other", "/static/js/../js/app.js?v=1", "/moment.js?v=1"],
)
def test_nothing_else_is_kept_compressed(app, monkeypatch, url):
    kept = assets.CompressedFiles()
    monkeypatch.setattr("noxchat.extensions.compress.cache", kept)
    response = app.test_client().get(url, headers={"Accept-Encoding": "br"}, buffered=True)
    assert response.status_code == 200 and response.headers["Content-Encoding"] == "br" and kept == {}


def test_file_has_one_key_however_its_path_is_written(app, script_url, monkeypatch):
    kept = assets.CompressedFiles()
    monkeypatch.setattr("noxchat.extensions.compress.cache", kept)
    for url in (script_url, *(script_url.replace("/js/", f"/{'./' * n}js/") for n in range(1, 5))):
        assert app.test_client().get(url, headers={"Accept-Encoding": "br"}).status_code == 200
    assert len(kept) == 1


def test_only_urls_with_the_digest_of_the_content_are_cached_for_ever(app, script_url):
    response = app.test_client().get(script_url, buffered=True)
    assert "immutable" in response.headers["Cache-Control"]
    unchanged = app.test_client().get(script_url, headers={"If-None-Match": response.headers["ETag"]}, buffered=True)
    assert unchanged.status_code == 304 and "immutable" in unchanged.headers["Cache-Control"]
    other = app.test_client().get("/static/js/app.js?v=other", buffered=True)
    assert other.status_code == 200 and "immutable" not in other.headers["Cache-Control"]


def test_missing_file_has_no_url(app):
    with app.test_request_context():
        assert assets.find_asset_url("js/missing.js") == ""
    assert app.test_client().get("/static/js/missing.js", buffered=True).status_code == 404
