"""The bare Flask page with which `bin/bench pages` compares ours.

Like ours, it loads the user from the table of sessions by Flask-Login, lists twenty people with a link each, loaded by
the ORM, and has as many bytes. Run as a separate process: python -m tests.bench.bare_page
DATABASE_URI PORT BYTES COOKIE_NAME
"""

import os
import sys

from flask import Flask, render_template_string
from flask_login import LoginManager, current_user, login_required
from gunicorn.app.base import BaseApplication
from sqlalchemy import select
from sqlalchemy.orm import contains_eager

from config import Config
from noxchat import sessions
from noxchat.database import configure_engine, engine_options
from noxchat.extensions import db
from noxchat.models import User, friends

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ current_user.username }}</title></head><body>
<h1>{{ current_user.username }}</h1><ul>
{% for person in people %}<li><a href="{{ url_for("profile", public_id=person.profile.public_id) }}">{{ person.username }}</a></li>
{% endfor %}</ul>
<!-- {{ padding }} --></body></html>"""


def create_app(uri: str, size: int, cookie_name: str) -> Flask:
    """Return the application. size: how many bytes its page has. cookie_name: of the session."""
    app = Flask(__name__)
    config = Config({"SQLALCHEMY_DATABASE_URI": uri, "SECRET_KEY": os.environ["SECRET_KEY"]}, debug=True)
    app.config.update(SECRET_KEY=config.SECRET_KEY, SQLALCHEMY_DATABASE_URI=config.SQLALCHEMY_DATABASE_URI)
    app.config["SESSION_COOKIE_NAME"] = cookie_name
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(config.SQLALCHEMY_DATABASE_URI, 10)
    db.init_app(app)
    with app.app_context():
        configure_engine(db.engine)
    login_manager = LoginManager(app)
    login_manager.session_protection = None
    login_manager.user_loader(lambda token: sessions.load(token, config.REMEMBER_COOKIE_DURATION))

    @app.route("/healthz")
    def healthz():
        return "ok"

    @app.route("/u/<public_id>")
    def profile(public_id):
        return public_id

    @app.route("/")
    @login_required
    def page():
        people = db.session.scalars(
            select(User)
            .join(User.profile)
            .options(contains_eager(User.profile))
            .join(friends, friends.c.friend_id == User.id)
            .where(friends.c.user_id == current_user.id)
            .order_by(User.username)
            .limit(20)
        ).all()
        body = render_template_string(PAGE, people=people, padding="x" * max(0, size - 1900))
        db.session.commit()
        return body

    return app


class Server(BaseApplication):
    def __init__(self, app, port):
        self.app, self.port = app, port
        super().__init__()

    def load_config(self):
        for name, value in {"bind": f"127.0.0.1:{self.port}", "worker_class": "gthread", "threads": 64}.items():
            self.cfg.set(name, value)
        self.cfg.set("loglevel", "warning")
        self.cfg.set("control_socket_disable", True)

    def load(self):
        return self.app


if __name__ == "__main__":
    Server(create_app(sys.argv[1], int(sys.argv[3]), sys.argv[4]), sys.argv[2]).run()
