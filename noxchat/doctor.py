"""What `flask doctor` checks besides health.py: settings, files, the machine, backups. Each result says what to do."""

import difflib
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values
from flask import current_app
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from config import env_file
from noxchat import changelog, demo, health
from noxchat.database import now
from noxchat.extensions import db
from noxchat.files import GROUP_AND_OTHERS
from noxchat.health import CheckResult, is_loopback
from noxchat.hosting import backup
from noxchat.models import User

BACKUP_AGE = timedelta(days=7)
CLOCK_DIFFERENCE = timedelta(minutes=2)
# When versions lose their security updates: https://devguide.python.org/versions/,
# https://www.postgresql.org/support/versioning/
END_OF_PYTHON = {(3, 11): date(2027, 10, 31), (3, 12): date(2028, 10, 31), (3, 13): date(2029, 10, 31)}
END_OF_POSTGRESQL = {
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}
SIMILAR = 0.85  # for which a variable of the environment counts as a misspelled setting
MAX_FILES = 20_000  # that are looked at
RESOLVE_SECONDS = 5
WIDE = {4: 24, 6: 48}  # a public network of trusted proxies has at least this prefix


def problem(message: str) -> CheckResult:
    """Return a result that something does not work."""
    return CheckResult(False, message)


def warning(message: str) -> CheckResult:
    """Return a result that something should be changed, though everything works."""
    return CheckResult(False, message, is_warning=True)


def run_checks() -> Iterator[tuple[str, CheckResult]]:
    """Yield the name and the result of each check. A check that fails itself is a result, too."""
    config = current_app.config
    for name, check in _local_checks(config):
        yield name, _safe(check)
    yield "Database", (database := _safe(health.check_database))
    yield "Database rights", _safe(check_rights)
    # After the database was opened, which keeps others from a file of an early release.
    yield "Owner of files", _safe(lambda: check_owner(config))
    yield "Privacy of files", _safe(lambda: check_modes(config))
    for name, check in _database_checks(config) if database.ok else ():
        yield name, _safe(check)
    yield "Mail server", _safe(lambda: health.check_mail_server(config, thorough=True))
    yield "Limits", _safe(health.check_limits_store)


def _local_checks(config) -> list[tuple[str, Callable[[], CheckResult]]]:
    return [
        ("Settings", lambda: check_settings(config)),
        ("Secret key", lambda: check_secret_key(config)),
        ("Base URL", lambda: check_base_url(config)),
        ("Proxy", lambda: check_proxies(config)),
        ("Registration", lambda: check_registration(config)),
        ("Data folder", lambda: check_folder(config["DATA_DIR"], is_private=True)),
        ("Log folder", lambda: check_log_folder(config)),
        ("Disk", lambda: health.check_disk(config)),
        ("Front-end files", check_front_end),
        ("Password list", lambda: check_password_list(config)),
        ("Translations", check_translations),
        ("Python", check_python),
    ]


def _database_checks(config) -> list[tuple[str, Callable[[], CheckResult]]]:
    return [
        ("Writing", health.check_writable),
        ("Database locale", health.check_collation),
        ("Clock", check_clock),
        ("Search", health.check_search),
        ("Elasticsearch", lambda: health.check_elasticsearch(thorough=True)),
        ("E-mail queue", health.check_email_queue),
        ("Backup", check_backup),
        ("Demo people", lambda: check_demo(config)),
    ]


def _safe(check: Callable[[], CheckResult]) -> CheckResult:
    try:
        return check()
    except Exception as error:  # noqa: BLE001  what is wrong is what is asked for
        db.session.rollback()
        return problem(f"could not be checked: {type(error).__name__}: {getattr(error, 'orig', error)}")


def check_settings(config) -> CheckResult:
    """Check that there are no settings that do not exist: misspelled ones do nothing."""
    known = config["KNOWN_SETTINGS"]
    written = dotenv_values(env_file()) if env_file().is_file() else {}
    unknown = [name for name in written if name not in known and not name.startswith(("FLASK_", "PYTHON"))]
    similar = [name for name in os.environ if name not in known and difflib.get_close_matches(name, known, 1, SIMILAR)]
    names = dict.fromkeys([*unknown, *similar])
    if not names:
        return CheckResult(True, "all are known")
    guesses = [(name, *difflib.get_close_matches(name, known, 1, 0.6)) for name in names]
    return problem(
        "; ".join(f"{name} does not exist" + "".join(f": did you mean {n}?" for n in g) for name, *g in guesses)
    )


def check_secret_key(config) -> CheckResult:
    """Check that the secret key is strong enough."""
    if config["warnings"]:
        return problem(config["warnings"][0])
    return CheckResult(True, "is long enough")


