"""What the forms of all rooms share: fields that ask the rules whether their text is good."""

from flask import request
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from wtforms import PasswordField
from wtforms.validators import InputRequired, ValidationError

from noxchat.models import PASSWORD_LENGTH
from noxchat.refusal import Invalid


class Form(FlaskForm):
    """A form whose token security.guard has checked already, and whose words come from our own translations."""

    class Meta:
        csrf = False

        def wrap_formdata(self, form, formdata):  # noqa: ARG002
            # Flask-WTF mixes files in, and a file where a text belongs is no text.
            return request.form if request.method == "POST" and formdata is not None else None

        def get_translations(self, form):  # noqa: ARG002
            return None  # every message is written here; WTForms' own are never shown

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.cleaned = {}

    def refuse(self, error: Invalid):
        """Show what a rule said beside its field; above the form when it is about none."""
        field = self._fields.get(error.field)
        if field is None:
            self.form_errors = [*self.form_errors, str(error)]
        else:
            field.errors = [*field.errors, str(error)]


class Cleaned:
    """A validator that replaces what was typed with what the rule makes of it.

    rule: takes the text, returns it as it is kept, and raises Invalid. What was typed stays in `raw_data`, and is what
    the form shows again.
    """

    def __init__(self, rule):
        self.rule = rule

    def __call__(self, form, field):
        try:
            form.cleaned[field.name] = self.rule(field.data or "")
        except Invalid as error:
            raise ValidationError(str(error)) from None


def required():
    """Return a validator that wants something to be typed."""
    return InputRequired(_l("Fill in this field."))


def not_longer(form, field):  # noqa: ARG001
    """Refuse a password that is too long before anything is computed from it."""
    if len(field.data or "") > PASSWORD_LENGTH[1]:
        raise ValidationError(_("This is longer than any password here."))


def new_password_fields(label):
    """Return the two fields in which a new password is typed, for a form's class body.

    label: of the first one.
    """
    return (
        PasswordField(label, [required(), not_longer]),
        PasswordField(_l("Repeat password"), [required(), same_as_password]),
    )


def same_as_password(form, field):
    """Refuse a repetition that differs."""
    if field.data != form.password.data:
        raise ValidationError(_("The two passwords differ."))


class ChangePasswordForm(Form):
    """Shown on the settings page of one room, taken by a route of another."""

    current_password = PasswordField(_l("Current password"), [required(), not_longer])
    password, password2 = new_password_fields(_l("New password"))
