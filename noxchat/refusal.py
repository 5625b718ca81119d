"""How a rule says no: in words for the person, whom the routes then tell."""


class Refused(Exception):  # noqa: N818
    """A rule said no; nothing was changed. Its text is for the person who asked."""


class Invalid(Refused):
    """What was typed into a field cannot be taken as it is.

    field: the form field that it is about, where the rule knows.
    """

    def __init__(self, message, field=None):
        super().__init__(message)
        self.field = field


class TooMany(Refused):
    """Too many tries.

    seconds: how long to wait before the next one.
    """

    def __init__(self, message, seconds):
        super().__init__(message)
        self.seconds = seconds


class Gone(Refused):
    """Whom or what it is about is not there any more, or not for this person to see: to them that is the same."""