def check_base_url(config) -> CheckResult:
    """Check that other people can open the URL that e-mails contain, and over TLS."""
    url, host = config["BASE_URL"], urlsplit(config["BASE_URL"]).hostname or ""
    if not config["HAS_BASE_URL"] and not is_loopback(config["HOST"]):
        return problem(
            f"is not set, so only this machine is answered, though HOST is {config['HOST']}: write https://…"
        )
    if is_loopback(host):
        return CheckResult(None, f"{url}: fine here; other people need BASE_URL=https://…")
    if not config["SECURE"]:
        return problem(f"{url}: passwords travel unencrypted; put TLS in front and write https://")
    if reason := health.with_time_limit(RESOLVE_SECONDS, lambda: _resolve(host)):
        return problem(
            f"{url}: there is no such host ({reason}); write the name that people type, or enter it in the DNS"
        )
    return CheckResult(True, url)


def _resolve(host: str) -> str:
    """Return why a host name has no address; empty when it has."""
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def check_proxies(config) -> CheckResult:
    """Check that TRUSTED_PROXIES are those in front, and no others."""
    networks = config["TRUSTED_PROXIES"]
    for network in networks:
        if not network.prefixlen or (not network.is_private and network.prefixlen < WIDE[network.version]):
            return problem(
                f"TRUSTED_PROXIES has {network}: everybody there can pretend any address; name your proxies only"
            )
    if not config["SECURE"]:
        return CheckResult(None, "none is needed without TLS")
    if not networks:
        message = "BASE_URL is https://, so there is a proxy, but TRUSTED_PROXIES is not set: everybody has its address"
        return problem(f"{message}, and shares one limit; write 127.0.0.1, or where it is")
    if not is_loopback(config["HOST"]):
        message = (
            f"HOST is {config['HOST']}: whoever reaches port {config['PORT']} past the proxy has no TLS, and cannot"
        )
        return warning(
            f"{message} log in; write 127.0.0.1 if the proxy is on this machine, or close the port to others"
        )
    return CheckResult(True, f"{', '.join(map(str, networks))} is trusted")


def check_registration(config) -> CheckResult:
    """Say who may create an account."""
    texts = {
        "open": "open: whoever finds this place can join",
        "invitation": "invitation: who has a link of `flask invite` or of somebody who is here can join",
        "closed": "closed: nobody can join",
    }
    return CheckResult(True, texts[config["REGISTRATION"]])


def check_folder(path: Path, *, is_private: bool = False) -> CheckResult:
    """Check that a folder is writable. is_private: whether to warn if other users can enter it."""
    if not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
        return problem(f"{path} cannot be written: create it, and give it to the user that runs NoxChat")
    found = path.stat()
    if is_private and found.st_mode & GROUP_AND_OTHERS:
        owner = "" if found.st_uid == os.geteuid() else "give it to the user that runs NoxChat, then "
        return warning(f"{path} can be written, but other users can enter it: {owner}chmod 700 {path}")
    return CheckResult(True, f"{path} can be written")


def check_log_folder(config) -> CheckResult:
    """Check that the log can be written."""
    if config["LOG_TO"] == "stdout":
        return CheckResult(None, "the log goes to standard output")
    return check_folder(config["LOG_DIR"])


def _files(config) -> dict[Path, os.stat_result]:
    """Return our files and folders with what is known of them, but at most MAX_FILES."""
    folders = [config["DATA_DIR"], *([config["LOG_DIR"]] if config["LOG_TO"] == "file" else [])]
    if config["AVATAR_DIR"].is_symlink():
        folders.append(config["AVATAR_DIR"].resolve())
    found: dict[Path, os.stat_result] = {}
    for folder in folders:
        for path, names, files in os.walk(folder):
            for name in (*names, *files):
                with suppress(FileNotFoundError):  # gone since
                    found[Path(path, name)] = os.lstat(Path(path, name))
            if len(found) > MAX_FILES:
                return found
    if db.engine.dialect.name == "sqlite" and (database := Path(str(db.engine.url.database))).is_file():
        found[database] = database.stat()
    return found


def check_owner(config) -> CheckResult:
    """Check that all files belong to who owns DATA_DIR, which should be the user that runs NoxChat."""
    data_dir = config["DATA_DIR"]
    owner = data_dir.stat().st_uid
    foreign = [path for path, found in _files(config).items() if found.st_uid != owner]
    if foreign:
        return problem(
            f"{len(foreign)} files belong to another user than {data_dir}, such as {foreign[0]}: "
            f"chown -R --reference={data_dir} {data_dir} {config['LOG_DIR']}"
        )
    if owner != os.geteuid() and os.geteuid() != 0:
        return problem(f"{data_dir} belongs to another user: run this as the user that runs NoxChat")
    return CheckResult(True, "all belong to one user")


