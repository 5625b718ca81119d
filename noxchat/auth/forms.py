"""The forms of the auth blueprint. Their field names are part of the public contract."""

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from wtforms import BooleanField, PasswordField, StringField
from wtforms.validators import ValidationError

from noxchat.mail import worker
from noxchat.models import EMAIL_LENGTH, USERNAME_LENGTH
from noxchat.names import clean_email, clean_username
from noxchat.profiles import check_username
from noxchat.web.forms import (
    Cleaned,
    Form,
    NewPasswordForm,
    check_password_length,
    new_password_fields,
    required,
)

# Not type="email": Chromium sends what is typed there by the rules of 2003, straße.example as strasse.example.
EMAIL = {"autocomplete": "email", "inputmode": "email", "autocapitalize": "none", "maxlength": EMAIL_LENGTH}
USERNAME = dict(zip(("minlength", "maxlength"), USERNAME_LENGTH, strict=True))


def deliverable(form, _field):
    """Refuse an address that the mail server cannot take."""
    if not worker.accepts_address(form.cleaned.get("email", "")):
        raise ValidationError(
            _("No e-mail can be sent to this address: it has other letters than a to z before the @.")
        )


class RegisterForm(NewPasswordForm):
    username = StringField(_l("Name"), [required(), Cleaned(clean_username, check_username)], render_kw=USERNAME)
    email = StringField(_l("E-mail"), [required(), Cleaned(clean_email), deliverable], render_kw=EMAIL)
    password, password2 = new_password_fields(_l("Password"))

    def personal_words(self):  # noqa: D102
        return self.cleaned.get("username", ""), self.cleaned.get("email", "")


class LoginForm(Form):
    identifier = StringField(_l("E-mail or Public ID"), [required()])
    password = PasswordField(_l("Password"), [required(), check_password_length])
    remember_me = BooleanField(_l("Keep me logged in"), default=True)


class RequestResetForm(Form):
    email = StringField(_l("E-mail"), [required(), Cleaned(clean_email)], render_kw=EMAIL)


class ResetPasswordForm(NewPasswordForm):
    """user: whose password it is."""

    password, password2 = new_password_fields(_l("New password"))

    def __init__(self, user, **kwargs):
        super().__init__(**kwargs)
        self.user = user

    def personal_words(self):  # noqa: D102
        return self.user.username, self.user.email
