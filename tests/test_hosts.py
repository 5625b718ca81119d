"""Host names and addresses, in every notation that people and browsers use."""

import urllib.request

import pytest
from werkzeug.test import create_environ, run_wsgi_app

from config import Config, ConfigError
from noxchat.web import security
from tests.conftest import TOKEN, Browser, Server, Visitor, send_request

KEY = {"SECRET_KEY": "0123456789abcdef" * 4}


def config(**variables):
    return Config({**KEY, **variables}, debug=False)


def status(app, host, path="/auth/login"):
    # Without Werkzeug's test client, which decodes hosts by the rules of 2003.
    _body, answer, _headers = run_wsgi_app(app, create_environ(path, headers={"Host": host}), buffered=True)
    return int(answer.partition(" ")[0])


ANSWERED = {
    "https://nox.example": ("nox.example", "NOX.Example", "nox.example.", "nox.example:443", "Nox.Example.:8443"),
    "https://Nox.Example.": ("nox.example", "nox.example.:443"),
    "https://straße.example": ("xn--strae-oqa.example", "XN--STRAE-OQA.EXAMPLE.", "xn--strae-oqa.example:443"),
    "https://xn--strae-oqa.example": ("xn--strae-oqa.example",),
    "https://чат.рф": ("xn--80a0bn.xn--p1ai",),
    "http://[::1]:8000": ("[::1]:8000", "[0:0:0:0:0:0:0:1]", "[::1]"),
    "http://[2001:DB8::1]:8000": ("[2001:db8::1]:8000", "[2001:db8:0::1]:8000"),
    "http://192.0.2.1": ("192.0.2.1", "192.0.2.1:80"),
    "http://my_host:8000": ("my_host:8000", "MY_HOST"),
}
REFUSED = {
    "https://nox.example": (
        *("evil.example", "xnox.example", "nox.example.evil.example", "a.nox.example", "nox.example..", ".nox.example"),
        *(
            "nox.example@evil.example",
            "evil.example/nox.example",
            "nox.example/",
            "nox.example:x",
            "nox.example:443:443",
        ),
        *("nox.example:999999", "nox.example#", "nox.example\\", "nox .example", "", ":443", "localhost", "127.0.0.1"),
    ),
    "https://straße.example": ("strasse.example", "straße.example".encode().decode("latin-1")),
    "http://[::1]:8000": ("[::2]:8000", "[::1", "::1]", "[[::1]]", "localhost"),
}


@pytest.mark.parametrize("base_url", ANSWERED)
def test_own_host_is_answered_in_every_notation(make_app, base_url):
    app = make_app(BASE_URL=base_url)
    for host in ANSWERED[base_url]:
        assert status(app, host) == 200, host


@pytest.mark.parametrize("base_url", REFUSED)
def test_foreign_hosts_are_refused(make_app, base_url):
    app = make_app(BASE_URL=base_url)
    for host in REFUSED[base_url]:
        assert status(app, host) == 400, host
        assert status(app, host, "/static/css/base.css") == 400, host


def test_allowed_hosts_are_read_in_every_notation(make_app):
    names = "WWW.Nox.Example, old.example. [2001:DB8::1] 192.0.2.1:8000 .Wild.Example straße.example"
    app = make_app(BASE_URL="https://nox.example", ALLOWED_HOSTS=names)
    answered = "nox.example www.nox.example OLD.example [2001:db8::1]:80 192.0.2.1 wild.example a.b.WILD.example."
    for host in (*answered.split(), "xn--strae-oqa.example"):
        assert status(app, host) == 200, host
    for host in ("a.nox.example", "xwild.example", "a.old.example", "strasse.example"):
        assert status(app, host) == 400, host


@pytest.mark.parametrize("names", ["https://nox.example", "nox.example/", "*", "a b@c", "[::1", "-.-/", "."])
def test_nonsense_in_allowed_hosts_is_refused_at_start(names):
    with pytest.raises(ConfigError, match="ALLOWED_HOSTS has"):
        config(ALLOWED_HOSTS=names)


@pytest.mark.parametrize(
    "value", ["https://nox example", "https://", "https://[::1", "https://a..b/", "https://-☕.example"]
)
def test_nonsense_in_base_url_is_refused_at_start(value):
    with pytest.raises(ConfigError, match="BASE_URL is"):
        config(BASE_URL=value)


@pytest.mark.parametrize("host", ["no/host", "http://127.0.0.1", "::x", "a b"])
def test_nonsense_in_host_is_refused_at_start(host):
    with pytest.raises(ConfigError, match="HOST is"):
        config(HOST=host)


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        ("::1", "http://[::1]:8000"),
        ("[::1]", "http://[::1]:8000"),
        ("0:0:0:0:0:0:0:1", "http://[::1]:8000"),
        ("LocalHost.", "http://localhost:8000"),
        ("::", "http://localhost:8000"),
        ("[0::0]", "http://localhost:8000"),
        ("0.0.0.0", "http://localhost:8000"),
        ("127.0.0.2", "http://127.0.0.2:8000"),
    ],
)
def test_printed_address_is_one_that_is_answered(make_app, host, base_url):
    app = make_app(HOST=host)
    assert app.config["BASE_URL"] == base_url
    for answered in (base_url.removeprefix("http://"), "localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert status(app, answered) == 200, answered


@pytest.mark.parametrize(
    ("base_url", "host", "origin"),
    [
        ("https://nox.example", "NOX.example.:443", "https://nox.example"),
        ("https://Nox.Example", "nox.example", "https://nox.example:443"),
        ("http://[::1]:8000", "[::1]:8000", "http://[::1]:8000"),
        ("http://localhost:80", "LOCALHOST", "http://localhost"),
    ],
)
def test_own_origin_may_post_in_every_notation(make_app, base_url, host, origin):
    browser = Browser(make_app(BASE_URL=base_url))
    options = {"base_url": f"{base_url.partition(':')[0]}://{host}"}
    token = TOKEN.search(browser.get("/settings/look", **options).text)[1]
    fields = {"theme": "night", "next": "/auth/login"}
    for sent, code in ((origin, 303), (f"{origin}.evil.example", 400), (f"{origin}:81", 400), ("http://", 400)):
        answer = browser.post("/settings/look", fields, token=token, headers={"Origin": sent}, **options)
        assert answer.status_code == code, sent


def test_own_origin_with_a_name_of_idna_2008(make_app):
    app = make_app(BASE_URL="https://straße.example")
    with app.test_request_context("/", headers={"Host": "xn--strae-oqa.example"}):
        assert security._is_own("https://xn--strae-oqa.example") and not security._is_own("https://strasse.example")


def test_server_answers_at_the_ipv6_address_that_it_prints(tmp_path, new_database):
    server = Server(tmp_path, new_database("sqlite"), HOST="::1")
    try:
        assert f"NoxChat is at {server.base} " in server.output_text()
        assert server.get("/auth/login").status == 200
        headers = {"Host": f"LOCALHOST.:{server.port}"}
        request = urllib.request.Request(f"{server.base}/auth/login", headers=headers)
        assert send_request(urllib.request.build_opener(), request).status == 200
        Visitor(server).register()
    finally:
        server.stop()