def check_modes(config) -> CheckResult:
    """Check that other users of the machine can read neither data nor passwords."""
    kept = {path: found for path, found in _files(config).items() if stat.S_ISREG(found.st_mode)}
    if env_file().is_file():
        kept[env_file()] = env_file().stat()
    readable = [path for path, found in kept.items() if found.st_mode & GROUP_AND_OTHERS]
    if not readable:
        return CheckResult(True, "only their owner can read them")
    if len(readable) == 1:
        return problem(f"other users can read {readable[0]}: chmod go= {readable[0]}")
    folders = " ".join(map(str, dict.fromkeys(path.parent for path in readable)))
    return problem(f"other users can read {len(readable)} files, such as {readable[0]}: chmod -R go= {folders[:300]}")


def check_front_end() -> CheckResult:
    """Check that the files from npm are installed."""
    if Path(current_app.static_folder or "", "vendor", "htmx.min.js").is_file():
        return CheckResult(True, "installed")
    return problem("not installed, so pages work as without JavaScript: run bin/setup")


def check_password_list(config) -> CheckResult:
    """Check that the list of common passwords is installed."""
    path = config["PASSWORD_LIST"]
    if path.is_file() and path.stat().st_size:
        return CheckResult(True, "installed")
    return problem("not installed, so many common passwords are accepted: run bin/setup")


def check_translations() -> CheckResult:
    """Check that the Russian translation was compiled."""
    if (Path(current_app.root_path).parent / "translations/ru/LC_MESSAGES/messages.mo").is_file():
        return CheckResult(True, "compiled")
    return problem("not compiled: make translations/ writable and start again")


def check_python() -> CheckResult:
    """Check that Python still gets security updates."""
    version = sys.version_info[:2]
    name = f"{version[0]}.{version[1]}"
    if version < min(END_OF_PYTHON) or now().date() > END_OF_PYTHON.get(version, date.max):
        return warning(
            f"{name} gets no security updates any more: install a newer one, delete .venv, and run bin/setup"
        )
    return CheckResult(True, name)


def check_rights() -> CheckResult:
    """Check what the role of PostgreSQL may do, and the server's version."""
    if db.engine.dialect.name != "postgresql":
        return CheckResult(None, "not needed with SQLite")
    rights = "SELECT current_user, current_schema(), has_schema_privilege(current_schema(), 'CREATE')"
    try:
        role, schema, may_create = db.session.execute(text(rights)).one()
        version = int(db.session.scalar(text("SHOW server_version_num")) or 0) // 10_000
        db.session.commit()
    except SQLAlchemyError:
        db.session.rollback()
        return CheckResult(None, "unknown: the database does not answer")
    if schema is None or not may_create:
        command = f'GRANT USAGE, CREATE ON SCHEMA public TO "{role}"'
        return problem(f"{role} may not create tables: have the owner of the database run {command}")
    if version < min(END_OF_POSTGRESQL) or now().date() > END_OF_POSTGRESQL.get(version, date.max):
        return warning(f"PostgreSQL {version} gets no security updates any more: update it")
    return CheckResult(True, f"{role} may create tables in PostgreSQL {version}")


def check_clock() -> CheckResult:
    """Check that this machine's clock is not wrong, as far as that can be known. Requires that the database answers."""
    released = max((entry.date for entry in changelog.latest_entries("en")), default=datetime.min.replace(tzinfo=UTC))
    newest = db.session.scalar(select(func.max(User.last_seen_at)))
    if max(filter(None, [released, newest])) > now() + timedelta(days=1):
        return problem(f"it is {now():%Y-%m-%d %H:%M} UTC here, which is in the past: set the clock")
    if db.engine.dialect.name == "postgresql":
        difference = abs(db.session.scalar(text("SELECT clock_timestamp()")) - now())
        if difference > CLOCK_DIFFERENCE:
            return problem(f"differs from that of the database by {difference.total_seconds():,.0f} s: set both")
    return CheckResult(True, f"{now():%Y-%m-%d %H:%M} UTC")


def check_backup() -> CheckResult:
    """Check that there is a backup that is not older than a week. Requires that the database answers."""
    made_at = backup.last_backup_at()
    if made_at and made_at > now() - BACKUP_AGE:
        return CheckResult(True, f"made on {made_at:%Y-%m-%d %H:%M} UTC")
    oldest = db.session.scalar(select(func.min(User.created_at)))
    if oldest is None or oldest > now() - BACKUP_AGE:
        return CheckResult(None, "none yet: run flask --app main backup every night")
    found = f"the last one was made on {made_at:%Y-%m-%d}" if made_at else "none was made by flask backup"
    return warning(f"{found}: run flask --app main backup every night (docs/running.md)")


def check_demo(config) -> CheckResult:
    """Check that nobody can log in as a demo person from outside. Requires that the database answers."""
    login = demo.login()
    if login is None:
        return CheckResult(None, "there are none")
    if is_loopback(urlsplit(config["BASE_URL"]).hostname or ""):
        return CheckResult(None, f"{login.identifier} and others: fine here")
    return problem(
        f"{login.identifier} and others are here, on a public address: begin with an empty DATA_DIR and DEMO=0"
    )
