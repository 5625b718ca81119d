"""Lines of the log about what was done by a command, and by whom."""

import getpass
import logging
import os

import click

log = logging.getLogger("noxchat.command")


def log_command(detail: str):
    """Log the command that is running. detail: to what or whom it did something; no address, no secret."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = str(os.getuid())
    sudo_user = os.environ.get("SUDO_USER")
    by = f"{user} ({sudo_user} by sudo)" if sudo_user else user
    command = " ".join(click.get_current_context().command_path.split()[1:])
    log.info("command: %s by %s: %s", command, by, detail)
