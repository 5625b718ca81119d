"""Password strength, hashing and verification."""

import mmap
from bisect import bisect_left
from functools import cache
from threading import BoundedSemaphore, Lock

from flask import current_app
from flask_babel import gettext as _
from flask_babel import ngettext
from werkzeug.security import check_password_hash, generate_password_hash

from noxchat.characters import category, normalize
from noxchat.exceptions import InvalidInput
from noxchat.models import PASSWORD_LENGTH

# A scrypt computation takes 32 MiB and a core for a tenth of a second: more at once would only cost memory.
_slots = BoundedSemaphore(4)
_dummy_lock = Lock()
# zxcvbn's estimate of the guesses needed, as a power of ten: what online guessing within our limits could reach.
MIN_GUESSES_LOG10 = 4.95
SITE_WORDS = ["noxchat", "nox"]
LONG = 20  # from this length on even one repeated character is nobody's first guess
# Characters that zxcvbn is given. Its time grows fast: 72 signs that may stand for letters took it 3 seconds.
ZXCVBN_LENGTH = LONG

# What people put around a common password to make it look like a new one. More than that would be hard to guess by
# itself: at the end up to so many digits, such as a date; at both ends together up to so many digits and signs.
MAX_DIGITS, MAX_AFFIXES = 8, 5
MIN_WORD_LENGTH = 4  # shorter words are on the list only by chance
# The keys of the Russian layout, as they are labelled in the Latin one: somebody who types пароль presses gfhjkm.
RUSSIAN_KEYS = str.maketrans("йцукенгшщзхъфывапролджэячсмитьбюё", "qwertyuiop[]asdfghjkl;'zxcvbnm,.`")


def check_strength(password: str, *personal: str) -> str:
    """Return a message about the strength of a new password.

    personal: what everybody may know about the person (name, address), and which therefore adds no strength.
    Raises InvalidInput about `password` when it is too short, too long, common or easily guessed.
    """
    _check_length(password)
    password = prepare(password)  # what counts is what is hashed, however many code points a keyboard makes of it
    if is_common(password):
        raise _guessed_first()
    from zxcvbn import zxcvbn  # its word lists take 0.2 s to load, so only when they are needed

    personal_words = [word for text in personal for word in (text, *text.split("@"))]
    result = zxcvbn(password[:ZXCVBN_LENGTH], user_inputs=personal_words + SITE_WORDS)
    if result["guesses_log10"] < MIN_GUESSES_LOG10 and len(password) < LONG:
        raise _guessed_first()
    return {
        0: _("Your password is weak: a longer one would be better."),
        1: _("Your password is weak: a longer one would be better."),
        2: _("Your password is fair."),
        3: _("Your password is good."),
        4: _("Your password is strong."),
    }[result["score"]]


def _guessed_first() -> InvalidInput:
    text = _("This password is too easy to guess. A short sentence of your own works well.")
    return InvalidInput(text, "password")


def is_common(password: str) -> bool:
    """Tell whether a password is on the list of common ones, in any case, typed in the Latin or the Russian layout.

    So is one that differs from those only by digits and signs around it. Without the list none is.
    """
    whole = normalize("NFKC", password).lower()
    half = whole[: len(whole) // 2]
    texts = {whole, half} if half * 2 == whole else {whole}
    digits = "".join(char for char in whole if category(char) == "Nd")
    affixes = "".join(char for char in whole if category(char)[0] != "L")
    for word, most in ((whole.rstrip(digits), MAX_DIGITS), (whole.strip(affixes), MAX_AFFIXES)):
        if len(word) >= MIN_WORD_LENGTH and len(whole) - len(word) <= most:
            texts.add(word)
    texts |= {text.translate(RUSSIAN_KEYS) for text in texts}
    try:
        with (
            open(current_app.config["PASSWORD_LIST"], "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as lines,
        ):
            return any(_contains(lines, text.encode(errors="replace")) for text in texts)
    except (OSError, ValueError):  # there is no list, or it is empty: `flask doctor` says so
        return False


def _contains(lines: mmap.mmap, line: bytes) -> bool:
    """Tell whether a file of sorted lines contains this one, without reading more of it than a binary search needs."""

    def line_at(offset: int) -> bytes:
        return lines[lines.rfind(b"\n", 0, offset) + 1 : lines.find(b"\n", offset)]

    offset = bisect_left(range(len(lines)), line, key=line_at)
    return offset < len(lines) and line_at(offset) == line


def _check_length(password: str):
    minimum, maximum = PASSWORD_LENGTH
    if len(password) < minimum:
        text = ngettext("Write at least one character.", "Write at least %(num)s characters.", minimum)
        raise InvalidInput(text, "password")
    if len(password) > maximum:
        text = ngettext("Write at most one character.", "Write at most %(num)s characters.", maximum)
        raise InvalidInput(text, "password")


def prepare(password: str) -> str:
    """Return a password as it is hashed (OpaqueString of RFC 8265): in NFC, with every kind of space as U+0020.

    Keyboards differ in how they compose letters (é is one code point or two), and people cannot see that.
    """
    spaces = "".join(" " if category(char) == "Zs" else char for char in password)
    return normalize("NFC", spaces)


def hash_password(password: str) -> str:
    """Return the salted scrypt hash that is stored."""
    with _slots:
        return generate_password_hash(prepare(password))


def verify_password(password_hash: str | None, password: str) -> bool:
    """Tell whether a password matches a hash.

    password_hash: None where there is no such account; that takes the same time.
    """
    if len(password) > PASSWORD_LENGTH[1]:
        return False
    # Releases before 1.6 hashed what was typed. Whether there is a second form depends on what is typed alone, so the
    # time that a wrong password takes says nothing about the account; for nearly all passwords there is none.
    forms = dict.fromkeys((prepare(password), password))
    with _dummy_lock:  # the first logins would each compute it
        stored = password_hash or _dummy_hash()
    with _slots:
        return any(check_password_hash(stored, form) for form in forms) and password_hash is not None


@cache
def _dummy_hash() -> str:
    return generate_password_hash("nobody has this password")


def warm_up():
    """Compute the dummy hash, so that the first login does not wait for it."""
    with _dummy_lock:
        _dummy_hash()
