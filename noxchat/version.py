"""The version of this release, as in CHANGELOG.md and pyproject.toml."""

VERSION = "1.12"
