"""The commands backup, restore and move-to. What they do is imported by them alone: it takes 10 MB."""

import sys
import time
from pathlib import Path

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext

from config import Config, ConfigError
from noxchat.audit import log_command
from noxchat.hosting import HostingError, translated_errors


class GroupWithDefault(AppGroup):
    """A group whose first command can be left out: `flask backup FILE` is `flask backup create FILE`."""

    def parse_args(self, ctx, args):
        """Add the name of the default command."""
        is_named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if is_named else ["create", *args])


class Progress:
    """Shows on a terminal what is being done; where there is none, as in cron, nothing."""

    def __init__(self):
        self.began = time.monotonic()

    def __call__(self, text: str):
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{text} …", err=True, nl=False)

    def __enter__(self):
        return self

    def __exit__(self, _kind, error, _traceback):
        """Clear the line, and have an error end the command with its sentence."""
        if sys.stderr.isatty():
            click.echo("\r\x1b[K", err=True, nl=False)
        if isinstance(error, HostingError | ConfigError):
            raise click.ClickException(str(error)) from None

    @property
    def seconds(self) -> str:
        """How long everything has taken."""
        return f"{time.monotonic() - self.began:.0f} s"


group = GroupWithDefault("backup", help="Back everything up to one file, or verify one.")


@group.command("create")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--without-key", is_flag=True, help="Leave the secret key out. After a restore everybody has to log in.")
@click.option("--keep", type=click.IntRange(min=1), help="Delete all backups in the same folder but so many.")
def create(file, without_key, keep):
    """Back up database, pictures and key to FILE, while people write. FILE may be a folder."""
    from noxchat.hosting import backup

    path = (file or backup.default_path()).absolute()
    with Progress() as progress:
        made = backup.create(path, with_key=not without_key, progress=progress)
        with translated_errors("Old backups were not deleted"):
            deleted = backup.remove_old(made.path.parent, keep) if keep else 0
    log_command(str(made.path))
    size = f"{made.path.stat().st_size / 1_000_000:,.1f} MB"
    content = f"{made.people:,} people and {made.messages:,} messages"
    old = f" Deleted {deleted} older ones." if deleted else ""
    click.echo(f"Backed up {content} to {made.path} ({size}, {progress.seconds}).{old}")


@group.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
def verify(file):
    """Restore FILE to a temporary folder or database, and compare all rows and pictures with what it should have."""
    from noxchat.hosting import backup

    with Progress() as progress:
        manifest = backup.verify(file, progress)
    rows, pictures = sum(count for count, _checksum in manifest.tables.values()), manifest.avatars[0]
    content = f"{rows:,} rows in {len(manifest.tables)} tables and {pictures:,} pictures"
    click.echo(f"{file} is whole: NoxChat {manifest.version} of {manifest.created_at}, {content} ({progress.seconds}).")


@click.command("restore")
@with_appcontext
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Move aside what is there.")
def restore_backup(file, replace):
    """Restore the backup FILE where there is no data yet. One of an older version is brought up to date."""
    from noxchat.hosting import restore

    with Progress() as progress:
        manifest, aside = restore.restore(file, replace=replace, progress=progress)
    log_command(str(file))
    people = manifest.tables.get("users", [0])[0]
    click.echo(f"Restored {people:,} people from the backup of {manifest.created_at} ({progress.seconds}).")
    if aside:
        also = f", its tables in the schema {aside[0].name}" if manifest.database == "postgresql" else ""
        click.echo(f"What was here before is in {', '.join(map(str, aside))}{also}.")
    if restore.KEY not in manifest.files:
        click.echo("The backup has no key: everybody has to log in, and links in e-mails no longer work.")
    elif not restore.has_key_of_backup():
        click.echo("SECRET_KEY is set to another key than the backup has: everybody has to log in.")


@click.command("move-to")
@with_appcontext
@click.argument("uri")
def move_to(uri):
    """Copy everything to the empty database URI: postgresql://user:password@host/name, or sqlite:///path.

    The database that is used now is only read, and stays as it is. With - as URI, it is read from standard input, since
    other users of the machine can see the arguments of commands.
    """
    from noxchat.hosting import transfer

    with Progress() as progress:
        uri = sys.stdin.readline() if uri == "-" else uri
        target = Config({"SQLALCHEMY_DATABASE_URI": uri}, debug=True).SQLALCHEMY_DATABASE_URI
        rows = transfer.copy_to(target, progress)
    log_command(target.partition(":")[0])
    click.echo(
        f"Copied {sum(rows.values()):,} rows of {len(rows)} tables, and compared all of them ({progress.seconds})."
    )
    click.echo("To use the new database, set SQLALCHEMY_DATABASE_URI to it, and start NoxChat.")
    if current_app.extensions["indexer"]:
        click.echo("The index of Elasticsearch is built anew after the start.")
