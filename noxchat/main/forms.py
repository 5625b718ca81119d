"""The forms of the main room. Their fields' names are the contract's."""

from flask_babel import lazy_gettext as _l
from flask_wtf.file import FileField
from wtforms import PasswordField, RadioField, SelectField, StringField, TextAreaField
from wtforms.fields.choices import SelectChoice

from noxchat.forms import Cleaned, Form, not_longer, required
from noxchat.look import LANGUAGES
from noxchat.names import clean_bio, clean_public_id, clean_username


class ProfileForm(Form):
    username = StringField(_l("Name"), [required(), Cleaned(clean_username)])
    public_id = StringField(_l("Public ID"), [required(), Cleaned(clean_public_id)])
    bio = TextAreaField(_l("About you"), [Cleaned(clean_bio)])
    avatar = FileField(_l("Picture"))


class LookForm(Form):
    theme = RadioField(
        _l("Theme"),
        choices=[
            SelectChoice("auto", _l("Device")),
            SelectChoice("night", _l("Night")),
            SelectChoice("day", _l("Day")),
        ],
    )
    language = SelectField(_l("Language"), choices=[SelectChoice(*language) for language in LANGUAGES.items()])


class DeleteForm(Form):
    password = PasswordField(_l("Password"), [required(), not_longer])
