"""Connections to the mail server: the certificate is checked, and each step has a time limit.

Flask-Mail's own connection accepts every certificate, and waits for ever for a server that says nothing.
"""

import contextlib
import smtplib
import ssl
from collections.abc import Iterator
from email.message import EmailMessage
from email.utils import parseaddr

import flask_mail
from flask import current_app

TIMEOUT_SECONDS = 5

# What OpenSSL's x509_vfy.h calls X509_V_ERR_…
NOT_YET_VALID, EXPIRED, OTHER_HOST_NAME, OTHER_ADDRESS = 9, 10, 62, 64


class StarttlsMissing(smtplib.SMTPNotSupportedError):
    """The mail server offers no STARTTLS, which the settings require."""


def connect(config, timeout: float) -> smtplib.SMTP:
    """Connect to the mail server, up to where a login or an e-mail can follow.

    config: a mapping with the MAIL_… settings. timeout: of each step, in seconds.
    Raises OSError (ssl.SSLCertVerificationError if the certificate is refused), smtplib.SMTPException, UnicodeError.
    """
    server, port = config["MAIL_SERVER"], config["MAIL_PORT"]
    if config["MAIL_USE_SSL"]:
        host: smtplib.SMTP = smtplib.SMTP_SSL(server, port, timeout=timeout, context=_tls_context(config))
    else:
        host = smtplib.SMTP(server, port, timeout=timeout)
    with _closed_after_error(host):
        if config["MAIL_USE_TLS"]:
            host.ehlo_or_helo_if_needed()
            if not host.has_extn("starttls"):
                raise StarttlsMissing
            host.starttls(context=_tls_context(config))
        host.ehlo_or_helo_if_needed()
    return host


def _tls_context(config) -> ssl.SSLContext:
    """Return a context that requires a valid certificate for the name in MAIL_SERVER. Raises OSError."""
    return ssl.create_default_context(cafile=config["MAIL_CA"])


@contextlib.contextmanager
def _closed_after_error(host: smtplib.SMTP):
    try:
        yield
    except BaseException:
        host.close()
        raise


