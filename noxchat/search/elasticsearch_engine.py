"""The engine that searches with Elasticsearch, and falls back to the database's engine.

Only imported where ELASTICSEARCH_URL is set. The index contains the folded texts of normalization.py in forms that need
no analysis by Elasticsearch, so that all engines find the same rows in the same order. It returns ids and positions;
the database decides who may be seen, and loads the rows.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import elasticsearch
from elastic_transport import Urllib3HttpNode
from flask import Flask
from sqlalchemy import Integer, Text, text
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from noxchat.extensions import db
from noxchat.search.engines import database_engine
from noxchat.search.normalization import (
    EXACT,
    FIELD_END,
    NAME_PREFIX,
    SHORT_WORD,
    SUBSTRING,
    WORD_PREFIX,
    WORD_START,
    Hit,
    Query,
)

log = logging.getLogger("noxchat.search")
logging.getLogger("elastic_transport").setLevel(logging.CRITICAL)  # errors are logged here, once

DEFAULT_PORT = 9200
EXTRA_HITS = 4  # beyond the limit, since some may be hidden from the viewer
MAX_HITS = 1000
MIN_OPEN_SECONDS, MAX_OPEN_SECONDS = 1.0, 15.0  # for which the circuit breaker stays open after a failure
RESET_SECONDS = 60  # without failure, after which the breaker starts again with MIN_OPEN_SECONDS
MAX_RESPONSE_BYTES = 20_000_000
CHUNK_BYTES = 65_536

INDEX_VERSION = 1  # raised with every change of the documents; older indexes are then rebuilt
PREFIXES = {"min_chars": 1, "max_chars": 10}
WORDS = {"type": "text", "analyzer": "whitespace", "norms": False}
MAPPINGS = {
    "dynamic": "strict",
    "_source": {"enabled": False},  # the rows are in the database
    "properties": {
        "id": {"type": "long", "index": False},
        "version": {"type": "long", "index": False},
        "text": {"type": "keyword", "index": False},
        "whole": {"type": "text", "analyzer": "keyword", "norms": False, "index_prefixes": PREFIXES},
        "called": {"type": "keyword", "doc_values": False},
        "begins": {**WORDS, "index_prefixes": PREFIXES},
        "trigrams": WORDS,
    },
}


class Unavailable(Exception):
    """Elasticsearch did not answer in time, or with something unexpected, or its index must not be used now."""


# Whatever a request can fail with: no answer, an error status, or an unexpected answer.
ELASTICSEARCH_ERRORS = (elasticsearch.TransportError, elasticsearch.ApiError, Unavailable)


def describe_error(error: Exception) -> str:
    """Return a description of an error for the log. Of foreign errors only the type: their text may contain a URL."""
    if isinstance(error, Unavailable):
        return str(error)
    status = getattr(getattr(error, "meta", None), "status", None)
    return f"{type(error).__name__} {status}" if status else type(error).__name__


def make_document(row_id: int, version: int, text: str) -> dict:
    """Return the document for a row: id, version, and the folded text in the forms that are searched."""
    fields = text.split(FIELD_END)
    words = list(dict.fromkeys(text.split()))
    exact = [fields[0], *(field for field in fields[1:-1] if len(field.split()) == 1)]
    return {
        "id": row_id,
        "version": version,
        "text": text,
        "whole": text.removeprefix(WORD_START),
        "called": [field.removeprefix(WORD_START) for field in exact],
        "begins": words,
        # One value per word, so that no phrase matches across words.
        "trigrams": [" ".join(trigrams(word)) for word in words if len(word) > SHORT_WORD],
    }


def trigrams(word: str) -> list[str]:
    """Return the trigrams of a word. A word contains another if it contains its trigrams as a phrase."""
    return [word[start : start + SHORT_WORD + 1] for start in range(len(word) - SHORT_WORD)]


def prefix_conditions(words) -> list[dict]:
    return [{"prefix": {"begins": word}} for word in words]


@lru_cache(maxsize=256)
def rank_query(query: Query) -> dict:
    """Return the query for Elasticsearch, in which the score of a hit is its rank reversed: higher is better."""
    prefix = query.prefix.removeprefix(WORD_START)
    contains = [
        {"match_phrase": {"trigrams": " ".join(trigrams(word))}} for word in query.words if len(word) > SHORT_WORD
    ]
    ranks = {
        EXACT: [{"term": {"called": prefix}}],
        NAME_PREFIX: [{"prefix": {"whole": prefix}}],
        WORD_PREFIX: prefix_conditions(query.words),
        SUBSTRING: contains + prefix_conditions(word for word in query.words if len(word) <= SHORT_WORD),
    }
    return {
        "dis_max": {
            "queries": [
                {"constant_score": {"filter": {"bool": {"filter": conditions}}, "boost": score(rank)}}
                for rank, conditions in ranks.items()
                if rank <= query.max_rank
            ]
        }
    }


def score(rank: int) -> float:
    return float(SUBSTRING - rank + 1)


class BoundedNode(Urllib3HttpNode):
    """Connections to Elasticsearch with a time limit for the whole response, and a size limit.

    urllib3's timeout applies to each read separately.
    """

    def __init__(self, config):
        super().__init__(config)
        self.pool = BoundedPool(self.pool)


class BoundedPool:
    """The part of urllib3's connection pool that BoundedNode uses."""

    def __init__(self, pool):
        self.pool = pool

    def urlopen(self, method, target, *, timeout=None, **options):
        """Return status, headers and the whole body of a response. Raises what urllib3 raises."""
        seconds = timeout if timeout is not None else self.pool.timeout.total
        deadline = time.monotonic() + seconds
        limits = {"timeout": seconds, "pool_timeout": seconds}
        response = self.pool.urlopen(method, target, preload_content=False, **limits, **options)
        try:
            data = bytearray()
            while chunk := response.read1(CHUNK_BYTES):
                data += chunk
                if len(data) > MAX_RESPONSE_BYTES:
                    raise ProtocolError("response too large")
                if time.monotonic() > deadline:
                    raise ReadTimeoutError(self.pool, target, "response too slow")
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()
        return SimpleNamespace(status=response.status, headers=response.headers, data=bytes(data))

    def close(self):
        """Close the connections."""
        self.pool.close()


