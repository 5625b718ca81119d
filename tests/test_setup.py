"""The commands in bin/, in a fresh clone, with an empty home and nothing on the PATH but Python and coreutils."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from config import ROOT
from tests.conftest import free_port, wait_until

COREUTILS = "basename cat chmod cp cut date dirname env head id ln ls mkdir mktemp mv pwd readlink rm sort stat tail test touch tr true uname wc".split()


@pytest.fixture(scope="module")
def fresh_clone(tmp_path_factory):
    """A copy of what git would clone, and an environment in which only Python is installed."""
    folder = tmp_path_factory.mktemp("fresh-clone")
    clone, home, path = (folder / name for name in ("clone", "home", "path"))
    for directory in (clone, home, path):
        directory.mkdir()
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, files.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    for name in COREUTILS:
        (path / name).symlink_to(shutil.which(name))
    (path / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST", "VIRTUAL", "npm_"))
    }
    return clone, {**inherited, "HOME": str(home), "PATH": str(path), "CI": ""}


def start_server(clone, environment):
    """Run bin/run until the server is ready; return the process and the file of its output."""
    port = free_port()
    output = clone.parent / f"run-{port}.txt"
    with open(output, "w") as file:
        process = subprocess.Popen(
            [clone / "bin" / "run"],
            env={**environment, "PORT": str(port)},
            cwd="/",
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def is_ready():
        assert process.poll() is None, output.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as response:
                return response.status == 200
        except OSError:
            return False

    wait_until(is_ready, 400)
    return process, output


@pytest.mark.timeout(900)
def test_run_and_test_need_no_other_setup(fresh_clone):
    clone, environment = fresh_clone
    process, output = start_server(clone, environment)
    text = output.read_text()
    assert re.search(r"NoxChat is at http://127.0.0.1:\d+", text) and re.search(r"Demo login: \S+  password: \S+", text)
    assert (clone / "static/vendor/htmx.min.js").is_file() and (clone / "instance/secret_key").is_file()
    assert b"\nzag12wsx\n" in (clone / "vendor/passwords.txt").read_bytes()
    process.send_signal(signal.SIGTERM)
    process.wait(30)

    process, output = start_server(clone, environment)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert "install" in text and "install" not in output.read_text()  # the second time

    result = subprocess.run(
        [clone / "bin" / "test", "tests/test_names.py", "-q"],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


def dockerfile(instruction):
    """Return what follows an instruction of the Dockerfile, of each line with it."""
    return re.findall(rf"^{instruction} (.*)$", (ROOT / "deploy/Dockerfile").read_text(), re.M)


@pytest.mark.timeout(900)
def test_image_is_built_and_runs_without_writing_anything_but_data(fresh_clone, tmp_path):
    """By the steps of the Dockerfile, in a fresh checkout with nothing but Python."""
    clone, environment = fresh_clone
    assert dockerfile("RUN")[1] == "deploy/build.sh" and dockerfile("CMD") == ['["bin/run"]']
    environment = {**environment, "PATH": f"{environment['PATH']}:/bin"}
    built = subprocess.run(
        [clone / "deploy/build.sh"], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    before = {path: path.stat().st_mtime_ns for path in clone.rglob("*") if "__pycache__" not in path.parts}
    settings = dict(pair.split("=") for pair in " ".join(dockerfile("ENV")).split())
    assert settings["HOST"] == "0.0.0.0" and settings["LOG_TO"] == "stdout"
    port, output = free_port(), tmp_path / "output.txt"
    settings |= {"DATA_DIR": str(tmp_path / "data"), "PORT": str(port), "BASE_URL": f"http://127.0.0.1:{port}"}
    check = [os.path.join(environment["PATH"].split(":")[0], "python3"), str(clone / "deploy/check_health.py")]
    assert subprocess.run(check, env={**environment, **settings}, capture_output=True, check=False).returncode == 1
    with open(output, "w") as file:
        process = subprocess.Popen(
            [clone / "bin/run"], env={**environment, **settings}, cwd=clone, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        wait_until(
            lambda: (
                subprocess.run(check, env={**environment, **settings}, capture_output=True, check=False).returncode == 0
            ),
            60,
        )
        wait_until(lambda: "GET /healthz 200" in output.read_text(), 5)
    finally:
        process.terminate()
        process.wait(35)
    after = {path: path.stat().st_mtime_ns for path in clone.rglob("*") if "__pycache__" not in path.parts}
    assert after == before
    # What is whole after the end is the file alone.
    assert {path.name for path in (tmp_path / "data").glob("noxchat.db*")} <= {"noxchat.db", "noxchat.db-start.lock"}


def test_old_python_version_is_refused_with_a_message(tmp_path):
    script = (
        "import sys; sys.version_info = (3, 10, 0); sys.path.insert(0, sys.argv[1]); import _setup; _setup.make_venv()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "bin")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1 and "NoxChat needs Python 3.11 or newer" in result.stderr


def test_generated_files_are_ignored_by_git(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    names = [
        ".venv/x",
        "node_modules/x",
        "static/vendor/x",
        "vendor/x",
        "instance/noxchat.db",
        "logs/noxchat.log",
        ".env",
    ]
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    found = subprocess.run(["git", "check-ignore", *names, "README.md"], cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.split() == names