def describe_tls_error(error: Exception) -> str:
    """Return why no encrypted connection was made, and which setting to change; empty for any other error.

    It never contains anything that came from the server or from a setting.
    """
    if isinstance(error, StarttlsMissing):
        return (
            "the mail server offers no STARTTLS, though MAIL_USE_TLS is set; check MAIL_PORT, or set MAIL_USE_SSL "
            "instead if that port expects TLS from the start"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in {OTHER_HOST_NAME, OTHER_ADDRESS}:
            return (
                "the certificate of the mail server is not valid for the name in MAIL_SERVER; write a name there that "
                "it was issued for"
            )
        if error.verify_code in {EXPIRED, NOT_YET_VALID}:
            return "the certificate of the mail server has expired or is not valid yet; renew it, or set the clock"
        return (
            "the certificate of the mail server is not signed by a known authority; set MAIL_CA to a PEM file with its "
            "certificate authority, or with the certificate itself if it is self-signed"
        )
    if isinstance(error, ssl.SSLError):
        return (
            "no TLS connection can be made with the mail server; check MAIL_PORT, and whether it expects MAIL_USE_SSL "
            "or MAIL_USE_TLS"
        )
    return ""


def delivery_steps(config, message: EmailMessage | None = None) -> Iterator[str]:
    """Hand an e-mail to the mail server; yields the name of each step before it is taken.

    message: without one, only as far as the sender, and nothing is sent. Raises what `connect` raises, and
    smtplib.SMTPException when the server refuses a step.
    """
    yield "connection"
    host = connect(config, TIMEOUT_SECONDS)
    with _closed_after_error(host):
        if config["MAIL_USERNAME"] and config["MAIL_PASSWORD"]:
            yield "login"
            host.login(config["MAIL_USERNAME"], config["MAIL_PASSWORD"])
        yield "sender"
        sender = parseaddr(config["MAIL_DEFAULT_SENDER"])[1]
        code, reply = host.mail(sender)
        if code != 250:
            raise smtplib.SMTPSenderRefused(code, reply, sender)
        if message is None:
            host.rset()
        else:
            yield "recipient"
            code, reply = host.rcpt(message["To"])
            if code not in (250, 251):
                raise smtplib.SMTPRecipientsRefused({message["To"]: (code, reply)})
            yield "message"
            code, reply = host.data(message.as_bytes())
            if code != 250:
                raise smtplib.SMTPDataError(code, reply)
    quit_quietly(host)


def describe_error(error: Exception, config, step: str) -> str:
    """Return why an e-mail was not handed over, and which setting to change. Contains the server's reply.

    step: of `delivery_steps`, that failed.
    """
    if problem := describe_tls_error(error):
        return problem
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        [(code, reply)] = error.recipients.values()
        return f"the recipient is refused ({code} {_text(reply)})"
    if isinstance(error, smtplib.SMTPConnectError):
        return "something answers, but no mail server; check MAIL_PORT"
    if isinstance(error, smtplib.SMTPResponseException):
        advice = {
            smtplib.SMTPAuthenticationError: "the login is refused: check MAIL_USERNAME and MAIL_PASSWORD",
            smtplib.SMTPSenderRefused: "the sender is refused: check MAIL_DEFAULT_SENDER",
        }.get(type(error), "the server refuses")
        return f"{advice} ({error.smtp_code} {_text(error.smtp_error)})"
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "the server offers no login; check MAIL_PORT, or remove MAIL_USERNAME"
    if step == "login" and isinstance(error, smtplib.SMTPServerDisconnected):  # after several ways to log in
        return "the login is refused: check MAIL_USERNAME and MAIL_PASSWORD"
    if isinstance(error, smtplib.SMTPServerDisconnected | TimeoutError):
        tls = "" if config["MAIL_USE_SSL"] else ", and set MAIL_USE_SSL if that port expects TLS from the start"
        return f"what answers there does not talk like a mail server; check MAIL_SERVER and MAIL_PORT{tls}"
    reason = getattr(error, "strerror", None) or type(error).__name__
    return f"{reason}; check MAIL_SERVER and MAIL_PORT"


def _text(reply: bytes | str) -> str:
    """Return the first line of a server's reply."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return text.splitlines()[0][:200] if text else ""


def supports_utf8(config, timeout: float) -> bool | None:
    """Tell whether the mail server accepts addresses that are not in ASCII (SMTPUTF8, RFC 6531); None if it is down."""
    try:
        host = connect(config, timeout)
    except (OSError, smtplib.SMTPException, UnicodeError):
        return None
    supported = host.has_extn("smtputf8")
    quit_quietly(host)
    return supported


class Connection(flask_mail.Connection):
    def __exit__(self, *_error):
        """Close the connection. If the server closes it first, it has accepted the e-mail all the same."""
        if self.host is not None:
            quit_quietly(self.host)

    def configure_host(self):
        """Connect to the mail server and log in. Raises OSError, smtplib.SMTPException, UnicodeError."""
        config = current_app.config
        host = connect(config, TIMEOUT_SECONDS)
        if config["MAIL_USERNAME"] and config["MAIL_PASSWORD"]:
            with _closed_after_error(host):
                host.login(config["MAIL_USERNAME"], config["MAIL_PASSWORD"])
        return host


def quit_quietly(host: smtplib.SMTP):
    """Say good-bye to the mail server and close the connection, whatever it replies."""
    with contextlib.suppress(OSError, smtplib.SMTPException):
        host.quit()
    host.close()


class Mail(flask_mail.Mail):
    def connect(self):
        """Return a connection to the configured server, to be used in a with statement."""
        return Connection(current_app.extensions["mail"])
