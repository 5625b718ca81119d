"""How a rule refuses: an exception for each kind of answer, with a message for the person who asked."""


class RuleError(Exception):
    """A rule refused, and nothing was changed. The message is shown to the person."""


class NotFound(RuleError):
    """Who or what it is about does not exist, or may not be seen by this person: both are answered alike (404)."""


class NotAllowed(RuleError):
    """The action is not allowed for this person, whatever the state (403)."""


class Conflict(RuleError):
    """The action is not allowed in the present state (409)."""


class InvalidInput(RuleError):
    """A value cannot be accepted (422).

    field: the name of the form field that it is about, or None. suggestions: values that could be accepted.
    """

    def __init__(self, message, field=None, suggestions=()):
        super().__init__(message)
        self.field, self.suggestions = field, suggestions


class RateLimited(RuleError):
    """Too many attempts (429).

    retry_after: seconds to wait before the next one.
    """

    def __init__(self, message, retry_after):
        super().__init__(message)
        self.retry_after = retry_after
