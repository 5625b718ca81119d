"""All settings, read and validated once, from the environment and `.env`. A bad one ends the start with a message."""

import os
import re
import secrets
import ssl
import sys
import tempfile
from datetime import timedelta
from email import policy
from email.errors import ObsoleteHeaderDefect
from email.headerregistry import Address
from email.parser import Parser
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import idna
from dotenv import load_dotenv
from flask.helpers import get_debug_flag
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

ROOT = Path(__file__).resolve().parent
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MIN_KEY_BYTES = 32  # RFC 7518, 3.2: an HS256 key is at least as long as its hash


class ConfigError(SystemExit):
    """A setting that cannot be used: exits with a message that says which one, and what to write."""


class Environment:
    """Reads typed values from environment variables; an empty one counts as not set."""

    def __init__(self, values):
        self.values = values
        self.known = set()  # the names of all settings

    def text(self, name, default=""):
        self.known.add(name)
        return self.values.get(name, "").strip() or default

    def matching(self, name, pattern, advice, default=None):
        """Return a text that matches a regular expression. The error does not repeat it: it may be a password."""
        text = self.text(name)
        if text and not re.fullmatch(pattern, text):
            raise ConfigError(f"{name}: {advice}")
        return text or default

    def number(self, name, default, *, minimum=0, maximum=10**9):
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdigit() and minimum <= int(text) <= maximum):
            raise ConfigError(f"{name} is {text!r}: write a whole number from {minimum} to {maximum}.")
        return int(text)

    def flag(self, name, default):
        text = self.text(name, "1" if default else "0").lower()
        if text not in {"0", "1", "true", "false", "yes", "no", "on", "off"}:
            raise ConfigError(f"{name} is {text!r}: write 1 or 0.")
        return text in {"1", "true", "yes", "on"}

    def list(self, name):
        return [part for part in self.text(name).replace(",", " ").split() if part]

    def host(self, name):
        """Return a host name, in ASCII if it was not; None if it is not set."""
        text = self.text(name, None)
        try:
            # Certificates are issued for names without the final dot.
            return text and (text.removesuffix(".") if text.isascii() else ascii_host(text))
        except ValueError:
            raise ConfigError(f"{name} is {text!r}: write a host name, smtp.nox.example.") from None

    def certificates(self, name, *, allowed, advice):
        """Return the path of a PEM file with the certificates to trust; None if it is not set.

        allowed: whether the connection that it is for uses TLS; advice: the error's text otherwise.
        """
        if not (text := self.text(name)):
            return None
        if not allowed:
            raise ConfigError(f"{name}: {advice}")
        path = str(ROOT / text)
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{name} cannot be used ({error.strerror}): write a PEM file.") from None
        return path


def ascii_host(text):
    """Return a host name or address as browsers send it: lower case, IDNA 2008, no final dot, IPv6 in brackets.

    Raises ValueError for what cannot be one. Python's own "idna" codec follows the rules of 2003, which turn some names
    into others: straße.example into strasse.example.
    """
    try:
        address = ip_address(text.strip("[]"))
        return f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        host = text.removesuffix(".").lower()
    if not host.isascii():
        host = idna.encode(host, uts46=True).decode()
    # What ends with a number would be an address (https://url.spec.whatwg.org/#ends-in-a-number-checker).
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", host) or re.fullmatch("[0-9]+|0x.*", host.rpartition(".")[2]):
        raise ValueError(f"{text!r} is no host name")
    return host


def split_host(text):
    """Return the host, as `ascii_host` does, and the port of a Host header or a setting; None for each that is missing
    or cannot be one."""
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^\[\]:/@?#\\\s]+|[0-9a-fA-F:.]+)(?::([0-9]{1,5}))?", text)
    try:
        return (ascii_host(match[1]), match[2] and int(match[2])) if match else (None, None)
    except ValueError:
        return None, None


def split_http_url(text):
    """Return the parts of a URL as urlsplit does; None unless it is http or https, has a host, and no query."""
    try:
        parts = urlsplit(text)
        ascii_host(parts.hostname or "")
        is_valid = parts.scheme in {"http", "https"} and (parts.port or 1) and not parts.query
    except ValueError:
        return None
    return parts if is_valid else None