class ElasticsearchEngine:
    """Searches with Elasticsearch while it answers and its index is up to date, otherwise with the database's engine.

    A circuit breaker: a failed search opens it, and only the indexer closes it again, after checking the index.
    is_ready: whether it is closed.
    """

    def __init__(self, app: Flask):
        config = app.config
        self.seconds = config["ELASTICSEARCH_MILLISECONDS"] / 1000
        self.prefix = config["ELASTICSEARCH_PREFIX"]
        url = urlsplit(config["ELASTICSEARCH_URL"])
        port = url.port or DEFAULT_PORT
        path = url.path.rstrip("/")
        self.host = f"{url.scheme}://{url.hostname}:{port}"
        self.options = {
            "hosts": [{"scheme": url.scheme, "host": url.hostname, "port": port, "path_prefix": path}],
            "node_class": BoundedNode,
            "request_timeout": self.seconds,
            "max_retries": 0,
            # One for each thread, so that none waits for another's.
            "connections_per_node": config["THREADS"] + 2,
        }
        if config["ELASTICSEARCH_API_KEY"]:
            self.options["api_key"] = config["ELASTICSEARCH_API_KEY"]
        elif url.username:
            self.options["basic_auth"] = (unquote(url.username), unquote(url.password or ""))
        if config["ELASTICSEARCH_CA"]:
            self.options["ca_certs"] = config["ELASTICSEARCH_CA"]
        self.threads = config["THREADS"]
        self.lock = threading.Lock()
        self.is_ready, self.logged_state = False, None
        self.open_seconds = self.open_until = self.closed_at = 0.0
        self.process_id = None

    def _ensure_process(self):
        """Create what a forked process cannot share: connections and threads."""
        with self.lock:
            if self.process_id != os.getpid():
                self._client = elasticsearch.Elasticsearch(**self.options)
                self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="search")
                self.process_id = os.getpid()

    @property
    def client(self) -> elasticsearch.Elasticsearch:
        """The client of this process."""
        self._ensure_process()
        return self._client

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The threads of this process that wait for responses."""
        self._ensure_process()
        return self._executor

    def close(self):
        """Close connections and threads; they are created again when needed."""
        with self.lock:
            if self.process_id == os.getpid():
                self._client.close()
                self._executor.shutdown(wait=False)
                self.process_id = None

    def alias(self, model) -> str:
        """Return the alias by which a model's index is searched."""
        return f"{self.prefix}-{model.__tablename__}"

    def open_circuit(self, reason: str):
        """Stop using Elasticsearch for a while, which grows with each failure. Logged once.

        After that the indexer checks it.
        """
        with self.lock:
            moment = time.monotonic()
            if self.is_ready or not self.circuit_open:  # simultaneous failures count once
                recovered = self.is_ready and moment - self.closed_at > RESET_SECONDS
                is_first = recovered or not self.open_seconds
                self.open_seconds = MIN_OPEN_SECONDS if is_first else min(2 * self.open_seconds, MAX_OPEN_SECONDS)
                self.open_until = moment + self.open_seconds
            self.is_ready = False
            if self.logged_state != "failed":
                self.logged_state = "failed"
                log.warning("searching in the database: Elasticsearch at %s: %s", self.host, reason)

    @property
    def circuit_open(self) -> bool:
        """Whether Elasticsearch is not to be asked yet, not even by the indexer."""
        return not self.is_ready and time.monotonic() < self.open_until

    def close_circuit(self):
        """Search with Elasticsearch from now on."""
        with self.lock:
            if not self.is_ready:
                self.is_ready, self.closed_at = True, time.monotonic()
            if self.logged_state != "ready":
                self.logged_state = "ready"
                log.info("searching with Elasticsearch at %s", self.host)

    def search(self, model, query: Query, after: Hit | None, limit: int, load_rows, *, excluded, viewer: int) -> list:
        """Return rows as Engine.search does. If Elasticsearch fails in between, the database continues from there.

        Commits the transaction at hand, so it must not be called in the middle of writing.
        """
        rows, position, size = [], after, limit + EXTRA_HITS
        deadline = time.monotonic() + self.seconds
        db.session.commit()  # release the connection while Elasticsearch is asked
        while len(rows) < limit:
            hits = (
                self._fetch_hits(model, query, position, size)
                if self.is_ready and time.monotonic() < deadline
                else None
            )
            if hits is None:
                options = {"excluded": excluded, "viewer": viewer}
                fallback = database_engine()
                return rows + fallback.search(model, query, position, limit - len(rows), load_rows, **options)
            if hits:
                values = {"viewer": viewer, "hits": json.dumps(hits, ensure_ascii=False)}
                rows += db.session.execute(load_rows(hits_subquery(db.engine.dialect.name, excluded)), values).all()
                position = hits[-1]
            if len(hits) < size:
                break
            size = min(2 * size, MAX_HITS)
        return rows[:limit]

    def _fetch_hits(self, model, query: Query, after: Hit | None, size: int) -> list[Hit] | None:
        """Return hits, best match first; None if that failed, which opens the circuit."""
        body = {
            "query": rank_query(query),
            "sort": [{"_score": "desc"}, {"text": "asc"}],
            "size": size,
            "track_total_hits": False,
            "_source": False,
        }
        if after:
            body["search_after"] = [score(after.rank), after.text]
        options = {"index": self.alias(model), "allow_partial_search_results": False, "body": body}
        options["filter_path"] = "timed_out,hits.hits._id,hits.hits.sort"
        try:
            return parse_hits(self.with_deadline(self.client.search, **options).body)
        except Exception as error:  # noqa: BLE001  whatever a server may send, the person gets an answer
            self.open_circuit(describe_error(error))
            return None

    def with_deadline(self, method: Callable, **arguments):
        """Return what a method of the client returns. Raises Unavailable after ELASTICSEARCH_MILLISECONDS.

        It runs in another thread, since not everything has a timeout of its own, such as resolving a host name.
        """
        try:
            return self.executor.submit(method, **arguments).result(self.seconds)
        except TimeoutError:
            raise Unavailable(f"no answer in {self.seconds} s") from None


