"""The form of a group. Its field name is part of the public contract."""

from flask_babel import lazy_gettext as _l
from wtforms import StringField

from noxchat import groups
from noxchat.models import TITLE_LENGTH
from noxchat.web.forms import Cleaned, Form


class TitleForm(Form):
    """The title of a group. Errors about its members are shown above the fields."""

    title = StringField(_l("Group name"), [Cleaned(groups.clean_title)], render_kw={"maxlength": TITLE_LENGTH[1]})
