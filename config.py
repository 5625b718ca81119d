"""Every setting, read once from the environment and `.env`. Nonsense is refused at the start, in one sentence."""

import os
import re
import secrets
import ssl
import sys
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import load_dotenv
from flask.helpers import get_debug_flag
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

ROOT = Path(__file__).resolve().parent
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
SHORTEST_KEY = 32  # RFC 7518, 3.2: an HS256 key is at least as long as the hash


class BadSetting(SystemExit):
    """A setting that cannot be used: ends the start, with the sentence that says which one and what to write."""


class Environment:
    """Reads typed values out of environment variables; an empty variable counts as one that is not set."""

    def __init__(self, values):
        self.values = values

    def text(self, name, default=""):
        return self.values.get(name, "").strip() or default

    def number(self, name, default, *, least=0, most=10**9):
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise BadSetting(f"{name} is {text!r}: write a whole number from {least} to {most}.")
        return int(text)

    def flag(self, name, default):
        text = self.text(name, "1" if default else "0").lower()
        if text not in {"0", "1", "true", "false", "yes", "no", "on", "off"}:
            raise BadSetting(f"{name} is {text!r}: write 1 or 0.")
        return text in {"1", "true", "yes", "on"}

    def list(self, name):
        return [part for part in self.text(name).replace(",", " ").split() if part]


