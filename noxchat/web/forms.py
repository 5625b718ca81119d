"""What forms share: fields that are validated by rules, and new passwords."""

from flask import request
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from wtforms import PasswordField, StringField
from wtforms.validators import InputRequired, StopValidation, ValidationError

from noxchat import passwords
from noxchat.exceptions import InvalidInput
from noxchat.extensions import db
from noxchat.mail import worker
from noxchat.models import EMAIL_LENGTH, PASSWORD_LENGTH
from noxchat.names import clean_email


class Form(FlaskForm):
    """A form without a CSRF field of its own: web.security checks the token before every route.

    cleaned: the values that rules have returned, by field name. Fields keep what was typed, to be shown again.
    error_status: of the answer that shows the form with its errors.
    """

    error_status = 422

    class Meta:
        csrf = False

        def wrap_formdata(self, form, formdata):  # noqa: ARG002
            # Flask-WTF merges the files in, and then a file could take the place of a text.
            return request.form if request.method == "POST" and formdata is not None else None

        def get_translations(self, form):  # noqa: ARG002
            return None  # WTForms' own messages are never shown

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.cleaned = {}

    def with_error(self, error: InvalidInput) -> "Form":
        """Show an error beside its field, or above the form if it is about none. Returns the form."""
        field = self._fields.get(error.field)
        if field is None:
            self.form_errors.append(str(error))
        else:
            field.errors = [*field.errors, str(error)]
            field.suggestions = error.suggestions
        return self

    @property
    def status(self) -> int:
        """The HTTP status of an answer that shows the form: when it was submitted, it has errors."""
        return self.error_status if self.is_submitted() else 200


class Cleaned:
    """A validator that stores what a rule makes of the value in the form's `cleaned`.

    rule: takes the text and returns it as it is stored; raises InvalidInput. check: takes what the rule has returned,
    and the user that the form is about or None; raises InvalidInput when it is taken.
    """

    def __init__(self, rule, check=None):
        self.rule, self.check = rule, check

    def __call__(self, form, field):
        try:
            form.cleaned[field.name] = self.rule(field.data or "")
            if self.check:
                self.check(form.cleaned[field.name], getattr(form, "user", None))
                db.session.commit()  # only read; hashing, or decoding a picture, may take a while now
        except InvalidInput as error:
            field.suggestions = error.suggestions
            raise ValidationError(str(error)) from None


class CleanedIfChanged(Cleaned):
    """A validator as Cleaned, which keeps a value that is as it was in the beginning: it may be older than the rule."""

    def __call__(self, form, field):
        if (field.data or "").replace("\r\n", "\n").strip(" \n") == field.object_data:
            form.cleaned[field.name] = field.object_data
        else:
            super().__call__(form, field)


# Not type="email": Chromium sends what is typed there by the rules of 2003, straße.example as strasse.example.
EMAIL = {"autocomplete": "email", "inputmode": "email", "autocapitalize": "none", "maxlength": EMAIL_LENGTH}


def new_email_field(label):
    """Return a field for an address that an account is to have."""
    return StringField(label, [required(), Cleaned(clean_email), deliverable], render_kw=EMAIL)


def deliverable(form, _field):
    """Refuse an address that the mail server cannot take."""
    if not worker.accepts_address(form.cleaned.get("email", "")):
        raise ValidationError(_("No e-mail can be sent to this address: it has letters other than a–z before the @."))


def required():
    """Return a validator for a field that must not be empty."""
    return InputRequired(_l("Fill in this field."))


def whole_number(minimum: int, maximum: int):
    """Return a validator for an IntegerField, which says what may be written instead of WTForms' own messages."""

    def check(form, field):  # noqa: ARG001
        if field.data is None or not minimum <= field.data <= maximum:
            text = _("Write a whole number from %(min)s to %(max)s.", min=minimum, max=maximum)
            field.errors = []
            raise StopValidation(text)

    return check


def check_password_length(form, field):  # noqa: ARG001
    """Refuse a password that is too long before anything is computed from it."""
    if len(field.data or "") > PASSWORD_LENGTH[1]:
        raise ValidationError(_("This password is too long."))


def new_password_fields(label):
    """Return the fields `password` and `password2` for the class body of a NewPasswordForm. label: of the first.

    The second may be absent: pages with JavaScript can show the password instead.
    """
    maximum = {"autocomplete": "new-password", "maxlength": PASSWORD_LENGTH[1]}
    return (
        PasswordField(
            label, [required(), check_password_length], render_kw={**maximum, "minlength": PASSWORD_LENGTH[0]}
        ),
        PasswordField(_l("Repeat password"), [same_as_password], render_kw={**maximum, "required": True}),
    )


def same_as_password(form, field):
    """Refuse a repetition that differs, if there is one."""
    if field.raw_data and field.data != form.password.data:
        raise ValidationError(_("The passwords do not match."))


class NewPasswordForm(Form):
    """Base of the forms in which a new password is chosen.

    strength: a message about the password, once the form is valid.
    """

    strength = ""

    def personal_words(self) -> tuple[str, ...]:
        """Return what everybody may know about the person, and which therefore adds no strength to a password."""
        return ()

    def validate(self, *args, **kwargs) -> bool:
        """Validate the fields, and the strength of the password, so that all errors are shown at once."""
        is_valid = super().validate(*args, **kwargs)
        if self.password.errors:
            return False
        try:
            self.strength = passwords.check_strength(self.password.data, *self.personal_words())
        except InvalidInput as error:
            self.with_error(error)
            return False
        return is_valid
