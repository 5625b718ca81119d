"""The forms of the auth blueprint. Their field names are part of the public contract."""

from flask_babel import lazy_gettext as _l
from wtforms import BooleanField, HiddenField, PasswordField, StringField

from noxchat import invitations
from noxchat.extensions import db
from noxchat.models import USERNAME_LENGTH
from noxchat.names import clean_email, clean_username
from noxchat.profiles import check_username
from noxchat.web.forms import (
    EMAIL,
    Cleaned,
    Form,
    NewPasswordForm,
    check_password_length,
    new_email_field,
    new_password_fields,
    required,
)

USERNAME = dict(zip(("minlength", "maxlength"), USERNAME_LENGTH, strict=True))


class RegisterForm(NewPasswordForm):
    """token: of the invitation that the URL names, if any. open_invitation: the form's, if it still works."""

    username = StringField(_l("Name"), [required(), Cleaned(clean_username, check_username)], render_kw=USERNAME)
    email = new_email_field(_l("E-mail"))
    password, password2 = new_password_fields(_l("Password"))
    invitation = HiddenField()

    def __init__(self, token=""):
        super().__init__(data={"invitation": token})
        self.open_invitation = invitations.find_open(self.invitation.data) if self.invitation.data else None
        db.session.commit()  # only read; hashing takes a while
        if self.invitation.data and not self.open_invitation:
            self.with_error(invitations.no_longer_open())

    def with_error(self, error):
        """Show an error as Form does; one about the invitation above the form, which goes on without it."""
        if error.field != "invitation":
            return super().with_error(error)
        self.open_invitation = None
        self.form_errors.append(str(error))
        return self

    def validate(self, *args, **kwargs) -> bool:  # noqa: D102
        return super().validate(*args, **kwargs) and not self.form_errors

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
