"""The forms of the settings. Their field names are part of the public contract."""

from flask import request
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from wtforms import IntegerField, PasswordField, RadioField, SelectField
from wtforms.fields.choices import SelectChoice

from noxchat import throttle
from noxchat.exceptions import InvalidInput
from noxchat.invitations import DEFAULT_DAYS, DEFAULT_USES, MAX_DAYS, MAX_USES
from noxchat.names import email_key
from noxchat.web.forms import (
    Form,
    NewPasswordForm,
    check_password_length,
    new_email_field,
    new_password_fields,
    required,
    whole_number,
)
from noxchat.web.login import authenticate
from noxchat.web.preferences import LANGUAGES, THEMES, language, theme


class PreferencesForm(Form):
    """Theme and language, or one of them.

    chosen: those that were submitted, once the form is valid.
    """

    theme = RadioField(
        _l("Theme"),
        choices=[
            SelectChoice("auto", _l("Device")),
            SelectChoice("night", _l("Night")),
            SelectChoice("day", _l("Day")),
        ],
    )
    language = SelectField(_l("Language"), choices=[SelectChoice(*language) for language in LANGUAGES.items()])

    def __init__(self):
        super().__init__(data={"theme": theme(), "language": language()})
        self.chosen = {}

    def validate(self, *args, **kwargs) -> bool:
        """Accept a form with only one of the fields, as the buttons of the guest pages send it."""
        self.chosen = {name: request.form[name] for name in ("theme", "language") if name in request.form}
        known = self.chosen.get("theme", "auto") in THEMES and self.chosen.get("language", "en") in LANGUAGES
        if self.chosen and known:
            return True
        super().validate(*args, **kwargs)
        self.with_error(InvalidInput(_("Choose one of the themes and languages that there are.")))
        return False


class ConfirmedForm(Form):
    """Base of forms in which somebody who is logged in confirms their password.

    user: who that is. password_field: the name of the field for it.
    """

    password_field = "password"  # noqa: S105  a name

    def __init__(self, user, **kwargs):
        super().__init__(**kwargs)
        self.user = user

    def validate(self, *args, **kwargs) -> bool:
        """Validate the fields, and the password if there is one. Raises RateLimited."""
        is_valid = super().validate(*args, **kwargs)
        password = self[self.password_field].data
        if self[self.password_field].errors:
            return False
        if not authenticate(self.user, password, throttle.confirmation_limits(self.user)):
            self.with_error(InvalidInput(_("This is not your password."), self.password_field))
            return False
        return is_valid


class ChangePasswordForm(NewPasswordForm, ConfirmedForm):
    password_field = "current_password"  # noqa: S105
    current_password = PasswordField(_l("Current password"), [required(), check_password_length])
    password, password2 = new_password_fields(_l("New password"))

    def personal_words(self):  # noqa: D102
        return self.user.username, self.user.email


class DeleteAccountForm(ConfirmedForm):
    password = PasswordField(_l("Password"), [required(), check_password_length])


class EmailForm(ConfirmedForm):
    email = new_email_field(_l("New address"))
    password = PasswordField(_l("Password"), [required(), check_password_length])

    def validate(self, *args, **kwargs) -> bool:
        """Validate the fields, and that the address is another one, unless that takes back a change."""
        is_valid = super().validate(*args, **kwargs)
        if is_valid and not self.user.unconfirmed_email and email_key(self.cleaned["email"]) == self.user.email_key:
            self.with_error(InvalidInput(_("This is your address already."), "email"))
            return False
        return is_valid


class InvitationForm(Form):
    uses = IntegerField(_l("For how many people"), [whole_number(1, MAX_USES)], default=DEFAULT_USES)
    days = IntegerField(_l("For how many days"), [whole_number(1, MAX_DAYS)], default=DEFAULT_DAYS)