def parse_hits(response) -> list[Hit]:
    """Return the hits in the response to a search. Raises Unavailable if it is something else."""
    try:
        if response["timed_out"] is not False:
            raise Unavailable("only part of the index was searched")
        found = response.get("hits", {}).get("hits", [])
        hits = [Hit(int(hit["_id"]), SUBSTRING + 1 - int(hit["sort"][0]), hit["sort"][1]) for hit in found]
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise Unavailable("unexpected response to a search") from error
    if not all(0 < hit.id < 2**31 and EXACT <= hit.rank <= SUBSTRING and is_storable(hit.text) for hit in hits):
        raise Unavailable("unexpected hits")
    return hits


def is_storable(text) -> bool:
    """Tell whether this is a text that a database accepts."""
    return isinstance(text, str) and "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


@lru_cache(maxsize=16)
def hits_subquery(dialect: str, excluded):
    """Return a subquery of the hits in the parameter `hits` (JSON), without those that are excluded."""
    rows = {
        "postgresql": "SELECT (hit ->> 0)::integer AS id, (hit ->> 1)::integer AS rank,"
        ' (hit ->> 2) COLLATE "C" AS search_text FROM json_array_elements(CAST(:hits AS json)) AS hit',
        "sqlite": "SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS rank,"
        " json_extract(value, '$[2]') AS search_text FROM json_each(:hits)",
    }[dialect]
    statement = text(f"SELECT id, rank, search_text FROM ({rows}) AS hits WHERE id NOT IN ({excluded.compile()})")  # noqa: S608
    return statement.columns(id=Integer, rank=Integer, search_text=Text).subquery("hits")
