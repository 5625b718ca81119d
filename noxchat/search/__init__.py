"""Search: `SearchableMixin` for models, and the engines that search them.

normalization: the text that is searched, and queries. engines: those of the databases. mixin: for models. Only where
ELASTICSEARCH_URL is set: elasticsearch_engine; outbox, the changes that its index does not have yet; indexer, which
keeps the index up to date.
"""

from flask import Flask

from noxchat.search import outbox  # noqa: F401  registers its tables
from noxchat.search.engines import (
    ENGINES,
    Engine,
    contains_all,
    create_trigram_index,
    is_search_index,
    select_engine,
    trigram_index_name,
)
from noxchat.search.mixin import SearchableMixin, models
from noxchat.search.normalization import EXACT, NAME_PREFIX, SUBSTRING, WORD_PREFIX, Hit, Query, fold, make_search_text

__all__ = [
    "ENGINES",
    "EXACT",
    "NAME_PREFIX",
    "SUBSTRING",
    "WORD_PREFIX",
    "Engine",
    "Hit",
    "Query",
    "SearchableMixin",
    "contains_all",
    "create_trigram_index",
    "fold",
    "init_app",
    "is_search_index",
    "make_search_text",
    "models",
    "select_engine",
    "start",
    "stop",
    "trigram_index_name",
]


def init_app(app: Flask):
    """Select the engine. Waits for no server, and imports nothing of Elasticsearch unless that is set."""
    select_engine(app)
    app.extensions["elasticsearch"] = app.extensions["indexer"] = None
    if app.config["ELASTICSEARCH_URL"]:
        from noxchat.search.elasticsearch_engine import ElasticsearchEngine
        from noxchat.search.indexer import Indexer

        app.extensions["elasticsearch"] = ElasticsearchEngine(app)
        app.extensions["indexer"] = Indexer(app, app.extensions["elasticsearch"])


def start(app: Flask):
    """Start the indexer in this process, if Elasticsearch is set."""
    if app.extensions["indexer"]:
        app.extensions["indexer"].start()


def stop(app: Flask):
    """Have this process's indexer stop after its current step, and release the index for others."""
    if app.extensions["indexer"]:
        app.extensions["indexer"].request_stop()
