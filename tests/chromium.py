"""Chromium or Chrome on this machine. Imported by bin/test before anything is installed."""

import shutil

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")  # the fastest first


def find_chromium():
    """Return the path of Chromium or Chrome; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)
