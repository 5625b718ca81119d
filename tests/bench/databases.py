"""Databases for the benchmarks: PostgreSQL or SQLite, filled with sample data once and kept for the next run."""

import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
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
    """A database with sample data, and the applications on it.

    kind: sqlite or postgresql. count: how many people. fill_options: arguments of sample_data's fill functions.
    """

    def __init__(self, kind: str, count: int, *, durable: bool = True, **fill_options):
        source = inspect.getsource(sample_data) + "".join(
            path.read_text() for path in sorted((ROOT / "migrations/versions").glob("*.py"))
        )
        digest = hashlib.sha256((source + json.dumps(fill_options, sort_keys=True)).encode()).hexdigest()[:10]
        self.kind, self.count = kind, count
        self.folder = CACHE / f"{kind}-{count}-{digest}"
        self.postgres = None
        self.folder.mkdir(parents=True, exist_ok=True)
        complete = self.folder / "complete"
        if kind == "postgresql":
            self.postgres = Postgres(self.folder / "pg", durable=durable)
            self.uri = self.postgres.uri("bench")
        else:
            self.uri = f"sqlite:///{self.folder}/bench.db"
        if not complete.exists():
            began = time.monotonic()
            say(f"creating {count:,} people in {kind}")
            if self.postgres:
                self.postgres.execute("DROP DATABASE IF EXISTS bench")
                self.postgres.execute("CREATE DATABASE bench")
            else:
                Path(self.folder / "bench.db").unlink(missing_ok=True)
            migrated(self.folder, self.uri)
            app = self.app()
            with app.app_context():
                if self.postgres:
                    sample_data.fill_postgres(self.uri, count, **fill_options)
                else:
                    sample_data.fill_sqlite(db.engine, count, **fill_options)
                sample_data.create_index_and_analyze(db.engine)
                db.engine.dispose()
            complete.touch()
            say(f"created in {time.monotonic() - began:.0f} s")

    def app(self, **overrides):
        """Return an application on this database."""
        app = create_app(Config(settings(self.folder, self.uri, **overrides), debug=False))
        app.logger.handlers.clear()
        return app

    def close(self):
        """Stop PostgreSQL; the data is kept for the next run."""
        if self.postgres:
            self.postgres.stop("fast")


@contextmanager
def in_background(*functions):
    """Call functions in threads during a with statement, whose value is an event that is set at its end.

    Raises what one of them raises.
    """
    done = threading.Event()
    with ThreadPoolExecutor(len(functions)) as executor:
        futures = [executor.submit(function, done) for function in functions]
        try:
            yield done
        finally:
            done.set()
    for future in futures:
        future.result()


@dataclass(frozen=True)
class CommandResult:
    """What a command printed, its exit code, its seconds, and its peak memory in megabytes."""

    output: str
    exit_code: int
    seconds: float
    megabytes: float


# Runs a program and then prints its peak memory in kilobytes. That of a direct child would include the benchmark's own memory,
# since Linux counts what a process had before it executed the program.
RUN_AND_PRINT_PEAK = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


def run_flask(environment: dict[str, str], *arguments: str) -> CommandResult:
    """Run a command of flask. environment: settings, beside those of this process."""
    began = time.monotonic()
    flask = [sys.executable, "-m", "flask", "--app", "main", *arguments]
    process = subprocess.run(
        [sys.executable, "-c", RUN_AND_PRINT_PEAK, *flask],
        env={**os.environ, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    output, kilobytes = process.stdout.rstrip("\n").rpartition("\n")[::2]
    return CommandResult(output, process.returncode, time.monotonic() - began, int(kilobytes) / 1000)


def forget():
    """Delete all sample data."""
    for pid in CACHE.glob("*/pg/data/postmaster.pid"):
        subprocess.run(["kill", pid.read_text().split()[0]], check=False)
    shutil.rmtree(CACHE, ignore_errors=True)
