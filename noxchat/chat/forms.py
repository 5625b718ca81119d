"""The forms of groups. Their field names are part of the public contract."""

from flask import request
from flask_babel import lazy_gettext as _l
from wtforms import StringField

from noxchat import groups
from noxchat.models import TITLE_LENGTH
from noxchat.web.forms import Cleaned, Form


class TitleForm(Form):
    """The title of a group."""

    title = StringField(
        _l("Name of the group"), [Cleaned(groups.clean_title)], render_kw={"maxlength": TITLE_LENGTH[1]}
    )


class MembersForm(Form):
    """Who is to be added to a group: their Public IDs, repeated."""

    @property
    def public_ids(self) -> list[str]:
        """The Public IDs that are chosen."""
        return request.values.getlist("members")[: 2 * groups.MAX_OTHERS]


class GroupForm(MembersForm, TitleForm):
    """A new group."""
