"""What bin/run starts: makes a secret key, migrates, adds demo data, and runs gunicorn in the foreground.

gunicorn loads the application once and forks its workers from it.
"""

import errno
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from gunicorn.app.base import BaseApplication
from gunicorn.http import message
from jinja2.utils import LRUCache

from config import Config, ConfigError, make_secret_key
from noxchat import create_app
from noxchat.files import lock_file
from noxchat.hosting import RESTORE_JOURNAL, SERVER_LOCK
from noxchat.web.worker import IGNORES_HUP, Worker

# How long requests get to finish after TERM; the process ends within 30 s.
GRACEFUL_SECONDS = 25
START_SECONDS = 3600  # for which a start waits for another one that is migrating
CONNECTIONS = 4096  # of each process, besides the event streams, where the system allows so many
FILES = 384  # open files of each process, besides the connections
TEMPLATES = 1000  # that are kept; there are fewer

# Allows a search term of ten thousand characters. gunicorn has a limit of its own, which no setting can raise, but only
# switch off.
message.MAX_REQUEST_LINE = MAX_URL_LENGTH = 100_000


class Server(BaseApplication):
    """gunicorn with our settings. connections: how many each process accepts."""

    def __init__(self, app, connections: int):
        self.app, self.connections = app, connections
        super().__init__()

    def load_config(self):
        config = self.app.config
        host = f"[{config['HOST']}]" if ":" in config["HOST"] else config["HOST"]
        settings = {
            "bind": f"{host}:{config['PORT']}",
            "workers": config["WORKERS"],
            "worker_class": Worker,
            "threads": config["THREADS"],
            "worker_connections": self.connections,
            "timeout": 60,
            "graceful_timeout": GRACEFUL_SECONDS,
            "keepalive": 15,
            "proc_name": "noxchat",
            "preload_app": True,
            "loglevel": "warning",
            # Only our own middleware reads forwarded headers.
            "forwarded_allow_ips": "",
            "limit_request_line": MAX_URL_LENGTH - 1,
            "limit_request_field_size": 65_520,  # cookies of other applications on the host, too
            "control_socket_disable": True,
            "post_fork": self.post_fork,
            "worker_exit": self.worker_exit,
            "child_exit": self.child_exit,
            "on_exit": self.on_exit,
            "when_ready": self.when_ready,
        }
        for name, value in settings.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self):
        return self.app

    def post_fork(self, _server, _worker):
        """Set up in a worker what a fork does not inherit: connections and threads."""
        from noxchat import passwords, search
        from noxchat.extensions import db
        from noxchat.mail import worker

        with self.app.app_context():
            db.engine.dispose(close=False)
        self.app.extensions["event_streams"].reset(detaches=True)
        worker.start(self.app)
        search.start(self.app)
        threading.Thread(target=passwords.warm_up, daemon=True).start()

    def worker_exit(self, _server, _worker):
        """Let the indexer record what it has sent; otherwise its index would have to be rebuilt."""
        from noxchat import search

        search.stop(self.app, wait=True)

    def child_exit(self, _server, worker):
        """Let the gauges of a worker that has ended no longer count."""
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            from prometheus_client import multiprocess

            multiprocess.mark_process_dead(worker.pid)

    def on_exit(self, _arbiter):
        """Let SQLite's file be complete by itself, now that no worker uses it any more."""
        from noxchat.database import checkpoint_sqlite

        checkpoint_sqlite(self.app.config["SQLALCHEMY_DATABASE_URI"])
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            shutil.rmtree(folder, ignore_errors=True)

    def when_ready(self, arbiter):
        """Tell that the server answers. From now on HUP ends it as TERM does, instead of restarting its workers."""
        end = lambda _number, frame: arbiter.signal(signal.SIGTERM, frame)  # noqa: E731
        signal.signal(signal.SIGHUP, signal.SIG_IGN if IGNORES_HUP else end)
        print(f"\nNoxChat is at {self.app.config['BASE_URL']}  (Ctrl-C ends it)", flush=True)  # noqa: T201


def main():
    """Prepare everything and serve until TERM or Ctrl-C. Exits with a sentence when something cannot be used."""
    try:
        make_secret_key()
        config = Config()
        check_address(config)
        if config.WORKERS > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="noxchat-metrics-")
        app = create_app(config)
    except ConfigError as error:
        sys.exit(f"NoxChat cannot start. {error}")
    except OSError as error:
        sys.exit(f"NoxChat cannot start. DATA_DIR cannot be written ({error.strerror}): write a folder that can.")
    with running(app):
        with app.app_context():
            prepare_database(app)
            app.extensions["sqlalchemy"].engine.dispose()
        preload_files(app)
        Server(app, raise_open_files_limit(app)).run()


