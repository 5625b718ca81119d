"""The version is the same wherever it stands."""

import re
import tomllib

from config import ROOT
from noxchat.version import VERSION


def test_version_is_that_of_the_changelog_and_of_pyproject():
    newest = re.search(r"^## (\S+) ·", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert VERSION == newest and project["version"] == f"{VERSION}.0"
