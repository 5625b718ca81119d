"""Flask-Mail with a timeout: its own connection waits for ever for a server that accepts and then says nothing."""

import contextlib
import smtplib

import flask_mail
from flask import current_app

TIMEOUT_SECONDS = 5


class Connection(flask_mail.Connection):
    def __exit__(self, *_error):
        """Close the connection. If the server closes it first, it has accepted the e-mail all the same."""
        if self.host is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                self.host.quit()

    def configure_host(self):
        """Connect as Flask-Mail does, with a timeout for each step. Raises OSError, smtplib.SMTPException."""
        smtp = smtplib.SMTP_SSL if self.mail.use_ssl else smtplib.SMTP
        host = smtp(self.mail.server, self.mail.port, timeout=TIMEOUT_SECONDS)
        if self.mail.use_tls:
            host.starttls()
        if self.mail.username and self.mail.password:
            host.login(self.mail.username, self.mail.password)
        return host


class Mail(flask_mail.Mail):
    def connect(self):
        """Return a connection to the configured server, to be used in a with statement."""
        return Connection(current_app.extensions["mail"])
