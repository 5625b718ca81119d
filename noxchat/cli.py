"""The `flask` command's own subcommands: demo, users, search, doctor. Run as `flask --app main …`."""

import secrets

import click
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext
from sqlalchemy import func, select

from noxchat import health, mailer, passwords, people, resets
from noxchat.database import start_writing
from noxchat.extensions import db
from noxchat.main import avatar_utils
from noxchat.models import Profile, User
from noxchat.names import clean_email, clean_username
from noxchat.refusal import Invalid
from noxchat.search import commands

users = AppGroup("users", help="List, create and delete accounts; make a link to get back into one.")


def init_app(app: Flask):
    """Add the commands to the `flask` command."""
    app.cli.add_command(users)
    app.cli.add_command(demo)
    app.cli.add_command(doctor)
    app.cli.add_command(commands.group)


@click.command()
@with_appcontext
@click.option(
    "--people", "count", default=60, type=click.IntRange(2, 60), show_default=True, help="How many people to make."
)
def demo(count):
    """Fill an empty database with people to look at."""
    from noxchat import demo as scenery

    login = scenery.fill(count)
    if login is None:
        raise click.ClickException("There are people here already; demo data is for an empty database.")
    click.echo(f"Made {count} people. Log in as {login.identifier} with the password {login.password}")


@users.command("list")
def list_users():
    """Print every account: number, Public ID, name, e-mail, last seen."""
    rows = db.session.execute(
        select(User.id, Profile.public_id, User.username, User.email, User.last_seen_at)
        .join(Profile, Profile.user_id == User.id)
        .order_by(User.id)
    )
    for number, public_id, username, email, seen in rows:
        click.echo(f"{number}\t@{public_id}\t{username}\t{email}\t{seen:%Y-%m-%d %H:%M}" if seen else
                   f"{number}\t@{public_id}\t{username}\t{email}\tnever")  # fmt: skip
    click.echo(f"{db.session.scalar(select(func.count()).select_from(User))} accounts", err=True)


@users.command("create")
@click.argument("username")
@click.argument("email")
@click.option("--password", help="Without it, a random one is made and printed.")
def create_user(username, email, password):
    """Make an account."""
    chosen = password or secrets.token_urlsafe(12)
    try:
        username, email = clean_username(username), clean_email(email)
        passwords.check(chosen, username, email)
        start_writing(db.session)
        user = people.register(username, email, passwords.hashed(chosen))
    except Invalid as error:
        raise click.ClickException(str(error)) from None
    if user is None:
        raise click.ClickException("This address belongs to an account already.")
    db.session.commit()
    click.echo(f"Made @{user.profile.public_id} for {username}." + ("" if password else f" Password: {chosen}"))


def find(who: str) -> User:
    """Return an account by e-mail address or Public ID; ends the command when there is none."""
    user = people.find_by_identifier(who.removeprefix("@"))
    if user is None:
        raise click.ClickException(f"Nobody here is {who}: give an e-mail address or a Public ID.")
    return user


@users.command("reset-link")
@click.argument("who")
def reset_link(who):
    """Print a link with which WHO (e-mail or Public ID) can choose a new password, once."""
    key = health.secret_key(current_app.config)
    if key.ok is False:
        raise click.ClickException(key.words)
    start_writing(db.session)
    user = people.locked(find(who))
    resets.ask(user)
    db.session.commit()
    click.echo(mailer.address("auth.reset_password", token=resets.token(user)))
    click.echo(f"It works once, for {current_app.config['RESET_MINUTES']} minutes.", err=True)


@users.command("delete")
@click.argument("who")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete_user(who, yes):
    """Delete the account of WHO (e-mail or Public ID) with everything in it."""
    user = find(who)
    if not yes:
        click.confirm(f"Delete {user.username} (@{user.profile.public_id}, {user.email}) for good?", abort=True)
    avatar_utils.remove_account(user)
    click.echo(f"Deleted {user.username}.")


@click.command()
@with_appcontext
def doctor():
    """Say what is configured, what answers, and what is wrong. Ends with 1 if anything is."""
    config = current_app.config
    findings = [
        ("Secret key", health.secret_key(config)),
        ("Address", health.base_url(config)),
        ("Data folder", health.folder(config["DATA_DIR"])),
        ("Log folder", health.folder(config["LOG_DIR"])),
        ("Front-end files", health.front_end()),
        ("Translations", health.translations()),
        ("Database", database := health.database()),
    ]
    if database.ok:
        findings += [
            ("Database locale", health.collation()),
            ("Search", health.search()),
            ("Elasticsearch", health.elasticsearch(thorough=True)),
            ("Outbox", health.outbox()),
        ]
    findings += [
        ("Mail server", health.mail_server(config)),
        ("Limits", health.limits_store()),
    ]
    for name, finding in findings:
        label = "note " if finding.is_mild else {True: "ok   ", False: "WRONG", None: "-    "}[finding.ok]
        click.echo(f"{label}  {name}: {finding.words}")
    wrong = sum(finding.ok is False and not finding.is_mild for _name, finding in findings)
    click.echo("Nothing is wrong." if not wrong else f"{wrong} to mend.")
    raise SystemExit(1 if wrong else 0)