class Config:
    """The settings, as Flask reads them: one attribute in capitals for each.

    environ: a mapping of variable names to texts; by default the process's environment over `.env`.
    debug: whether this is development, where a weak SECRET_KEY is only warned about.
    Raises BadSetting, which ends the process with one sentence unless it is caught.
    """

    TESTING = False

    def __init__(self, environ=None, *, debug=None):
        if environ is None:
            load_dotenv(ROOT / ".env")
            environ = os.environ
        env = Environment(environ)
        self.DEBUG = get_debug_flag() if debug is None else debug
        self.warnings = []
        self.place(env)
        self.listen(env)
        self.database(env)
        self.elasticsearch(env)
        self.mail(env)
        self.limits(env)
        self.key(env)
        self.cookies()

    def place(self, env):
        """Where things are kept."""
        self.DATA_DIR = (ROOT / env.text("DATA_DIR", "instance")).resolve()
        self.AVATAR_DIR = self.DATA_DIR / "avatars"
        self.MAIL_DIR = self.DATA_DIR / "mail"
        self.LOG_DIR = (ROOT / env.text("LOG_DIR", "logs")).resolve()
        self.LOG_FILE_BYTES = env.number("LOG_FILE_BYTES", 5_000_000, least=10_000)
        self.LOG_FILES = env.number("LOG_FILES", 10, least=1, most=1000)
        self.DEMO = env.flag("DEMO", True)

    def listen(self, env):
        """Which address is listened on, which one people see, and whom to believe about where they come from."""
        self.HOST = env.text("HOST", "127.0.0.1")
        self.PORT = env.number("PORT", 8000, least=1, most=65535)
        self.WORKERS = env.number("WORKERS", 1, least=1, most=64)
        self.THREADS = env.number("THREADS", 64, least=1, most=1024)
        self.STREAMS = env.number("STREAMS", 256, most=4096)
        seen = "localhost" if self.HOST in {"0.0.0.0", "::"} else self.HOST  # noqa: S104
        address = f"[{seen}]" if ":" in seen else seen
        self.BASE_URL = env.text("BASE_URL", f"http://{address}:{self.PORT}").rstrip("/")
        try:
            parts = urlsplit(self.BASE_URL)
            well_formed = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
        except ValueError:
            well_formed = False
        if not well_formed or parts.path or parts.query or parts.username:
            raise BadSetting(f"BASE_URL is {self.BASE_URL!r}: write the address that people see, https://nox.example.")
        own = (parts.hostname,) if env.text("BASE_URL") else (*LOOPBACK_NAMES, seen)
        self.HOSTS = [*own, *env.list("ALLOWED_HOSTS")]
        self.SECURE = parts.scheme == "https"
        self.PREFERRED_URL_SCHEME = parts.scheme
        try:
            self.TRUSTED_PROXIES = [ip_network(proxy) for proxy in env.list("TRUSTED_PROXIES")]
        except ValueError as error:
            raise BadSetting(f"TRUSTED_PROXIES: {error}; write addresses or networks, 127.0.0.1 10.0.0.0/8.") from None

    def database(self, env):
        text = env.text("SQLALCHEMY_DATABASE_URI", f"sqlite:///{self.DATA_DIR / 'noxchat.db'}")
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            url = None
        if url is None or url.get_backend_name() not in {"sqlite", "postgresql"}:
            raise BadSetting("SQLALCHEMY_DATABASE_URI: write sqlite:///path or postgresql://user:password@host/name.")
        if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
            url = url.set(database=str(ROOT / url.database))  # or Flask-SQLAlchemy takes a place of its own choosing
        if url.get_backend_name() == "postgresql":
            # One driver, however the address is spelled: the seed's postgresql+psycopg2:// works too.
            url = url.set(drivername="postgresql+psycopg")
        self.SQLALCHEMY_DATABASE_URI = url.render_as_string(hide_password=False)
        self.DATABASE_SECONDS = env.number("DATABASE_SECONDS", 10, least=1, most=600)

    def elasticsearch(self, env):
        """Where people are searched, if not in the database. No sentence repeats what may hold a password."""
        self.ELASTICSEARCH_URL = env.text("ELASTICSEARCH_URL") or None
        self.ELASTICSEARCH_API_KEY = env.text("ELASTICSEARCH_API_KEY") or None
        self.ELASTICSEARCH_CA = env.text("ELASTICSEARCH_CA") or None
        self.ELASTICSEARCH_PREFIX = env.text("ELASTICSEARCH_PREFIX", "noxchat")
        self.ELASTICSEARCH_MILLISECONDS = env.number("ELASTICSEARCH_MILLISECONDS", 800, least=50, most=10_000)
        try:
            parts = urlsplit(self.ELASTICSEARCH_URL or "http://unset")
            good = parts.scheme in {"http", "https"} and all((parts.hostname or "").split(".")) and parts.port != 0
        except ValueError:
            good = False
        if not good or parts.query or parts.fragment or not re.fullmatch(r"[!-\[\]-~]+", parts.netloc):
            raise BadSetting("ELASTICSEARCH_URL: write an address, http://elastic:password@localhost:9200.")
        if self.ELASTICSEARCH_API_KEY and parts.username:
            raise BadSetting("ELASTICSEARCH_API_KEY: write either this or a user in ELASTICSEARCH_URL, not both.")
        if not (self.ELASTICSEARCH_API_KEY or "").isascii():
            raise BadSetting("ELASTICSEARCH_API_KEY: write it as Elasticsearch shows it, in letters from a to z.")
        if not re.fullmatch("[a-z0-9][a-z0-9_]{0,63}", self.ELASTICSEARCH_PREFIX):
            raise BadSetting("ELASTICSEARCH_PREFIX: write up to 64 small letters, digits and _, beginning with no _.")
        if self.ELASTICSEARCH_CA and parts.scheme != "https":
            raise BadSetting("ELASTICSEARCH_CA: it is for an ELASTICSEARCH_URL that begins with https://.")
        if self.ELASTICSEARCH_CA:
            self.ELASTICSEARCH_CA = str(ROOT / self.ELASTICSEARCH_CA)
            try:
                ssl.create_default_context(cafile=self.ELASTICSEARCH_CA)
            except OSError as error:  # ssl.SSLError is one
                raise BadSetting(f"ELASTICSEARCH_CA cannot be used ({error.strerror}): write a PEM file.") from None

    def mail(self, env):
        self.MAIL_SERVER = env.text("MAIL_SERVER") or None
        self.MAIL_USE_TLS = env.flag("MAIL_USE_TLS", False)
        self.MAIL_USE_SSL = env.flag("MAIL_USE_SSL", False)
        if self.MAIL_USE_TLS and self.MAIL_USE_SSL:
            raise BadSetting("MAIL_USE_TLS and MAIL_USE_SSL exclude each other: set the one your mail server speaks.")
        usual = 465 if self.MAIL_USE_SSL else 587 if self.MAIL_USE_TLS else 25
        self.MAIL_PORT = env.number("MAIL_PORT", usual, least=1, most=65535)
        self.MAIL_USERNAME = env.text("MAIL_USERNAME") or None
        self.MAIL_PASSWORD = env.text("MAIL_PASSWORD") or None
        host = urlsplit(self.BASE_URL).hostname
        domain = "localhost" if host in {"127.0.0.1", "::1"} else host
        self.MAIL_DEFAULT_SENDER = env.text("MAIL_DEFAULT_SENDER", f"noreply@{domain}")
        if "@" not in self.MAIL_DEFAULT_SENDER or set(self.MAIL_DEFAULT_SENDER) & set("\r\n"):
            raise BadSetting("MAIL_DEFAULT_SENDER: write an e-mail address, NoxChat <noreply@nox.example>.")
        self.MAIL_SUPPRESS_SEND = False
        self.MAIL_DEBUG = False

    def limits(self, env):
        """CONTRACT's limits. Rates are written as `limits` reads them: "20 per hour"."""
        self.RESET_MINUTES = env.number("RESET_MINUTES", 10, least=1, most=60)
        self.SESSION_DAYS = env.number("SESSION_DAYS", 30, least=1, most=365)
        self.AVATAR_BYTES = env.number("AVATAR_BYTES", 5_000_000, least=10_000)
        self.AVATAR_PIXELS = env.number("AVATAR_PIXELS", 50_000_000, least=10_000)
        self.MAX_CONTENT_LENGTH = env.number("MAX_REQUEST_BYTES", 6_000_000, least=100_000)
        self.SIGN_INS_PER_ACCOUNT_AND_ADDRESS = env.number("SIGN_INS_PER_ACCOUNT_AND_ADDRESS", 10, least=1)
        self.SIGN_INS_PER_ADDRESS = env.number("SIGN_INS_PER_ADDRESS", 60, least=1)
        self.SIGN_INS_PER_ACCOUNT = env.number("SIGN_INS_PER_ACCOUNT", 100, least=1)
        self.SIGN_UPS_PER_HOUR = env.number("SIGN_UPS_PER_HOUR", 20, least=1)
        self.RESETS_PER_HOUR = env.number("RESETS_PER_HOUR", 5, least=1)
        self.RENAMES_PER_DAY = env.number("RENAMES_PER_DAY", 10, least=1)
        self.REQUESTS_PER_HOUR = env.number("REQUESTS_PER_HOUR", 50, least=1)
        self.OPEN_REQUESTS = env.number("OPEN_REQUESTS", 100, least=1)
        self.PAUSE_DAYS = env.number("PAUSE_DAYS", 14, most=3650)
        self.STREAMS_PER_PERSON = env.number("STREAMS_PER_PERSON", 10, least=1)
        self.RATELIMIT_STORAGE_URI = env.text("RATELIMIT_STORAGE_URI", "memory://")
        self.RATELIMIT_STRATEGY = "moving-window"
        self.RATELIMIT_HEADERS_ENABLED = False
        if urlsplit(self.RATELIMIT_STORAGE_URI).scheme not in {"memory", "redis", "rediss", "memcached"}:
            raise BadSetting("RATELIMIT_STORAGE_URI: write memory:// or redis://host:6379.")
        # Of a form, all but its file: the longest honest field is a password of a thousand characters.
        self.MAX_FORM_MEMORY_SIZE = 100_000
        self.MAX_FORM_PARTS = 100

    def key(self, env):
        self.SECRET_KEY = env.text("SECRET_KEY")
        kept = self.DATA_DIR / "secret_key"
        if not self.SECRET_KEY and kept.is_file():
            self.SECRET_KEY = kept.read_text().strip()
        # A key like aaaa…: long enough and still guessed at once.
        if len(self.SECRET_KEY.encode()) >= SHORTEST_KEY and len(set(self.SECRET_KEY)) > 4:
            return
        problem = (
            f"SECRET_KEY is {'too weak' if self.SECRET_KEY else 'not set'}: write at least {SHORTEST_KEY} random "
            "characters, such as python3 -c 'import secrets; print(secrets.token_hex(32))' prints."
        )
        if not self.DEBUG and serves_requests():
            raise BadSetting(problem)
        self.warnings.append(problem)
        self.SECRET_KEY = self.SECRET_KEY or secrets.token_hex(32)

    def cookies(self):
        """Names and flags of cookies. `__Host-` makes a browser refuse one from another host, path or from plain
        HTTP (RFC 6265bis, 4.1.3.2); it needs TLS."""
        prefix = "__Host-" if self.SECURE else ""
        self.SESSION_COOKIE_NAME = f"{prefix}session"
        self.REMEMBER_COOKIE_NAME = f"{prefix}remember_token"
        self.DEVICE_COOKIE_NAME = f"{prefix}device"
        self.SESSION_COOKIE_SECURE = self.REMEMBER_COOKIE_SECURE = self.SECURE
        self.SESSION_COOKIE_HTTPONLY = self.REMEMBER_COOKIE_HTTPONLY = True
        self.SESSION_COOKIE_SAMESITE = self.REMEMBER_COOKIE_SAMESITE = "Lax"
        self.REMEMBER_COOKIE_DURATION = timedelta(days=self.SESSION_DAYS)
        # A token lives as long as its session: what ends it is signing in or out, not a clock.
        self.WTF_CSRF_TIME_LIMIT = None
        # security.py compares origins itself, before the token, and in every scheme.
        self.WTF_CSRF_SSL_STRICT = False
        self.WTF_CSRF_CHECK_DEFAULT = False


def serves_requests():
    """Whether this process will answer people: all do but the `flask` command's subcommands other than `run`."""
    return os.environ.get("FLASK_RUN_FROM_CLI") != "true" or "run" in sys.argv[1:]


def make_secret_key():
    """Make the key that bin/run keeps in DATA_DIR, unless SECRET_KEY is set or one is there already."""
    load_dotenv(ROOT / ".env")
    folder = (ROOT / (os.environ.get("DATA_DIR", "").strip() or "instance")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("SECRET_KEY", "").strip():
        return
    try:
        descriptor = os.open(folder / "secret_key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
