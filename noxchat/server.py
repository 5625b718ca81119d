"""What bin/run starts: a key, the tables, demo people, and gunicorn, in one process that stays in front.

gunicorn loads the application once and forks its workers from it.
"""

import sys
import threading

from gunicorn.app.base import BaseApplication
from gunicorn.http import message
from gunicorn.workers.gthread import ThreadWorker

from config import BadSetting, Config, make_secret_key

# A request gets this long to finish after TERM; everything ends within 30 s.
GRACEFUL_SECONDS = 25


# The longest address that is read, so that ten thousand characters are a search that finds nobody. gunicorn has its own
# bound, and no setting but "none at all" that goes beyond it.
message.MAX_REQUEST_LINE = LONGEST_ADDRESS = 100_000


class Worker(ThreadWorker):
    """Ends the event streams first: they would last as long as they are given, and then be cut off."""

    def handle_exit(self, sig, frame):
        """End at TERM."""
        self.let_go()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig, frame):
        """End at Ctrl-C."""
        self.let_go()
        super().handle_quit(sig, frame)

    def let_go(self):
        """End what would last."""
        from noxchat import search

        self.app.app.extensions["doorbell"].close()
        search.end(self.app.app)


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
            "threads": config["THREADS"] + config["STREAMS"],  # an open stream occupies one
            "worker_connections": max(1000, 2 * (config["THREADS"] + config["STREAMS"])),
            "timeout": 60,
            "graceful_timeout": GRACEFUL_SECONDS,
            "keepalive": 15,
            "proc_name": "noxchat",
            "preload_app": True,
            "loglevel": "warning",
            # X-Forwarded-For is read by our own middleware, and nothing else of that kind at all.
            "forwarded_allow_ips": "",
            "limit_request_line": LONGEST_ADDRESS - 1,
            "limit_request_field_size": 16380,
            "control_socket_disable": True,
            "post_fork": self.post_fork,
            "when_ready": self.when_ready,
        }
        for name, value in settings.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self):
        return self.app

    def post_fork(self, _server, _worker):
        """Begin anew in a worker what a fork does not carry over: connections and threads."""
        from noxchat import mailer, passwords, search
        from noxchat.extensions import db

        with self.app.app_context():
            db.engine.dispose(close=False)
        self.app.extensions["doorbell"].begin()
        mailer.start(self.app)
        search.start(self.app)
        threading.Thread(target=passwords.prepare, daemon=True).start()

    def when_ready(self, _server):
        print(f"\nNoxChat is at {self.app.config['BASE_URL']}  (Ctrl-C ends it)", flush=True)  # noqa: T201


def main():
    """Prepare everything and serve until TERM or Ctrl-C. Ends with a sentence when a setting or the database is bad."""
    try:
        make_secret_key()
        config = Config()
    except BadSetting as bad:
        sys.exit(f"NoxChat cannot start. {bad}")
    except OSError as error:
        sys.exit(f"NoxChat cannot start. DATA_DIR cannot be written ({error.strerror}): write a folder that can.")
    import flask_migrate
    from sqlalchemy.exc import OperationalError

    from noxchat import create_app, demo, health, search

    app = create_app(config)
    with app.app_context():
        if health.database().ok is not True:
            try:
                flask_migrate.upgrade()
            except OperationalError as error:
                sys.exit(f"NoxChat cannot start. SQLALCHEMY_DATABASE_URI: the database does not answer. {error.orig}")
            search.choose(app)
        login = demo.fill() or demo.login() if app.config["DEMO"] else None
        if login:
            print(f"Demo login: {login.identifier}  password: {login.password}", flush=True)  # noqa: T201
        app.extensions["sqlalchemy"].engine.dispose()
    Server(app).run()


if __name__ == "__main__":
    main()
