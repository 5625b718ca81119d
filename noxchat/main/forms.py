"""The form of the profile. Its field names are part of the public contract."""

from flask import current_app, request
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_wtf.file import FileField
from wtforms import StringField, TextAreaField
from wtforms.validators import ValidationError

from noxchat import throttle
from noxchat.exceptions import InvalidInput
from noxchat.main import avatar_utils
from noxchat.models import PUBLIC_ID_LENGTH, USERNAME_LENGTH, User
from noxchat.names import clean_bio, clean_public_id, clean_username
from noxchat.profiles import check_public_id, check_username
from noxchat.web.forms import CleanedIfChanged, Form, required
from noxchat.web.templating import max_picture_megabytes


def length(limits: tuple[int, int]) -> dict:
    """Return the HTML attributes for a shortest and longest length."""
    return dict(zip(("minlength", "maxlength"), limits, strict=True))


class ProfileForm(Form):
    """user: whose profile it is.

    cleaned["avatar"]: the new picture as it is stored, or None.
    """

    username = StringField(
        _l("Name"),
        [required(), CleanedIfChanged(clean_username, check_username)],
        render_kw=length(USERNAME_LENGTH),
    )
    public_id = StringField(
        _l("Public ID"),
        [required(), CleanedIfChanged(clean_public_id, check_public_id)],
        render_kw=length(PUBLIC_ID_LENGTH),
    )
    bio = TextAreaField(_l("About you"), [CleanedIfChanged(clean_bio)])
    avatar = FileField(_l("Picture"))

    def __init__(self, user: User):
        profile = user.profile
        super().__init__(data={"username": user.username, "public_id": profile.public_id, "bio": profile.bio})
        self.user = user

    def validate_avatar(self, _field):
        """Redraw the picture that was uploaded, if there is one. Raises RateLimited."""
        self.cleaned["avatar"] = None
        data = read_upload(request.files.get("avatar"))
        if data is None:
            return
        if len(data) > current_app.config["AVATAR_BYTES"]:
            self.error_status = 413
            text = _("This picture is too large. Pictures can be up to %(size)s MB.", size=max_picture_megabytes())
            raise ValidationError(text)
        try:
            with avatar_utils.single_upload(self.user.id):
                throttle.count_avatar(self.user)
                self.cleaned["avatar"] = avatar_utils.redraw(data)
        except InvalidInput as error:
            raise ValidationError(str(error)) from None


def read_upload(upload) -> bytes | None:
    """Return the content of an uploaded file, and no more than shows that it is too large; None if none was chosen."""
    if not upload or not upload.filename:
        return None
    return upload.read(current_app.config["AVATAR_BYTES"] + 1)
