#!/bin/sh
# What an image needs, in a fresh checkout: packages, front-end files, compiled translations, bytecode. Nothing is left to
# be installed or written by the container, which may run as another user.
set -eu
cd "$(dirname "$0")/.."
RATELIMIT_STORAGE_URI=redis://unused bin/setup
.venv/bin/python - <<'PYTHON'
import compileall
from pathlib import Path
from noxchat.web.i18n import compile_translations

compile_translations(Path("translations"))
compileall.compile_dir("noxchat", quiet=1)
PYTHON
rm -rf node_modules
