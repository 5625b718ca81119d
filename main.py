"""The application that servers and the `flask` command load: `flask --app main …`, `gunicorn main:app`."""

from config import Config
from noxchat import create_app

app = create_app(Config())
