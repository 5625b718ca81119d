"""Behind a real nginx with TLS, with the configuration of deploy/: everything works, and doctor sees what does not."""

import http.cookiejar
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import pytest

from config import ROOT
from tests.conftest import PASSWORD, TOKEN, Browser, make_person, send_request, wait_until
from tests.main.test_avatars import encode, two_colour_image, upload

PROXIES = {"TRUSTED_PROXIES": "127.0.0.1"}
KEY = "the key of both machines, of 32 characters"


def doctor(server, nginx, *, trusts_authority=True, **more):
    """Run flask doctor --outside beside a server; return its exit code and each line by its name."""
    environment = {**os.environ, **server.environment, **more}
    if trusts_authority:
        environment["SSL_CERT_FILE"] = str(nginx.context_file)
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "main", "doctor", "--outside"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {line[7:].partition(":")[0]: line for line in done.stdout.splitlines() if ":" in line}


@pytest.fixture
def site(serve, nginx, authority):
    """A server on SQLite behind nginx."""
    nginx.context_file = authority.path
    server = serve("sqlite", BASE_URL=nginx.base, **PROXIES)
    nginx.start(server.port)
    return server


def test_registering_and_event_streams_work_over_tls(site, nginx):
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=nginx.context), urllib.request.HTTPCookieProcessor(jar)
    )
    page = send_request(opener, nginx.base + "/auth/register")
    fields = {"username": "Alice", "email": "alice@nox.example", "password": PASSWORD, "password2": PASSWORD}
    body = urllib.parse.urlencode({**fields, "csrf_token": TOKEN.search(page.text)[1]}).encode()
    request = urllib.request.Request(nginx.base + "/auth/register", data=body, headers={"Origin": nginx.base})
    home = send_request(opener, request)
    assert home.status == 200 and "Alice" in home.text
    assert all(cookie.secure and cookie.name.startswith("__Host-") for cookie in jar if "session" in cookie.name)
    assert "max-age=31536000" in home.headers["Strict-Transport-Security"]
    with opener.open(nginx.base + "/events", timeout=10) as stream:
        began = time.monotonic()
        assert stream.readline() == b":\n" and time.monotonic() - began < 5
    redirect = send_request(urllib.request.build_opener(NoRedirect), f"http://localhost:{nginx.ports[0]}/auth/login")
    assert redirect.status == 301 and redirect.headers["Location"].startswith("https://localhost")


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as it is."""

    def redirect_request(self, *_arguments):
        return None


def test_monitoring_is_for_this_machine_only(site, nginx):
    """nginx adds the visitor's address: who comes from elsewhere gets neither metrics nor reasons."""
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=nginx.context))
    assert send_request(opener, nginx.base + "/readyz").status == 200
    request = urllib.request.Request(site.base + "/metrics", headers={"X-Forwarded-For": "203.0.113.9"})
    assert send_request(urllib.request.build_opener(), request).status == 403
    request = urllib.request.Request(site.base + "/readyz", headers={"X-Forwarded-For": "203.0.113.9"})
    assert json.loads(send_request(urllib.request.build_opener(), request).text) == {"status": "ok"}
    assert "noxchat_requests_total" in site.get("/metrics").text


def test_doctor_finds_nothing_wrong(site, nginx):
    code, lines = doctor(site, nginx)
    assert code == 0 and {line[:5].strip() for line in lines.values()} == {"ok", "-"}, lines
    assert set(lines) == {"Reached", "TLS", "Host", "Client address", "Forged address", "Body limit", "Streaming"}


