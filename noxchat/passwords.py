"""Passwords: which ones are taken, how strong they are in words, and how they are kept and compared."""

from functools import cache
from threading import BoundedSemaphore

from flask_babel import gettext as _
from flask_babel import ngettext
from werkzeug.security import check_password_hash, generate_password_hash

from noxchat.models import PASSWORD_LENGTH
from noxchat.refusal import Invalid

# A scrypt check takes 32 MiB and a core for a tenth of a second: more at once would only cost memory.
_turns = BoundedSemaphore(4)
ZXCVBN_READS = 72  # its time grows with the square of the length
# zxcvbn's estimate of the tries that it takes, as a power of ten: what online guessing under our limits could reach.
FEWEST_GUESSES = 4.95
SITE = ["noxchat", "nox"]
LONG = 20  # from here on, one character repeated is still nobody's first guess


def check(password: str, *known: str) -> str:
    """Return a new password's strength in words.

    known: what everybody could know about the person (name, address), and so no password.
    Raises Invalid when it is too short, too long or among the first that anybody would try.
    """
    least, most = PASSWORD_LENGTH
    if len(password) < least:
        raise Invalid(ngettext("Write at least one character.", "Write at least %(num)s characters.", least))
    if len(password) > most:
        raise Invalid(ngettext("Write at most one character.", "Write at most %(num)s characters.", most))
    from zxcvbn import zxcvbn  # its word lists take 0.2 s to load, which only newcomers need to wait for

    result = zxcvbn(
        password[:ZXCVBN_READS], user_inputs=[word for text in known for word in (text, *text.split("@"))] + SITE
    )
    if result["guesses_log10"] < FEWEST_GUESSES and len(password) < LONG:
        raise Invalid(_("This password is among the first that get guessed. A short sentence of your own works well."))
    return {
        0: _("Your password is weak: a longer one would be better."),
        1: _("Your password is weak: a longer one would be better."),
        2: _("Your password is fair."),
        3: _("Your password is good."),
        4: _("Your password is strong."),
    }[result["score"]]


def hashed(password: str) -> str:
    """Return the salted scrypt hash under which a password is kept."""
    with _turns:
        return generate_password_hash(password)


def matches(password_hash: str | None, password: str) -> bool:
    """Tell whether the password is the one that was hashed.

    password_hash: None where there is no such account; the answer then takes the same time.
    """
    if len(password) > PASSWORD_LENGTH[1]:
        return False
    with _turns:
        return check_password_hash(password_hash or _nobodys_hash(), password) and password_hash is not None


@cache
def _nobodys_hash() -> str:
    return generate_password_hash("nobody has this password")


def prepare():
    """Compute what the first comparison would otherwise have to wait for."""
    _nobodys_hash()
