"""The Flask extensions, created once and bound to the application in create_app."""

import os

from flask_babel import Babel
from flask_compress import Compress
from flask_login import LoginManager
from flask_migrate import Migrate
from flask_moment import Moment
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect

from noxchat.database import Base
from noxchat.mail.smtp import Mail


class Migrations(Migrate):
    """Flask-Migrate for an installation whose path contains %, which Alembic's config would replace."""

    def get_config(self, directory=None, x_arg=None, opts=None):
        """Return Alembic's config."""
        path = str(directory or self.directory)
        config = super().get_config(path.replace("%", "%%"), x_arg, opts)
        config.config_file_name = os.path.join(path, "alembic.ini")
        return config


db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
migrate = Migrations(render_as_batch=True)
login = LoginManager()
csrf = CSRFProtect()
mail = Mail()
moment = Moment()
babel = Babel()
compress = Compress()
