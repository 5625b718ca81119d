"""The forms of the settings. Their field names are part of the public contract."""

from typing import Any

from flask import request
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from wtforms import BooleanField, IntegerField, PasswordField, RadioField, SelectField
from wtforms.fields.choices import SelectChoice

from noxchat import throttle
from noxchat.exceptions import InvalidInput
from noxchat.invitations import DEFAULT_DAYS, DEFAULT_USES, MAX_DAYS, MAX_USES
from noxchat.models import BY_EVERYBODY, BY_FRIENDS_OF_FRIENDS, TO_FRIENDS, TO_NOBODY
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
from noxchat.web.preferences import LANGUAGES, language, sound, theme


class ChoicesForm(Form):
    """Base of forms of choices, of which any may be left out: pages send the one that was changed.

    chosen: those that were submitted, once the form is valid.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.chosen: dict[str, Any] = {}

    def validate(self, *args, **kwargs) -> bool:
        """Accept a form with at least one of the fields."""
        options = [field for field in self if hasattr(field, "choices")]
        choices = {field.name: {choice.value for choice in field.choices} for field in options}
        sent = {name: request.form[name] for name in choices if name in request.form}
        self.chosen.update(sent)
        if self.chosen and all(value in choices[name] for name, value in sent.items()):
            return True
        super().validate(*args, **kwargs)
        self.with_error(InvalidInput(_("Choose one of the options.")))
        return False


class PreferencesForm(ChoicesForm):
    theme = RadioField(
        _l("Theme"),
        choices=[
            SelectChoice("auto", _l("Same as device")),
            SelectChoice("night", _l("Night")),
            SelectChoice("day", _l("Day")),
        ],
    )
    sound = RadioField(
        _l("Sound for new messages"), choices=[SelectChoice("off", _l("Off")), SelectChoice("on", _l("On"))]
    )
    language = SelectField(_l("Language"), choices=[SelectChoice(*language) for language in LANGUAGES.items()])

    def __init__(self):
        super().__init__(data={"theme": theme(), "language": language(), "sound": sound()})


SWITCHES = ("show_typing", "show_seen")


class PrivacyForm(ChoicesForm):
    show_presence = RadioField(
        _l("Who can see when you are online"),
        choices=[
            SelectChoice(TO_FRIENDS, _l("Your friends")),
            SelectChoice(TO_NOBODY, _l("Nobody")),
        ],
    )
    findable = RadioField(
        _l("Who can find you by name"),
        choices=[
            SelectChoice(BY_EVERYBODY, _l("Everybody")),
            SelectChoice(BY_FRIENDS_OF_FRIENDS, _l("Friends and their friends")),
        ],
    )

    show_typing = BooleanField(_l("Show when you are typing"), false_values=("", "0"))
    show_seen = BooleanField(_l("Send read receipts"), false_values=("", "0"))

    def __init__(self, user):
        names = ("show_presence", "findable", *SWITCHES)
        super().__init__(data={name: getattr(user, name) for name in names})

    def validate(self, *args, **kwargs) -> bool:
        """Accept a form with at least one of the fields. Where all choices are sent, a switch that is not is off."""
        is_whole = self.show_presence.name in request.form and self.findable.name in request.form
        sent = SWITCHES if is_whole else [name for name in SWITCHES if name in request.form]
        self.chosen.update({name: self[name].data for name in sent})
        return super().validate(*args, **kwargs)


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
    delete_messages = BooleanField(_l("Delete my messages too"))


class EmailForm(ConfirmedForm):
    email = new_email_field(_l("New address"))
    password = PasswordField(_l("Password"), [required(), check_password_length])

    def validate(self, *args, **kwargs) -> bool:
        """Validate the fields, and that the address is another one, unless that takes back a change."""
        is_valid = super().validate(*args, **kwargs)
        email = self.cleaned.get("email")
        if email and not self.user.unconfirmed_email and email_key(email) == self.user.email_key:
            self.with_error(InvalidInput(_("This is already your address."), "email"))
            return False
        return is_valid


class InvitationForm(Form):
    uses = IntegerField(_l("For how many people"), [whole_number(1, MAX_USES)], default=DEFAULT_USES)
    days = IntegerField(_l("For how many days"), [whole_number(1, MAX_DAYS)], default=DEFAULT_DAYS)
