"""What somebody who hosts NoxChat does with a whole installation: back it up, restore it, move it to another database."""


class HostingError(Exception):
    """Something cannot be done. str(): a sentence that says why, and what to do."""
