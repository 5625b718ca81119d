"""The subcommands of the `flask` command but those of search/ and hosting/. Run as `flask --app main …`."""

import secrets
import smtplib

import click
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext
from sqlalchemy import func, select

from noxchat import accounts, conversations, email_addresses, invitations, passwords, tokens
from noxchat import demo as demo_data
from noxchat.audit import log_command
from noxchat.database import begin_write
from noxchat.exceptions import Conflict, InvalidInput
from noxchat.extensions import db
from noxchat.hosting.cli import group as backup_group
from noxchat.hosting.cli import move_to, restore_backup
from noxchat.mail import smtp
from noxchat.mail.kinds import absolute_url
from noxchat.mail.worker import write_message
from noxchat.models import Profile, Session, User
from noxchat.names import clean_email, clean_username
from noxchat.search.cli import group as search_group

chat = AppGroup("chat", help="What is stored of conversations.")
mail = AppGroup("mail", help="Try the mail server out.")
users = AppGroup("users", help="List, create, confirm and delete accounts; create a link to choose a new password.")


def init_app(app: Flask):
    """Add the commands to the `flask` command."""
    for command in (users, chat, mail, invite, demo, doctor, search_group, backup_group, restore_backup, move_to):
        app.cli.add_command(command)


@click.command()
@with_appcontext
@click.option("--people", "count", default=60, type=click.IntRange(2, 60), show_default=True, help="How many people.")
def demo(count):
    """Fill an empty database with demo data."""
    login = demo_data.fill(count)
    if login is None:
        raise click.ClickException("There are accounts already; demo data is for an empty database.")
    log_command(f"{count} people")
    click.echo(f"Created {count} people. Log in as {login.identifier} with the password {login.password}")


@users.command("list")
def list_users():
    """Print every account: id, Public ID, name, e-mail, last seen."""
    used_at = select(func.max(Session.last_used_at)).where(Session.user_id == User.id).scalar_subquery()
    rows = db.session.execute(
        select(
            User.id, Profile.public_id, User.username, User.email, User.email_confirmed_at, User.last_seen_at, used_at
        )
        .join(Profile, Profile.user_id == User.id)
        .order_by(User.id)
    )
    for user_id, public_id, username, email, confirmed_at, *times in rows:
        email += "" if confirmed_at else " (not confirmed)"
        # A session begins before its person is seen for the first time.
        last_seen = f"{max(filter(None, times)):%Y-%m-%d %H:%M}" if any(times) else "never"
        click.echo(f"{user_id}\t@{public_id}\t{username}\t{email}\t{last_seen}")
    click.echo(f"{db.session.scalar(select(func.count()).select_from(User))} accounts", err=True)


@users.command("create")
@click.argument("username")
@click.argument("email")
@click.option("--password", help="Without it, a random one is created and printed.")
def create_user(username, email, password):
    """Create an account."""
    chosen = password or secrets.token_urlsafe(12)
    try:
        username, email = clean_username(username), clean_email(email)
        passwords.check_strength(chosen, username, email)
        begin_write(db.session)
        user = accounts.create(username, email, passwords.hash_password(chosen))
    except InvalidInput as error:
        raise click.ClickException(str(error)) from None
    if tokens.is_confirmed_by_another(user, email):
        raise click.ClickException("This address belongs to another account.")
    db.session.commit()
    log_command(f"user {user.id}")
    click.echo(f"Created @{user.public_id} for {username}." + ("" if password else f" Password: {chosen}"))


def check_key():
    """Exit when links that are made here would not work on the server, which has another key."""
    if current_app.config["warnings"]:
        raise click.ClickException(current_app.config["warnings"][0])


def find(identifier: str) -> User:
    """Return an account by e-mail address or Public ID; exits when there is none."""
    user = accounts.find_by_identifier(identifier.removeprefix("@"))
    if user is None:
        raise click.ClickException(f"There is no account {identifier}: give an e-mail address or a Public ID.")
    return user


