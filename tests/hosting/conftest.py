"""A real nginx in front of real servers, with the configuration of deploy/."""

import re
import shutil
import ssl
import subprocess

import pytest

from config import ROOT
from tests.certificates import make_certificate
from tests.conftest import free_port, skip, wait_until

FRAME = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
{user}
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {content}
}}
"""


def nginx_config(folder, certificate, ports, upstreams, changes=()):
    """Return deploy/nginx.conf for other ports, a certificate of the tests, and these servers.

    ports: those for 80 and 443. changes: pairs of texts, of which the first has to be there.
    """
    text = (ROOT / "deploy/nginx.conf").read_text()
    servers = "".join(f"server 127.0.0.1:{port} max_fails=0;" for port in upstreams)
    for old, new in (
        ("server 127.0.0.1:8000 max_fails=0;", servers),
        ("listen 80;", f"listen 127.0.0.1:{ports[0]};"),
        ("listen [::]:80;", ""),
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{ports[1]} ssl http2;"),
        ("listen [::]:443 ssl http2;", ""),
        ("/etc/letsencrypt/live/nox.example/fullchain.pem", str(certificate.path)),
        ("/etc/letsencrypt/live/nox.example/privkey.pem", str(certificate.key)),
        ("server_name nox.example;", "server_name localhost;"),
        *changes,
    ):
        assert old in text, old
        text = text.replace(old, new)
    text = re.sub(r"proxy_set_header Host \$host;", "proxy_set_header Host $http_host;", text)  # with the port
    user = "user root;" if shutil.which("id") and subprocess.check_output(["id", "-u"]) == b"0\n" else ""
    return FRAME.format(folder=folder, user=user, content=text)


class Nginx:
    """A running nginx. base: its URL."""

    def __init__(self, folder, authority):
        if not shutil.which("nginx"):
            skip("nginx is not installed: apt-get install nginx-light")
        self.folder = folder
        folder.mkdir()
        self.certificate = make_certificate(folder, "localhost", authority)
        self.ports = free_port(), free_port()
        self.base = f"https://localhost:{self.ports[1]}"
        self.context = ssl.create_default_context(cafile=str(authority.path))
        self.process = None

    def start(self, *upstreams, changes=()):
        """Start it in front of servers, given by their ports; or have it read another configuration."""
        config = self.folder / "nginx.conf"
        config.write_text(nginx_config(self.folder, self.certificate, self.ports, upstreams, changes))
        command = ["nginx", "-p", str(self.folder), "-c", str(config)]
        subprocess.run([*command, "-t", "-q"], check=True, capture_output=True)
        self.stop()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        wait_until(lambda: (self.folder / "nginx.pid").exists() and (self.folder / "nginx.pid").read_text())

    def stop(self):
        """Stop it."""
        if self.process:
            self.process.terminate()
            self.process.wait(10)
            (self.folder / "nginx.pid").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate authority."""
    return make_certificate(tmp_path_factory.mktemp("authority"), "Tests", kind="authority")


@pytest.fixture
def nginx(tmp_path, authority):
    """An nginx that is not started yet."""
    server = Nginx(tmp_path / "nginx", authority)
    yield server
    server.stop()
