"""The forms of the accounts' room. Their fields' names are the contract's."""

from flask_babel import lazy_gettext as _l
from wtforms import BooleanField, EmailField, PasswordField, StringField

from noxchat.forms import Cleaned, Form, new_password_fields, not_longer, required
from noxchat.names import clean_email, clean_username


class RegisterForm(Form):
    username = StringField(_l("Name"), [required(), Cleaned(clean_username)])
    email = EmailField(_l("E-mail"), [required(), Cleaned(clean_email)])
    password, password2 = new_password_fields(_l("Password"))


class LoginForm(Form):
    identifier = StringField(_l("E-mail or Public ID"), [required()])
    password = PasswordField(_l("Password"), [required(), not_longer])
    remember_me = BooleanField(_l("Keep me logged in"), default=True)


class ResetForm(Form):
    email = EmailField(_l("E-mail"), [required(), Cleaned(clean_email)])


class NewPasswordForm(Form):
    password, password2 = new_password_fields(_l("New password"))