@contextmanager
def running(app):
    """Hold the lock of a running server in a with statement, which its workers inherit. Exits during a restore."""
    data_dir = app.config["DATA_DIR"]
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that can only be read; nothing can be restored there, either
            if not stack.enter_context(lock_file(data_dir / SERVER_LOCK, shared=True)):
                sys.exit("NoxChat cannot start. A backup is being restored, or the database copied: wait for its end.")
        if (data_dir / RESTORE_JOURNAL).exists():
            sys.exit("NoxChat cannot start. A restore was interrupted: run flask --app main restore FILE again.")
        yield


def preload_files(app):
    """Read what pages are made of, so that an upgrade on disk does not change what a running server does."""
    from flask_babel import force_locale, get_translations

    from noxchat import schema
    from noxchat.web import assets
    from noxchat.web.preferences import LANGUAGES

    app.jinja_env.cache = LRUCache(TEMPLATES)
    for name in app.jinja_env.list_templates():
        app.jinja_env.get_template(name)
    with app.test_request_context():
        schema.read_revisions()
        for language in LANGUAGES:
            with force_locale(language):
                get_translations()
    assets.preload_static_files(app)


def raise_open_files_limit(app) -> int:
    """Raise the limit of open files, which often is 1024, and return how many connections a process may have.

    Where the system does not allow enough, half of them may be event streams.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = app.config["STREAMS"] + CONNECTIONS + FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    connections = allowed - FILES
    if app.config["STREAMS"] > connections // 2:
        app.config["STREAMS"] = connections // 2
        warning = f"Warning: STREAMS is {connections // 2}: the system allows only {hard} open files (ulimit -Hn)."
        print(warning, file=sys.stderr, flush=True)  # noqa: T201
    return connections


def check_address(config: Config):
    """Exit with a sentence if the server could not listen, before anything is changed."""
    family = socket.AF_INET6 if ":" in config.HOST else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.HOST, config.PORT))
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"PORT {config.PORT} is taken by another process: end that, or write another port.",
            errno.EACCES: f"PORT {config.PORT} is only for root: write one above 1023, and put a proxy in front.",
        }
        reason = f"HOST is {config.HOST!r}: write a name or address of this machine, 127.0.0.1. ({error.strerror})"
        sys.exit(f"NoxChat cannot start. {reasons.get(error.errno or 0, reason)}")


def prepare_database(app):
    """Migrate, and fill an empty database with demo data. Exits with a sentence when the database cannot be used.

    Processes that start at once do it one after the other.
    """
    from sqlalchemy.exc import DBAPIError

    from noxchat.database import Locked, exclusive_lock
    from noxchat.extensions import db

    # A folder that cannot be written has no lock file, and its database nothing to migrate.
    is_writable = db.engine.dialect.name == "postgresql" or os.access(Path(str(db.engine.url.database)).parent, os.W_OK)
    try:
        with exclusive_lock(db.engine, "start", START_SECONDS) if is_writable else nullcontext():
            migrate_and_fill(app)
    except DBAPIError as error:
        sys.exit(f"NoxChat cannot start. SQLALCHEMY_DATABASE_URI: the database cannot be used. {error.orig}")
    except Locked as error:
        sys.exit(f"NoxChat cannot start. {error}")


def migrate_and_fill(app):
    """Bring the tables up to date, and fill an empty database with demo data. Raises DBAPIError."""
    from noxchat import demo, health

    if (encoding := health.check_encoding()).ok is False:
        sys.exit(f"NoxChat cannot start. SQLALCHEMY_DATABASE_URI: the database has the {encoding.message}.")
    if health.check_database().ok is not True:
        migrate(app)
    for check in (health.check_collation(), writable := health.check_writable()):
        if check.ok is False:
            print(f"Warning: the database: {check.message}", file=sys.stderr, flush=True)  # noqa: T201
    app.extensions["cookie_names"].load()
    login = (demo.fill() or demo.login()) if app.config["DEMO"] and writable.ok else None
    if login:
        print(f"Demo login: {login.identifier}  password: {login.password}", flush=True)  # noqa: T201


def migrate(app):
    """Bring the tables up to date, unless MIGRATE=0. Exits with a sentence when that cannot be. Raises DBAPIError."""
    from alembic.util import CommandError

    from noxchat import schema
    from noxchat.extensions import db

    with db.engine.connect() as connection:
        revision, is_incomplete = schema.current_revision(connection), schema.is_incomplete(connection)
    if is_incomplete:
        sys.exit("NoxChat cannot start. Copying to this database was interrupted: run flask --app main move-to again.")
    if revision and not schema.is_known(revision):
        sys.exit("NoxChat cannot start. The database is of a newer version of NoxChat: update this machine, too.")
    if not app.config["MIGRATE"]:
        sys.exit("NoxChat cannot start. MIGRATE=0, and the tables are not current: run flask --app main db upgrade.")
    try:
        schema.upgrade(db.engine)
    except CommandError as error:
        sys.exit(f"NoxChat cannot start. {error}")


if __name__ == "__main__":
    main()
