"""Search: `SearchableMixin` for models, and the engines that search them.

normalization: the text that is searched, and queries. engines: those of the databases. mixin: for models. Only where
ELASTICSEARCH_URL is set: elasticsearch_engine; outbox, the changes that its index does not have yet; indexer, which
keeps the index up to date.
"""

from flask import Flask

from noxchat.search import outbox  # registers its tables
from noxchat.search.engines import (
    ENGINES,
    Engine,
    contains_all,
    create_trigram_index,
    database_engine,
    has_trigram_index,
    is_search_index,
    trigram_index_name,
)
from noxchat.search.mixin import TEXT_BY_CODE_POINTS, SearchableMixin, models
from noxchat.search.normalization import EXACT, NAME_PREFIX, SUBSTRING, WORD_PREFIX, Hit, Query, fold, make_search_text


def init_app(app: Flask):
    """Set up the indexer. Waits for no server, and imports nothing of Elasticsearch unless that is set."""
    app.extensions["indexer"] = None
    if app.config["ELASTICSEARCH_URL"]:
        from noxchat.search.elasticsearch_engine import ElasticsearchEngine
        from noxchat.search.indexer import Indexer

        app.extensions["indexer"] = Indexer(app, ElasticsearchEngine(app))


def start(app: Flask):
    """Start the indexer in this process, if Elasticsearch is set."""
    if app.extensions["indexer"]:
        app.extensions["indexer"].start()


def stop(app: Flask, *, wait: bool = False):
    """Have this process's indexer stop after its current step."""
    if app.extensions["indexer"]:
        app.extensions["indexer"].stop()
        if wait and app.extensions["indexer"].thread:
            app.extensions["indexer"].thread.join(10)
