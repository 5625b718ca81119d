"""What bin/run starts: makes a secret key, migrates, adds demo data, and runs gunicorn in the foreground.

gunicorn loads the application once and forks its workers from it.
"""

import sys
import threading

from gunicorn.app.base import BaseApplication
from gunicorn.http import message
from gunicorn.workers.gthread import ThreadWorker

from config import Config, ConfigError, make_secret_key

# How long requests get to finish after TERM; the process ends within 30 s.
GRACEFUL_SECONDS = 25


# Allows a search term of ten thousand characters. gunicorn has a limit of its own, which no setting can raise, but only
# switch off.
message.MAX_REQUEST_LINE = MAX_URL_LENGTH = 100_000


class Worker(ThreadWorker):
    """Ends the event streams first, which would otherwise last until the graceful timeout.

    The signal handlers leave that to the worker's loop: a handler may interrupt one that holds a lock, because Ctrl-C
    reaches a worker twice, from the terminal and from gunicorn's master.
    """

    def handle_exit(self, sig, frame):
        """Handle TERM."""
        self.method_queue.defer(self.close_streams)
        super().handle_exit(sig, frame)

    def handle_quit(self, sig, frame):
        """Handle Ctrl-C: as TERM, but without waiting for browsers that keep an idle connection."""
        self.method_queue.defer(self.murder_keepalived, True)
        self.handle_exit(sig, frame)

    def close_streams(self):
        """End what would not end by itself."""
        from noxchat import search

        self.app.app.extensions["event_streams"].close()
        search.stop(self.app.app)


class Server(BaseApplication):
    def __init__(self, app):
        self.app = app
        super().__init__()

    def load_config(self):
        config = self.app.config
        host = f"[{config['HOST']}]" if ":" in config["HOST"] else config["HOST"]
        settings = {
            "bind": f"{host}:{config['PORT']}",
            "workers": config["WORKERS"],
            "worker_class": Worker,
            "threads": config["THREADS"] + config["STREAMS"],  # each open stream occupies one
            "worker_connections": max(1000, 2 * (config["THREADS"] + config["STREAMS"])),
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
        self.app.extensions["event_streams"].reset()
        worker.start(self.app)
        search.start(self.app)
        threading.Thread(target=passwords.warm_up, daemon=True).start()

    def worker_exit(self, _server, _worker):
        """Let the indexer record what it has sent; otherwise its index would have to be rebuilt."""
        from noxchat import search

        search.stop(self.app, wait=True)

    def when_ready(self, _server):
        print(f"\nNoxChat is at {self.app.config['BASE_URL']}  (Ctrl-C ends it)", flush=True)  # noqa: T201


def main():
    """Prepare everything and serve until TERM or Ctrl-C. Exits with a message when a setting or the database is bad."""
    try:
        make_secret_key()
        config = Config()
    except ConfigError as error:
        sys.exit(f"NoxChat cannot start. {error}")
    except OSError as error:
        sys.exit(f"NoxChat cannot start. DATA_DIR cannot be written ({error.strerror}): write a folder that can.")
    import flask_migrate
    from sqlalchemy.exc import OperationalError

    from noxchat import create_app, demo, health

    app = create_app(config)
    with app.app_context():
        if health.check_database().ok is not True:
            try:
                flask_migrate.upgrade()
            except OperationalError as error:
                sys.exit(f"NoxChat cannot start. SQLALCHEMY_DATABASE_URI: the database does not answer. {error.orig}")
        app.extensions["cookie_names"].load()
        login = demo.fill() or demo.login() if app.config["DEMO"] else None
        if login:
            print(f"Demo login: {login.identifier}  password: {login.password}", flush=True)  # noqa: T201
        app.extensions["sqlalchemy"].engine.dispose()
    Server(app).run()


if __name__ == "__main__":
    main()
