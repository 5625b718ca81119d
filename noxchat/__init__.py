"""NoxChat: a social messenger that a small community hosts for itself."""

from pathlib import Path

from flask import Flask, request

from config import ConfigError
from noxchat import (
    auth,
    chat,
    cli,
    errors,
    event_stream,
    extensions,
    friends,
    main,
    models,
    schema,
    search,
    settings,
    throttle,
)
from noxchat.database import configure_engine, engine_options
from noxchat.extensions import db
from noxchat.files import make_private_folder
from noxchat.mail.worker import MailWorker
from noxchat.web import assets, cookies, login, logs, preferences, security, templating

ROOT = Path(__file__).resolve().parent.parent


class NoxChat(Flask):
    def send_static_file(self, filename):
        """Send a file of static/, from memory if that has it."""
        files = self.extensions.get("static_files")
        return assets.send_preloaded(files, filename) if files else super().send_static_file(filename)

    def log_exception(self, exc_info):
        """Log an unhandled exception with the route. Flask would log the path, which may contain a token."""
        self.logger.error("unhandled exception: %s %s", request.method, request.url_rule or "-", exc_info=exc_info)


def create_app(config) -> Flask:
    """Return the application.

    config: an object whose upper-case attributes are the settings, such as config.Config. Raises ConfigError.
    """
    app = NoxChat(__name__, static_folder=str(ROOT / "static"), template_folder=str(ROOT / "templates"))
    app.config.from_object(config)
    app.config["warnings"] = config.warnings
    try:
        make_private_folder(app.config["DATA_DIR"])
    except OSError as error:
        raise ConfigError(f"DATA_DIR cannot be written ({error.strerror}): write a folder that can.") from None
    app.wsgi_app = security.ClientAddress(app.wsgi_app, app.config["TRUSTED_PROXIES"])  # type: ignore[method-assign]

    templating.configure_loaders(app, ROOT)
    logs.init_app(app)
    init_database(app)
    from noxchat.web import metrics  # not before the server has made a folder for those of several processes

    metrics.init_app(app)
    for extension in (extensions.csrf, extensions.mail, extensions.moment):
        extension.init_app(app)
    translations = str(ROOT / "translations")
    extensions.babel.init_app(app, locale_selector=preferences.language, default_translation_directories=translations)
    throttle.init_app(app)
    cookies.init_app(app)
    login.init_app(app)
    security.init_app(app)
    assets.init_app(app)
    templating.init_app(app)

    for package in (auth, main, friends, chat, settings, errors):
        app.register_blueprint(package.blueprint)
    cli.init_app(app)
    app.extensions["mail_worker"] = MailWorker(app)
    app.extensions["event_streams"] = event_stream.EventStreams(app)
    search.init_app(app)

    @app.after_request
    def end_reading(response):
        # psycopg forgets its prepared statements at every rollback, which is how an open session would end.
        if request.method in security.SAFE_METHODS:
            db.session.commit()
        return response

    @app.shell_context_processor
    def shell_names():
        return {"db": db, **{name: getattr(models, name) for name in ("User", "Profile", "friends", "friend_requests")}}

    return app


def init_database(app: Flask):
    """Bind SQLAlchemy and Alembic to the application."""
    uri, seconds = app.config["SQLALCHEMY_DATABASE_URI"], app.config["DATABASE_SECONDS"]
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(uri, seconds)
    db.init_app(app)
    schema.init_app(app)
    with app.app_context():
        configure_engine(db.engine, app.config["SQLITE_SYNCHRONOUS"])
