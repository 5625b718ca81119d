"""The application for the `flask` command: `flask --app main …`. bin/run starts noxchat/web/server.py instead."""

from config import Config
from noxchat import create_app

app = create_app(Config())
app.extensions["migrate"].load()  # `flask db`
