"""Password strength, hashing and verification."""

from functools import cache
from threading import BoundedSemaphore

from flask_babel import gettext as _
from flask_babel import ngettext
from werkzeug.security import check_password_hash, generate_password_hash

from noxchat.exceptions import InvalidInput
from noxchat.models import PASSWORD_LENGTH

# A scrypt computation takes 32 MiB and a core for a tenth of a second: more at once would only cost memory.
_slots = BoundedSemaphore(4)
ZXCVBN_LENGTH = 72  # characters that zxcvbn is given: its time grows with the square of the length
# zxcvbn's estimate of the guesses needed, as a power of ten: what online guessing within our limits could reach.
MIN_GUESSES_LOG10 = 4.95
SITE_WORDS = ["noxchat", "nox"]
LONG = 20  # from this length on even one repeated character is nobody's first guess


def check_strength(password: str, *personal: str) -> str:
    """Return a message about the strength of a new password.

    personal: what everybody may know about the person (name, address), and which therefore adds no strength.
    Raises InvalidInput about `password` when it is too short, too long or easily guessed.
    """
    _check_length(password)
    from zxcvbn import zxcvbn  # its word lists take 0.2 s to load, so only when they are needed

    personal_words = [word for text in personal for word in (text, *text.split("@"))]
    result = zxcvbn(password[:ZXCVBN_LENGTH], user_inputs=personal_words + SITE_WORDS)
    if result["guesses_log10"] < MIN_GUESSES_LOG10 and len(password) < LONG:
        text = _("This password is among the first that get guessed. A short sentence of your own works well.")
        raise InvalidInput(text, "password")
    return {
        0: _("Your password is weak: a longer one would be better."),
        1: _("Your password is weak: a longer one would be better."),
        2: _("Your password is fair."),
        3: _("Your password is good."),
        4: _("Your password is strong."),
    }[result["score"]]


def _check_length(password: str):
    minimum, maximum = PASSWORD_LENGTH
    if len(password) < minimum:
        text = ngettext("Write at least one character.", "Write at least %(num)s characters.", minimum)
        raise InvalidInput(text, "password")
    if len(password) > maximum:
        text = ngettext("Write at most one character.", "Write at most %(num)s characters.", maximum)
        raise InvalidInput(text, "password")


def hash_password(password: str) -> str:
    """Return the salted scrypt hash that is stored."""
    with _slots:
        return generate_password_hash(password)


def verify_password(password_hash: str | None, password: str) -> bool:
    """Tell whether a password matches a hash.

    password_hash: None where there is no such account; that takes the same time.
    """
    if len(password) > PASSWORD_LENGTH[1]:
        return False
    with _slots:
        return check_password_hash(password_hash or _dummy_hash(), password) and password_hash is not None


@cache
def _dummy_hash() -> str:
    return generate_password_hash("nobody has this password")


def warm_up():
    """Compute the dummy hash, so that the first login does not wait for it."""
    _dummy_hash()
