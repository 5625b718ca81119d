"""The engine that searches with Elasticsearch, and falls back to the database's engine.

Only imported where ELASTICSEARCH_URL is set. The index contains the folded texts of normalization.py in forms that need
no analysis by Elasticsearch, so that all engines find the same rows in the same order. It returns ids and positions;
the database decides who may be seen, and loads the rows.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import elasticsearch
from elastic_transport import Urllib3HttpNode
from elasticsearch.helpers import ScanError
from flask import Flask
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from noxchat.database import Locked
from noxchat.extensions import db
from noxchat.search.engines import Search, database_engine
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

EXTRA_HITS = 4  # beyond the limit, since some may be hidden from the viewer
MAX_HITS = 1000
OPEN_SECONDS = 5.0  # for which the circuit breaker stays open after a failure
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


# What is expected to fail: no answer, an error status, or another process that writes the index.
ELASTICSEARCH_ERRORS = (elasticsearch.TransportError, elasticsearch.ApiError, ScanError, Unavailable, Locked)


def describe_error(error: Exception) -> str:
    """Return a description of an error for the log. Of foreign errors only the type: their text may contain a URL."""
    if isinstance(error, (Unavailable, Locked)):
        return str(error)
    status = getattr(getattr(error, "meta", None), "status", None)
    return f"{type(error).__name__} {status}" if status else type(error).__name__


def make_document(row_id: int, version: int, text: str | None) -> dict:
    """Return the document for a row: id, version, and the folded text in the forms that are searched.

    text: None for a deleted row. It leaves a tombstone with its version, so that no older write can bring it back:
    Elasticsearch itself remembers a deletion for a minute only. The next index that is built has no tombstones.
    """
    if text is None:
        return {"id": row_id, "version": version}
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


@lru_cache(maxsize=256)
def rank_query(query: Query) -> dict:
    """Return the query for Elasticsearch, in which the score of a hit is higher for better ranks."""
    prefix = query.prefix.removeprefix(WORD_START)
    begins = [{"prefix": {"begins": word}} for word in query.words]
    contains = [{"match_phrase": {"trigrams": " ".join(trigrams(word))}} for word in query.words]
    pairs = zip(query.words, begins, contains, strict=True)
    ranks = {
        EXACT: [{"term": {"called": prefix}}],
        NAME_PREFIX: [{"prefix": {"whole": prefix}}],
        WORD_PREFIX: begins,
        SUBSTRING: [start if len(word) <= SHORT_WORD else part for word, start, part in pairs],
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
        pool: Any = self.pool
        self.send, pool.urlopen = pool.urlopen, self.urlopen

    def urlopen(self, method, target, *, timeout=None, **options):
        """Return status, headers and the whole body of a response. Raises what urllib3 raises."""
        seconds = timeout or self.config.request_timeout or 0.0
        deadline = time.monotonic() + seconds
        limits = {"timeout": seconds, "pool_timeout": seconds}
        response = self.send(method, target, preload_content=False, **limits, **options)
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


class ElasticsearchEngine:
    """Searches with Elasticsearch while it answers and its index is up to date, otherwise with the database's engine.

    A circuit breaker: a failed search opens it, and only the indexer closes it again, after checking the index.
    is_ready: whether it is closed. aliases: by which the index of each table is searched; set by the indexer.
    """

    def __init__(self, app: Flask):
        config = app.config
        self.seconds = config["ELASTICSEARCH_MILLISECONDS"] / 1000
        # Neither has connections or threads before it is used, so a server may fork after this.
        self.executor = ThreadPoolExecutor(config["THREADS"], thread_name_prefix="search")
        certificates = {"ca_certs": config["ELASTICSEARCH_CA"]} if config["ELASTICSEARCH_CA"] else {}
        self.client = elasticsearch.Elasticsearch(
            config["ELASTICSEARCH_URL"],
            api_key=config["ELASTICSEARCH_API_KEY"],
            node_class=BoundedNode,
            request_timeout=self.seconds,
            max_retries=0,
            connections_per_node=config["THREADS"] + 2,  # one for each thread, the indexer, and a health check
            **certificates,
        )
        url = urlsplit(config["ELASTICSEARCH_URL"])
        self.host = f"{url.scheme}://{url.hostname}:{url.port}"
        self.aliases: dict[str, str] = {}
        self.is_ready, self.logged_state, self.open_until = False, "", 0.0

    def close(self):
        """Close connections and threads for good."""
        self.client.close()
        self.executor.shutdown(wait=False)

    def open_circuit(self, error: Exception):
        """Stop using Elasticsearch for OPEN_SECONDS; after that the indexer checks it. Logged once."""
        self.open_until, self.is_ready = time.monotonic() + OPEN_SECONDS, False
        if self.logged_state != "failed":
            self.logged_state = "failed"
            traceback = None if isinstance(error, (*ELASTICSEARCH_ERRORS, SQLAlchemyError)) else error
            reason = describe_error(error)
            log.warning("searching in the database: Elasticsearch at %s: %s", self.host, reason, exc_info=traceback)

    @property
    def circuit_open(self) -> bool:
        """Whether Elasticsearch is not to be asked yet, not even by the indexer."""
        return not self.is_ready and time.monotonic() < self.open_until

    def close_circuit(self):
        """Search with Elasticsearch from now on."""
        self.is_ready = True
        if self.logged_state != "ready":
            self.logged_state = "ready"
            log.info("searching with Elasticsearch at %s", self.host)

    def search(self, search: Search, after: Hit | None, limit: int) -> list[Hit]:
        """Return hits as Engine.search does. If Elasticsearch fails in between, the database continues from there.

        Commits the transaction at hand, so it must not be called in the middle of writing.
        """
        hits: list[Hit] = []
        size, deadline = limit + EXTRA_HITS, time.monotonic() + self.seconds
        while len(hits) < limit:
            db.session.commit()  # release the connection while Elasticsearch is asked
            is_usable = self.is_ready and time.monotonic() < deadline
            found = self._fetch_hits(search, after, size) if is_usable else None
            if found is None:
                return hits + database_engine().search(search, after, limit - len(hits))
            hits += self._visible_hits(search, found)
            if len(found) < size:
                break
            after, size = found[-1], min(2 * size, MAX_HITS)
        return hits[:limit]

    def _visible_hits(self, search: Search, hits: list[Hit]) -> list[Hit]:
        """Return those hits whose rows exist and may be found."""
        row_id = search.model.__table__.c.id
        visible = select(row_id).where(row_id.in_([hit.id for hit in hits]), search.condition)
        ids = set(db.session.scalars(visible, search.parameters))
        return [hit for hit in hits if hit.id in ids]

    def _fetch_hits(self, search: Search, after: Hit | None, size: int) -> list[Hit] | None:
        """Return hits, best match first; None if that failed, which opens the circuit."""
        try:
            response = self.with_deadline(
                self.client.search,
                index=self.aliases[search.model.__tablename__],
                query=rank_query(search.query),
                sort=[{"_score": "desc"}, {"text": "asc"}],
                search_after=[score(after.rank), after.text] if after else None,
                size=size,
                source=False,
                track_total_hits=False,
                allow_partial_search_results=False,
                filter_path="timed_out,hits.hits._id,hits.hits.sort",
            )
            return parse_hits(response.body)
        except Exception as error:  # noqa: BLE001  whatever a server may send, the person gets an answer
            self.open_circuit(error)
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
    """Return the hits in the response to a search. Raises an exception of some kind if it is something else."""
    if response["timed_out"] is not False:
        raise Unavailable("only part of the index was searched")
    found = response.get("hits", {}).get("hits", [])
    hits = [Hit(int(hit["_id"]), SUBSTRING + 1 - int(hit["sort"][0]), hit["sort"][1]) for hit in found]
    # What a database would refuse, since the last hit may become its cursor.
    "".join(hit.text for hit in hits).encode()
    if not all(0 < hit.id < 2**31 and EXACT <= hit.rank <= SUBSTRING and "\0" not in hit.text for hit in hits):
        raise Unavailable("unexpected hits")
    return hits
