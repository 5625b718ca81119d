"""NoxChat: a place that a small community hosts for itself."""

from pathlib import Path

from flask import Flask, request
from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader, StrictUndefined
from jinja_partials import register_extensions

from noxchat import auth, cli, doorbell, errors, logs, look, mailer, main, models, search, security, signed_in
from noxchat.database import engine_options, listen_to
from noxchat.extensions import babel, compress, csrf, db, limiter, mail, migrate, moment

ROOT = Path(__file__).resolve().parent.parent


class NoxChat(Flask):
    def log_exception(self, exc_info):
        """Write down what broke and where, by the route's rule: Flask would write the path, which may hold a token."""
        self.logger.error("broken: %s %s", request.method, request.url_rule or "-", exc_info=exc_info)


def create_app(config) -> Flask:
    """Return the whole application.

    config: an object whose attributes in capitals are the settings, as config.Config has them.
    """
    app = NoxChat(__name__, static_folder=str(ROOT / "static"), template_folder=str(ROOT / "templates"))
    app.config.from_object(config)
    app.config["warnings"] = config.warnings
    app.config["DATA_DIR"].mkdir(parents=True, exist_ok=True)
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(
        app.config["SQLALCHEMY_DATABASE_URI"], app.config["DATABASE_SECONDS"]
    )
    app.wsgi_app = security.ClientAddress(app.wsgi_app, app.config["TRUSTED_PROXIES"])

    # First of all, since the environment is made when the first extension adds something to it.
    app.jinja_options = {**app.jinja_options, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    app.jinja_loader = ChoiceLoader(
        [
            FileSystemLoader(ROOT / "templates"),
            PrefixLoader({"partials": FileSystemLoader(ROOT / "partials")}),
        ]
    )

    logs.init_app(app)
    db.init_app(app)
    migrate.init_app(app, db, directory=str(ROOT / "migrations"))
    with app.app_context():
        listen_to(db.engine)
    csrf.init_app(app)
    mail.init_app(app)
    limiter.init_app(app)
    compress.init_app(app)
    moment.init_app(app)
    babel.init_app(app, locale_selector=look.language, default_translation_directories=str(ROOT / "translations"))
    signed_in.init_app(app)
    security.init_app(app)

    register_extensions(app)
    look.init_app(app)

    for room in (auth, main):
        app.register_blueprint(room.blueprint)
    errors.init_app(app)
    cli.init_app(app)
    app.extensions["postman"] = mailer.Postman(app)
    app.extensions["doorbell"] = doorbell.Doorbell(app)
    search.init_app(app)

    @app.after_request
    def end_reading(response):
        # psycopg forgets its prepared statements at every rollback, which is how an unfinished session ends.
        if request.method in security.SAFE_METHODS:
            db.session.commit()
        return response

    @app.shell_context_processor
    def names():
        return {"db": db, **{name: getattr(models, name) for name in ("User", "Profile", "friends", "friend_requests")}}

    return app
