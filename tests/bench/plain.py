"""The bare Flask page that ours are measured against: signed in, loads its user as ours does, the ORM, twenty rows.

Run as a process of its own by `bin/bench pages`: python -m tests.bench.plain DATABASE PORT BYTES
"""

import hashlib
import sys

from flask import Flask, abort, render_template_string, request
from gunicorn.app.base import BaseApplication
from sqlalchemy import select
from sqlalchemy.orm import contains_eager

from config import Config
from noxchat.database import engine_options, listen_to
from noxchat.extensions import db
from noxchat.models import Session, User, friends

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ me.username }}</title></head><body>
<h1>{{ me.username }}</h1><ul>
{% for person in people %}<li><a href="/u/{{ person.profile.public_id }}">{{ person.username }}</a></li>
{% endfor %}</ul>
<!-- {{ padding }} --></body></html>"""


def create_app(uri: str, size: int) -> Flask:
    """Return the application. size: how many bytes its page has, as ours has."""
    app = Flask(__name__)
    config = Config({"SQLALCHEMY_DATABASE_URI": uri, "SECRET_KEY": "nothing is signed here, only measured"}, debug=True)
    app.config["SQLALCHEMY_DATABASE_URI"] = config.SQLALCHEMY_DATABASE_URI
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(config.SQLALCHEMY_DATABASE_URI, 10)
    db.init_app(app)
    with app.app_context():
        listen_to(db.engine)

    @app.route("/healthz")
    def healthz():
        return "ok"

    @app.route("/")
    def page():
        token = hashlib.sha256(request.cookies.get("token", "").encode()).hexdigest()
        me = db.session.scalar(
            select(User)
            .join(Session, Session.user_id == User.id)
            .join(User.profile)
            .options(contains_eager(User.profile))
            .where(Session.token_hash == token)
        )
        if me is None:
            abort(401)
        people = db.session.scalars(
            select(User)
            .join(User.profile)
            .options(contains_eager(User.profile))
            .join(friends, friends.c.friend_id == User.id)
            .where(friends.c.user_id == me.id)
            .order_by(User.username)
            .limit(20)
        ).all()
        body = render_template_string(PAGE, me=me, people=people, padding="x" * max(0, size - 1900))
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
    Server(create_app(sys.argv[1], int(sys.argv[3])), sys.argv[2]).run()
