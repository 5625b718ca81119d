"""Finding people, and whatever else is called something: `SearchableMixin` for models, and the engines that search.

texts: what is searched, and what somebody looks for. engines: the databases' own. mixin: for models. Where
ELASTICSEARCH_URL is set also elastic, the engine; outbox, what it does not know yet; indexer, who tells it.
"""

from flask import Flask

from noxchat.search import outbox  # noqa: F401  its tables
from noxchat.search.engines import ENGINES, Engine, choose, fits, is_index, make_index, trigrams
from noxchat.search.mixin import SearchableMixin, models
from noxchat.search.texts import EXACT, INSIDE, NAME_BEGINS, WORD_BEGINS, Hit, Query, fold, searchable

__all__ = [
    "ENGINES",
    "EXACT",
    "INSIDE",
    "NAME_BEGINS",
    "WORD_BEGINS",
    "Engine",
    "Hit",
    "Query",
    "SearchableMixin",
    "choose",
    "end",
    "fits",
    "fold",
    "init_app",
    "is_index",
    "make_index",
    "models",
    "searchable",
    "start",
    "trigrams",
]


def init_app(app: Flask):
    """Choose what searches. Waits for no server, and loads nothing of Elasticsearch unless that is set."""
    choose(app)
    app.extensions["elasticsearch"] = app.extensions["indexer"] = None
    if app.config["ELASTICSEARCH_URL"]:
        from noxchat.search.elastic import Elasticsearch
        from noxchat.search.indexer import Indexer

        app.extensions["elasticsearch"] = Elasticsearch(app)
        app.extensions["indexer"] = Indexer(app, app.extensions["elasticsearch"])


def start(app: Flask):
    """Start to keep the index true, from this process, if there is to be one."""
    if app.extensions["indexer"]:
        app.extensions["indexer"].start()


def end(app: Flask):
    """Have this process let go of the index after what it is at, for whoever comes after it."""
    if app.extensions["indexer"]:
        app.extensions["indexer"].end()
