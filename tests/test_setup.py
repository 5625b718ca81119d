"""A newcomer's machine: a fresh copy, an empty home, and nothing on the PATH but Python and coreutils."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from config import ROOT
from tests.conftest import free_port, wait_until

COREUTILS = "basename cat chmod cp cut date dirname env head id ln ls mkdir mktemp mv pwd readlink rm sort stat tail test touch tr true uname wc".split()


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """A copy of what git would clone, and the environment of somebody who has only Python."""
    folder = tmp_path_factory.mktemp("newcomer")
    clone, home, path = (folder / name for name in ("clone", "home", "path"))
    for made in (clone, home, path):
        made.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    for name in COREUTILS:
        (path / name).symlink_to(shutil.which(name))
    (path / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST", "VIRTUAL", "npm_"))
    }
    return clone, {**kept, "HOME": str(home), "PATH": str(path), "CI": ""}


def start(clone, environment):
    """Run bin/run until it answers; return the process, its output's file, and the seconds that it took."""
    port = free_port()
    output = clone.parent / f"run-{port}.txt"
    with open(output, "w") as file:
        began = time.monotonic()
        process = subprocess.Popen(
            [clone / "bin" / "run"],
            env={**environment, "PORT": str(port)},
            cwd="/",
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def answers():
        assert process.poll() is None, output.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as response:
                return response.status == 200
        except OSError:
            return False

    wait_until(answers, 400)
    return process, output, time.monotonic() - began


@pytest.mark.timeout(900)
def test_two_commands_do_everything(newcomer):
    clone, environment = newcomer
    process, output, _seconds = start(clone, environment)
    text = output.read_text()
    assert re.search(r"NoxChat is at http://127.0.0.1:\d+", text) and re.search(r"Demo login: \S+  password: \S+", text)
    assert (clone / "static/vendor/htmx.min.js").is_file() and (clone / "instance/secret_key").is_file()
    process.send_signal(signal.SIGTERM)
    process.wait(30)

    process, _output, seconds = start(clone, environment)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    print(f"second start: {seconds:.1f} s")
    assert seconds < 3

    tested = subprocess.run(
        [clone / "bin" / "test", "tests/test_names.py", "-q"],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert " passed" in tested.stdout


def test_an_old_python_is_told_in_a_sentence(tmp_path):
    script = (
        "import sys; sys.version_info = (3, 10, 0); sys.path.insert(0, sys.argv[1]); import _setup; _setup.make_venv()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "bin")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "NoxChat needs Python 3.11 or newer" in done.stderr


def test_git_would_see_nothing_that_set_up_makes():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {".venv/", "node_modules/", "static/vendor/", "instance/", "logs/", ".env"} <= set(ignored)