def domain_literal(host):
    """Return a host as the domain of an e-mail address: an IP address in brackets (RFC 5321, 4.1.3)."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


def sender(text):
    """Return a sender as it is written in a From header (RFC 5322, 3.4), the domain in ASCII. Raises ConfigError."""
    header = Parser(policy=policy.default).parsestr(f"From: {text}\n")["From"]
    defects = [defect for defect in header.defects if not isinstance(defect, ObsoleteHeaderDefect)]
    try:
        [found] = header.addresses
        domain = found.domain if found.domain.isascii() else ascii_host(found.domain)
        if defects or not domain or set(text) & set("\r\n"):
            raise ValueError
    except ValueError:
        advice = 'write one address, NoxChat <noreply@nox.example>; a name with a comma in quotes, "Nox, Inc." <…>.'
        raise ConfigError(f"MAIL_DEFAULT_SENDER: {advice}") from None
    return str(Address(found.display_name, found.username, domain))


def proxy_network(text):
    """Return the network of a trusted proxy. Raises ValueError.

    An IPv4 address that is written as IPv6 is read as IPv4, as web/security.py reads those of requests.
    """
    network = ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return ip_network(f"{mapped}/{network.prefixlen - 96}") if mapped and network.prefixlen >= 96 else network


class Config:
    """The settings, as Flask reads them: one upper-case attribute for each.

    environ: a mapping of names to strings; by default the process's environment, then `.env`.
    debug: whether this is development, where a weak SECRET_KEY only causes a warning.
    Raises ConfigError, which ends the process with a message unless it is caught.
    """

    TESTING = False

    def __init__(self, environ=None, *, debug=None):
        if environ is None:
            load_env()
            environ = os.environ
        env = Environment(environ)
        self.DEBUG = get_debug_flag() if debug is None else debug
        self.warnings = []
        self._read_paths(env)
        self._read_server(env)
        self._read_database(env)
        self._read_elasticsearch(env)
        self._read_mail(env)
        self._read_limits(env)
        self._read_secret_key(env)
        self._set_cookies()
        self.KNOWN_SETTINGS = frozenset(env.known)

    def _read_paths(self, env):
        """Read where files are stored."""
        self.DATA_DIR = (ROOT / env.text("DATA_DIR", "instance")).resolve()
        self.AVATAR_DIR = self.DATA_DIR / "avatars"
        self.MAIL_DIR = self.DATA_DIR / "mail"
        self.PASSWORD_LIST = ROOT / "vendor" / "passwords.txt"  # written by bin/setup
        self.LOG_DIR = (ROOT / env.text("LOG_DIR", "logs")).resolve()
        self.LOG_FILE_BYTES = env.number("LOG_FILE_BYTES", 5_000_000, minimum=10_000)
        self.LOG_FILES = env.number("LOG_FILES", 10, minimum=1, maximum=1000)
        self.MONITORING_TOKEN = env.matching(
            "MONITORING_TOKEN", "[!-~]{16,}", "write at least 16 letters, digits and signs, without spaces."
        )
        self.LOG_TO = env.matching("LOG_TO", "file|stdout", "write file or stdout.", default="file")
        self.DEMO = env.flag("DEMO", True)
        self.MIGRATE = env.flag("MIGRATE", True)

    def _read_server(self, env):
        """Read the address to listen on, the URL that people see, and the trusted proxies."""
        self.HOST = env.text("HOST", "127.0.0.1").strip("[]")
        self.PORT = env.number("PORT", 8000, minimum=1, maximum=65535)
        self.WORKERS = env.number("WORKERS", 1, minimum=1, maximum=64)
        self.THREADS = env.number("THREADS", 64, minimum=1, maximum=1024)
        self.STREAMS = env.number("STREAMS", 1000, maximum=10_000)
        try:
            host = ascii_host(self.HOST)
        except ValueError:
            raise ConfigError(f"HOST is {self.HOST!r}: write a name or address of this machine, 127.0.0.1.") from None
        host = "localhost" if host in {"0.0.0.0", "[::]"} else host  # noqa: S104
        self.BASE_URL = env.text("BASE_URL", f"http://{host}:{self.PORT}").rstrip("/")
        parts = split_http_url(self.BASE_URL)
        if not parts or parts.path or parts.username:
            raise ConfigError(f"BASE_URL is {self.BASE_URL!r}: write the URL that people see, https://nox.example.")
        own = ascii_host(parts.hostname)
        self.BASE_URL = f"{parts.scheme}://{own}" + (f":{parts.port}" if parts.port else "")
        self.HAS_BASE_URL = bool(env.text("BASE_URL"))
        self.HOSTS = [own] if self.HAS_BASE_URL else [*LOOPBACK_NAMES, own]
        for name in env.list("ALLOWED_HOSTS"):
            host, _port = split_host(name.removeprefix("."))
            if not host:
                raise ConfigError(f"ALLOWED_HOSTS has {name!r}: write host names, nox.example www.nox.example.")
            self.HOSTS.append(f".{host}" if name.startswith(".") else host)
        self.SECURE = parts.scheme == "https"
        self.PREFERRED_URL_SCHEME = parts.scheme
        self.HSTS_SECONDS = env.number("HSTS_SECONDS", 31_536_000)
        self.HSTS_SUBDOMAINS = env.flag("HSTS_SUBDOMAINS", False)
        try:
            self.TRUSTED_PROXIES = [proxy_network(proxy) for proxy in env.list("TRUSTED_PROXIES")]
        except ValueError as error:
            raise ConfigError(f"TRUSTED_PROXIES: {error}; write addresses or networks, 127.0.0.1 10.0.0.0/8.") from None

    def _read_database(self, env):
        default = URL.create("sqlite", database=str(self.DATA_DIR / "noxchat.db"))
        try:
            url = make_url(env.text("SQLALCHEMY_DATABASE_URI", default))
        except (ArgumentError, ValueError):
            url = None
        if url is None or url.get_backend_name() not in {"sqlite", "postgresql"}:
            raise ConfigError("SQLALCHEMY_DATABASE_URI: write sqlite:///path or postgresql://user:password@host/name.")
        if url.get_backend_name() == "sqlite":
            if url.host or url.database in (None, "", ":memory:"):
                raise ConfigError("SQLALCHEMY_DATABASE_URI: write the path of a file, sqlite:///instance/noxchat.db.")
            if self.WORKERS > 1:
                raise ConfigError(f"WORKERS is {self.WORKERS}: with SQLite write 1, or set up PostgreSQL.")
            if not url.database.startswith("file:"):
                url = url.set(database=str(ROOT / url.database))  # or Flask-SQLAlchemy uses a folder of its own
        else:
            # One driver, whichever the URI names: postgresql+psycopg2:// works too.
            url = url.set(drivername="postgresql+psycopg")
        self.SQLALCHEMY_DATABASE_URI = url.render_as_string(hide_password=False)
        self.SQLITE_SYNCHRONOUS = env.matching(
            "SQLITE_SYNCHRONOUS", "NORMAL|FULL", "write NORMAL or FULL.", default="NORMAL"
        )
        self.DATABASE_SECONDS = env.number("DATABASE_SECONDS", 10, minimum=1, maximum=600)

    def _read_elasticsearch(self, env):
        """Read the settings of Elasticsearch. No message repeats a value that may contain a password."""
        self.ELASTICSEARCH_URL = env.text("ELASTICSEARCH_URL", None)
        parts = split_http_url(self.ELASTICSEARCH_URL or "http://unset")
        plain = parts and re.fullmatch(r"[!-\[\]-~]+", parts.netloc) and all(parts.hostname.split("."))
        if not plain or parts.port == 0 or parts.fragment:
            raise ConfigError("ELASTICSEARCH_URL: write a URL, http://elastic:password@localhost:9200.")
        if self.ELASTICSEARCH_URL:
            host = parts.netloc if parts.port else f"{parts.netloc.removesuffix(':')}:9200"
            self.ELASTICSEARCH_URL = parts._replace(netloc=host, path=parts.path.rstrip("/")).geturl()
        self.ELASTICSEARCH_API_KEY = env.matching(
            "ELASTICSEARCH_API_KEY", "[\0-\x7f]+", "write it as Elasticsearch shows it, in letters from a to z."
        )
        if self.ELASTICSEARCH_API_KEY and parts.username:
            raise ConfigError("ELASTICSEARCH_API_KEY: write either this or a user in ELASTICSEARCH_URL, not both.")
        self.ELASTICSEARCH_PREFIX = env.matching(
            "ELASTICSEARCH_PREFIX",
            "[a-z0-9][a-z0-9_]{0,63}",
            "write up to 64 of a-z, 0-9 and _, not beginning with _.",
            default="noxchat",
        )
        self.ELASTICSEARCH_MILLISECONDS = env.number("ELASTICSEARCH_MILLISECONDS", 800, minimum=50, maximum=10_000)
        self.ELASTICSEARCH_CA = env.certificates(
            "ELASTICSEARCH_CA",
            allowed=parts.scheme == "https",
            advice="it is for an ELASTICSEARCH_URL that begins with https://.",
        )

    def _read_mail(self, env):
        self.MAIL_SERVER = env.host("MAIL_SERVER")
        self.MAIL_USE_TLS = env.flag("MAIL_USE_TLS", False)
        self.MAIL_USE_SSL = env.flag("MAIL_USE_SSL", False)
        if self.MAIL_USE_TLS and self.MAIL_USE_SSL:
            raise ConfigError("MAIL_USE_TLS and MAIL_USE_SSL exclude each other: set the one that your server uses.")
        self.MAIL_CA = env.certificates(
            "MAIL_CA",
            allowed=self.MAIL_USE_TLS or self.MAIL_USE_SSL,
            advice="it is for a mail server with MAIL_USE_TLS or MAIL_USE_SSL; set the one that it uses.",
        )
        default_port = 465 if self.MAIL_USE_SSL else 587 if self.MAIL_USE_TLS else 25
        self.MAIL_PORT = env.number("MAIL_PORT", default_port, minimum=1, maximum=65535)
        self.MAIL_USERNAME = env.text("MAIL_USERNAME", None)
        self.MAIL_PASSWORD = env.text("MAIL_PASSWORD", None)
        host = urlsplit(self.BASE_URL).hostname
        domain = "localhost" if host in {"127.0.0.1", "::1"} else domain_literal(host)
        self.MAIL_DEFAULT_SENDER = sender(env.text("MAIL_DEFAULT_SENDER", f"NoxChat <noreply@{domain}>"))
        self.MAIL_SUPPRESS_SEND = False
        self.MAIL_DEBUG = False

    def _read_limits(self, env):
        """Read who may join, and the limits."""
        self.REGISTRATION = env.matching(
            "REGISTRATION", "open|invitation|closed", "write open, invitation or closed.", default="open"
        )
        self.RESET_MINUTES = env.number("RESET_MINUTES", 10, minimum=1, maximum=60)
        self.SESSION_DAYS = env.number("SESSION_DAYS", 30, minimum=1, maximum=365)
        self.AVATAR_BYTES = env.number("AVATAR_BYTES", 5_000_000, minimum=10_000)
        self.AVATAR_PIXELS = env.number("AVATAR_PIXELS", 50_000_000, minimum=10_000)
        self.AVATARS_PER_HOUR = env.number("AVATARS_PER_HOUR", 20, minimum=1)
        self.MAX_CONTENT_LENGTH = env.number("MAX_REQUEST_BYTES", 6_000_000, minimum=100_000)
        self.SIGN_INS_PER_ACCOUNT_AND_ADDRESS = env.number("SIGN_INS_PER_ACCOUNT_AND_ADDRESS", 10, minimum=1)
        self.SIGN_INS_PER_ADDRESS = env.number("SIGN_INS_PER_ADDRESS", 60, minimum=1)
        self.SIGN_INS_PER_ACCOUNT = env.number("SIGN_INS_PER_ACCOUNT", 100, minimum=1)
        self.SIGN_UPS_PER_HOUR = env.number("SIGN_UPS_PER_HOUR", 20, minimum=1)
        self.RESETS_PER_HOUR = env.number("RESETS_PER_HOUR", 5, minimum=1)
        self.RENAMES_PER_DAY = env.number("RENAMES_PER_DAY", 10, minimum=1)
        self.REQUESTS_PER_HOUR = env.number("REQUESTS_PER_HOUR", 50, minimum=1)
        self.OPEN_REQUESTS = env.number("OPEN_REQUESTS", 100, minimum=1)
        self.PAUSE_DAYS = env.number("PAUSE_DAYS", 14, maximum=3650)
        self.MESSAGE_LENGTH = env.number("MESSAGE_LENGTH", 4000, minimum=1, maximum=100_000)
        self.MESSAGES_PER_MINUTE = env.number("MESSAGES_PER_MINUTE", 120, minimum=1)
        self.EDIT_HOURS = env.number("EDIT_HOURS", 24, maximum=87_600)
        self.STREAMS_PER_PERSON = env.number("STREAMS_PER_PERSON", 10, minimum=1)
        self.RATELIMIT_STORAGE_URI = env.text("RATELIMIT_STORAGE_URI", "memory://")
        try:
            storage = urlsplit(self.RATELIMIT_STORAGE_URI)
            is_valid = (storage.hostname or "").isascii() and (storage.port or 1)
        except ValueError:
            is_valid = False
        if not is_valid or storage.scheme not in {"memory", "redis", "rediss"}:
            raise ConfigError("RATELIMIT_STORAGE_URI: write memory:// or redis://host:6379, the host in ASCII.")
        if storage.scheme != "memory" and find_spec("redis") is None:
            raise ConfigError("RATELIMIT_STORAGE_URI: Redis needs a package: pip install -r requirements-redis.txt")
        # Of a form without its files: the longest field is a password of a thousand characters.
        self.MAX_FORM_MEMORY_SIZE = 100_000
        self.MAX_FORM_PARTS = 100

    def _read_secret_key(self, env):
        self.SECRET_KEY, self.KEY_IS_TEMPORARY = env.text("SECRET_KEY"), False
        file = self.DATA_DIR / "secret_key"
        if not self.SECRET_KEY and file.is_file():
            try:
                self.SECRET_KEY = file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeError) as error:
                raise ConfigError(f"SECRET_KEY: {file} cannot be read ({type(error).__name__}).") from None
        # Not a key such as aaaa…, which is long enough but easily guessed.
        if len(self.SECRET_KEY.encode()) >= MIN_KEY_BYTES and len(set(self.SECRET_KEY)) > 4:
            return
        problem = (
            f"SECRET_KEY is {'too weak' if self.SECRET_KEY else 'not set'}: write at least {MIN_KEY_BYTES} random "
            "characters, such as python3 -c 'import secrets; print(secrets.token_hex(32))' prints."
        )
        if not self.DEBUG and serves_requests():
            raise ConfigError(problem)
        self.warnings.append(problem)
        self.KEY_IS_TEMPORARY = not self.SECRET_KEY
        self.SECRET_KEY = self.SECRET_KEY or secrets.token_hex(32)

    def _set_cookies(self):
        """Set names and flags of cookies; web/cookies.py adds the installation's id to the names.

        With `__Host-`, browsers refuse one that was set by another host, for another path, or over plain HTTP
        (RFC 6265bis, 4.1.3.2); it requires TLS.
        """
        self.COOKIE_PREFIX = prefix = "__Host-" if self.SECURE else ""
        self.SESSION_COOKIE_NAME = f"{prefix}session"
        self.REMEMBER_COOKIE_NAME = f"{prefix}remember_token"
        self.DEVICE_COOKIE_NAME = f"{prefix}device"
        self.LANGUAGE_COOKIE_NAME, self.THEME_COOKIE_NAME, self.SOUND_COOKIE_NAME = "language", "theme", "sound"
        self.SESSION_COOKIE_SECURE = self.REMEMBER_COOKIE_SECURE = self.SECURE
        self.SESSION_COOKIE_HTTPONLY = self.REMEMBER_COOKIE_HTTPONLY = True
        self.SESSION_COOKIE_SAMESITE = self.REMEMBER_COOKIE_SAMESITE = "Lax"
        self.REMEMBER_COOKIE_DURATION = timedelta(days=self.SESSION_DAYS)
        # A CSRF token is valid as long as its session.
        self.WTF_CSRF_TIME_LIMIT = None
        # web/security.py compares the Origin itself, before the token, and for every scheme.
        self.WTF_CSRF_SSL_STRICT = False
        self.WTF_CSRF_CHECK_DEFAULT = False


def env_file():
    """Return the path of the file with settings, which need not exist."""
    return ROOT / ".env"


def load_env():
    """Add the variables of .env to the environment, where they are not set. Raises ConfigError."""
    try:
        load_dotenv(env_file(), encoding="utf-8-sig")
    except UnicodeError:
        raise ConfigError(f"{env_file()} is not UTF-8: save it with that encoding.") from None
    except OSError as error:
        raise ConfigError(
            f"{env_file()} cannot be read ({error.strerror}): give it to the user that runs NoxChat."
        ) from None


def serves_requests():
    """Tell whether this process serves requests: all do except subcommands of `flask` other than `run`."""
    return os.environ.get("FLASK_RUN_FROM_CLI") != "true" or "run" in sys.argv[1:]


def make_secret_key():
    """Create DATA_DIR/secret_key, unless SECRET_KEY is set or the file exists already.

    Processes that start at once agree on one key. Raises ConfigError if the file is empty, OSError.
    """
    from noxchat.files import make_private_folder

    load_env()
    folder = (ROOT / (os.environ.get("DATA_DIR", "").strip() or "instance")).resolve()
    make_private_folder(folder)
    file = folder / "secret_key"
    if os.environ.get("SECRET_KEY", "").strip():
        return
    if file.exists():
        if not file.stat().st_size:  # earlier releases left one behind when they were killed
            raise ConfigError(f"SECRET_KEY: {file} is empty; delete it, and a new key will be written.")
        return
    # Written whole before it gets its name, so that a process that is killed leaves no empty or partial key.
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".secret_key-")
    try:
        with os.fdopen(descriptor, "w") as new:
            new.write(secrets.token_hex(32))
            new.flush()
            os.fsync(descriptor)
        _rename_unless_exists(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _rename_unless_exists(source, target):
    """Give a file another name, unless that is taken: then the file is left. Raises OSError."""
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        if not target.exists():
            os.rename(source, target)
