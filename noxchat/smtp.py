"""Flask-Mail with a time limit. Its own connection waits for ever for a server that accepts and then says nothing."""

import contextlib
import smtplib

import flask_mail
from flask import current_app

SECONDS = 5


class Connection(flask_mail.Connection):
    def __exit__(self, *_error):
        """Say goodbye. A server that hangs up first has the letter all the same: it is not to be sent again."""
        with contextlib.suppress(OSError, smtplib.SMTPException):
            self.host.quit()

    def configure_host(self):
        """Connect as Flask-Mail does, giving up after SECONDS at each step. Raises OSError, smtplib.SMTPException."""
        smtp = smtplib.SMTP_SSL if self.mail.use_ssl else smtplib.SMTP
        host = smtp(self.mail.server, self.mail.port, timeout=SECONDS)
        if self.mail.use_tls:
            host.starttls()
        if self.mail.username and self.mail.password:
            host.login(self.mail.username, self.mail.password)
        return host


class Mail(flask_mail.Mail):
    def connect(self):
        """Return a connection to the configured server, to be used in a with statement."""
        return Connection(current_app.extensions["mail"])
