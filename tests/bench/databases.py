"""Where the measurements run: a PostgreSQL of their own, or a file, filled once and kept for the next time."""

import hashlib
import inspect
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from config import ROOT, Config
from noxchat import create_app
from noxchat.extensions import db
from tests.bench import sample_data
from tests.conftest import Postgres, migrated, settings

CACHE = Path(os.environ.get("NOXCHAT_BENCH_DIR", "/tmp/noxchat-bench"))  # noqa: S108


def say(text: str):
    print(f"· {text}", flush=True)


class BenchDatabase:
    """A database with a crowd in it, and applications on it.

    kind: sqlite or postgresql. count: how many people. more: arguments of crowd's fill functions.
    """

    def __init__(self, kind: str, count: int, *, durable: bool = True, **more):
        recipe = inspect.getsource(sample_data) + "".join(
            p.read_text() for p in sorted((ROOT / "migrations/versions").glob("*.py"))
        )
        digest = hashlib.sha256((recipe + json.dumps(more, sort_keys=True)).encode()).hexdigest()[:10]
        self.kind, self.count = kind, count
        self.folder = CACHE / f"{kind}-{count}-{digest}"
        self.postgres = None
        self.folder.mkdir(parents=True, exist_ok=True)
        made = self.folder / "made"
        if kind == "postgresql":
            self.postgres = Postgres(self.folder / "pg", durable=durable)
            self.uri = self.postgres.uri("crowd")
        else:
            self.uri = f"sqlite:///{self.folder}/crowd.db"
        if not made.exists():
            began = time.monotonic()
            say(f"making {count:,} people in {kind}")
            if self.postgres:
                self.postgres.execute("DROP DATABASE IF EXISTS crowd")
                self.postgres.execute("CREATE DATABASE crowd")
            else:
                Path(self.folder / "crowd.db").unlink(missing_ok=True)
            migrated(self.folder, self.uri)
            app = self.app()
            with app.app_context():
                if self.postgres:
                    sample_data.fill_postgres(self.uri, count, **more)
                else:
                    sample_data.fill_sqlite(db.engine, count, **more)
                sample_data.finish(db.engine)
                db.engine.dispose()
            made.touch()
            say(f"made in {time.monotonic() - began:.0f} s")

    def app(self, **more):
        """Return an application on this database."""
        app = create_app(Config(settings(self.folder, self.uri, **more), debug=False))
        app.logger.handlers.clear()
        return app

    def close(self):
        """Stop what was started; the crowd stays for the next time."""
        if self.postgres:
            self.postgres.stop("fast")


def forget():
    """Remove all crowds."""
    for pid in (*CACHE.glob("*/pg/data/postmaster.pid"), *CACHE.glob("elasticsearch/pid")):
        subprocess.run(["kill", pid.read_text().split()[0]], check=False)
    shutil.rmtree(CACHE, ignore_errors=True)