@users.command("confirm")
@click.argument("account")
def confirm_email(account):
    """Confirm the e-mail address of ACCOUNT (e-mail or Public ID) without an e-mail, say if there is no mail server."""
    begin_write(db.session)
    user = accounts.lock_account(find(account))
    email = user.unconfirmed_email
    if email is None:
        raise click.ClickException(f"{user.email} is confirmed already.")
    if not email_addresses.confirm(user):
        raise click.ClickException(f"{email} belongs to another account.")
    db.session.commit()
    log_command(f"user {user.id}")
    click.echo(f"{email} is confirmed for @{user.public_id}.")


@users.command("reset-link")
@click.argument("account")
def reset_link(account):
    """Print a link with which ACCOUNT (e-mail or Public ID) can choose a new password, once."""
    check_key()
    begin_write(db.session)
    user = accounts.lock_account(find(account))
    tokens.renew_reset_nonce(user)
    db.session.commit()
    log_command(f"user {user.id}")
    click.echo(absolute_url("auth.reset_password", token=tokens.create_reset_token(user)))
    click.echo(f"It works once, for {current_app.config['RESET_MINUTES']} minutes.", err=True)


@users.command("delete")
@click.argument("account")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete_user(account, yes):
    """Delete ACCOUNT (e-mail or Public ID) and everything that belongs to it."""
    user = find(account)
    if not yes:
        click.confirm(f"Delete {user.username} (@{user.public_id}, {user.email}) for good?", abort=True)
    begin_write(db.session)
    accounts.delete_account(user)
    db.session.commit()
    log_command(f"user {user.id}")
    click.echo(f"Deleted {user.username}.")


@chat.command("stats")
def chat_stats():
    """Print how many conversations, members and messages there are. Reads all of them."""
    stats = conversations.count_all()
    for label, number in stats.items():
        click.echo(f"{label:<40}{number:>12,}")


@click.command()
@with_appcontext
@click.option("--from", "account", help="Whose friend everybody becomes: e-mail or Public ID.")
@click.option("--uses", default=1, type=click.IntRange(1, invitations.MAX_USES), show_default=True)
@click.option("--days", default=7, type=click.IntRange(1, invitations.MAX_DAYS), show_default=True)
def invite(account, uses, days):
    """Print a link with which people can create an account, also where REGISTRATION=invitation."""
    check_key()
    begin_write(db.session)
    inviter = accounts.lock_account(find(account)) if account else None
    try:
        invitation = invitations.create(inviter, uses, days)
    except Conflict as error:
        raise click.ClickException(str(error)) from None
    db.session.commit()
    log_command(f"invitation {invitation.id}, {uses} times")
    click.echo(absolute_url("friends.invitation", token=tokens.create_invitation_token(invitation)))
    click.echo(f"It works {uses} times, until {invitation.expires_at:%Y-%m-%d %H:%M} UTC.", err=True)


@click.command()
@with_appcontext
@click.option(
    "--outside", is_flag=True, help="Fetch BASE_URL as a visitor does, through the proxy. Needs a running server."
)
def doctor(outside):
    """Check what is configured and what answers. Exits with 1 if something is wrong."""
    from noxchat import doctor as checks
    from noxchat.hosting import outside as outside_checks

    wrong = 0
    for name, check in outside_checks.run_checks() if outside else checks.run_checks():
        label = "note " if check.is_warning else {True: "ok   ", False: "WRONG", None: "-    "}[check.ok]
        click.echo(f"{label}  {name}: {check.message}")
        wrong += check.ok is False and not check.is_warning
    click.echo(f"{wrong} problems." if wrong else "No problems.")
    raise SystemExit(1 if wrong else 0)


@mail.command("test")
@click.argument("address")
def test_mail(address):
    """Send an e-mail to ADDRESS, and tell each step."""
    config = current_app.config
    if not config["MAIL_SERVER"]:
        raise click.ClickException("MAIL_SERVER is not set: e-mails are written to files.")
    text = f"NoxChat at {config['BASE_URL']} can send e-mails.\n"
    step, message = "", write_message("Test of NoxChat", address, text, f"<p>{text}</p>")
    try:
        for step in smtp.delivery_steps(config, message):
            click.echo(f"{step} …")
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        raise click.ClickException(f"{step}: {smtp.describe_error(error, config, step)}") from None
    log_command("sent")
    click.echo(f"The mail server has accepted it: look at the inbox of {address}.")