HOST = "proxy_set_header Host $host;"
FORWARDED = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
CHANGES = {
    "Host": ((HOST, "proxy_set_header Host 127.0.0.1;"), "proxy_set_header Host"),
    "Client address": ((FORWARDED, ""), "proxy_set_header X-Forwarded-For"),
    "Forged address": (
        (FORWARDED, "proxy_set_header X-Forwarded-For $http_x_forwarded_for;"),
        "pretend any address",
    ),
    "Body limit": (("client_max_body_size 8m;", "client_max_body_size 1m;"), "client_max_body_size 8m"),
    "Streaming": (
        ("proxy_read_timeout 60s;", "proxy_ignore_headers X-Accel-Buffering; proxy_buffers 8 64k;"),
        "proxy_buffering off",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_doctor_finds_what_the_proxy_does_wrong(site, nginx, name):
    change, words = CHANGES[name]
    nginx.start(site.port, changes=[change])
    code, lines = doctor(site, nginx)
    assert code == 1 and lines[name].startswith("WRONG") and words in lines[name], lines


def test_doctor_finds_a_proxy_that_is_not_trusted(serve, nginx, authority):
    nginx.context_file = authority.path
    server = serve("sqlite", BASE_URL=nginx.base)
    nginx.start(server.port)
    code, lines = doctor(server, nginx)
    assert code == 1 and "TRUSTED_PROXIES does not name the proxy, 127.0.0.1" in lines["Client address"]


def test_doctor_finds_what_keeps_visitors_away(site, nginx):
    code, lines = doctor(site, nginx, trusts_authority=False)
    assert code == 1 and "browsers refuse the certificate" in lines["Reached"]
    code, lines = doctor(site, nginx, SECRET_KEY="another key, of more than thirty-two characters")
    assert code == 1 and "something else answers" in lines["Reached"]
    code, lines = doctor(site, nginx, BASE_URL=f"https://localhost:{nginx.ports[0]}")
    assert code == 1 and "speaks no TLS" in lines["Reached"]
    code, lines = doctor(site, nginx, BASE_URL="https://typo.invalid")
    assert code == 1 and "no such host" in lines["Reached"]
    site.stop()
    code, lines = doctor(site, nginx)
    assert code == 1 and "does not reach NoxChat (502)" in lines["Reached"]
    nginx.stop()
    code, lines = doctor(site, nginx)
    assert code == 1 and "nothing listens there" in lines["Reached"]


def rolling_restart(nginx, start, opener, count, per_second):
    """Restart two servers one after the other, again and again, until so many requests were sent.

    Each is restarted at least once. Returns the statuses of the requests, or what broke them, and the number of restarts.
    """
    servers = {number: start(number) for number in range(2)}
    nginx.start(*(server.port for server in servers.values()))
    statuses, done = [], threading.Event()

    def visit():
        while not done.is_set():
            began = time.monotonic()
            try:
                statuses.append(send_request(opener, nginx.base + "/auth/login", timeout=20).status)
            except OSError as error:
                statuses.append(str(error))
            done.wait(max(0.0, 4 / per_second - (time.monotonic() - began)))

    visitors = [threading.Thread(target=visit) for _number in range(4)]
    for thread in visitors:
        thread.start()
    restarts = 0
    while len(statuses) < count or restarts < len(servers):
        number = restarts % 2
        servers[number].stop()
        servers[number] = start(number, servers[number].port)
        assert wait_until(lambda: servers[number].get("/readyz").status == 200)  # noqa: B023
        restarts += 1
    done.set()
    for thread in visitors:
        thread.join()
    for server in servers.values():
        server.stop()
    return statuses, restarts


def start_two(serve, nginx, uri, folder):
    """Return a function that starts one of two machines: with a DATA_DIR of its own, but the same avatars."""
    shared = folder / "avatars"
    shared.mkdir()

    def start(number, port=None):
        data_dir = folder / f"machine{number}"
        if not data_dir.exists():
            data_dir.mkdir()
            (data_dir / "avatars").symlink_to(shared)
        return serve(uri=uri, port=port, DATA_DIR=data_dir, BASE_URL=nginx.base, SECRET_KEY=KEY, MIGRATE=0, **PROXIES)

    return start


@pytest.mark.timeout(600)
def test_no_request_fails_during_a_rolling_restart(serve, nginx, new_database, tmp_path):
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=nginx.context))
    start = start_two(serve, nginx, new_database("postgresql"), tmp_path)
    statuses, _restarts = rolling_restart(nginx, start, opener, 200, 20)
    assert set(statuses) == {200}, [status for status in statuses if status != 200]


def test_two_machines_share_sessions_and_pictures(serve, nginx, new_database, tmp_path, make_app):
    """Who logs in at one is logged in at the other, and a picture that one has stored is sent by the other."""
    uri = new_database("postgresql")
    start = start_two(serve, nginx, uri, tmp_path)
    servers = [start(number) for number in range(2)]
    app = make_app(uri=uri, DATA_DIR=tmp_path / "machine0", SECRET_KEY=KEY, BASE_URL=nginx.base)
    alice = make_person(app, "Alice", public_id="alice")
    browser = Browser(app, alice)
    cookie = f"{browser.cookie_name('SESSION')}={browser.cookie('SESSION')}"
    assert upload(browser, encode(two_colour_image(), "PNG")).status_code == 303
    for server in servers:
        headers = {"Host": nginx.base.partition("//")[2], "Cookie": cookie}
        request = urllib.request.Request(server.base + "/u/alice", headers=headers)
        page = send_request(urllib.request.build_opener(), request)
        assert page.status == 200 and "Alice" in page.text
        picture = re.search(r"/avatars/alice/\w+\.webp", page.text)[0]
        request = urllib.request.Request(server.base + picture, headers=headers)
        with urllib.request.urlopen(request) as answer:
            assert answer.headers["Content-Type"] == "image/webp"
