"""The engine that asks Elasticsearch, and lets the database answer whenever that does not.

Only loaded where ELASTICSEARCH_URL is set. What is in the index is the folded text of `texts.py` in forms that need no
analysis of Elasticsearch's own, so that every engine finds the same and in the same order. It answers ids and places;
who may be seen, and what is shown of them, the database says.
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
from noxchat.search.texts import AFTER_FIELD, BEFORE_WORD, EXACT, INSIDE, NAME_BEGINS, SHORT, WORD_BEGINS, Hit, Query

log = logging.getLogger("noxchat.search")
logging.getLogger("elastic_transport").setLevel(logging.CRITICAL)  # what there is to say of it is said here, once

USUAL_PORT = 9200
SPARE = 4  # hits more than are wanted, since some may not be seen: oneself, say
MOST_HITS = 1000
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0  # seconds for which a server that failed is left alone
CALM = 60  # seconds without failure, after which the next one is the first again
LARGEST_ANSWER = 20_000_000
CHUNK = 65_536

LAYOUT = 1  # of the documents; raised with every change to them, and then each index is built anew
PREFIXES = {"min_chars": 1, "max_chars": 10}
WORDS = {"type": "text", "analyzer": "whitespace", "norms": False}
MAPPINGS = {
    "dynamic": "strict",
    "_source": {"enabled": False},  # the database has it
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


class Unusable(Exception):
    """Elasticsearch answered what no Elasticsearch answers."""


# Everything that can come of asking: no answer, an answer that is none, and an answer that is no.
TROUBLE = (elasticsearch.TransportError, elasticsearch.ApiError, Unusable)


def what_happened(error: Exception) -> str:
    """Return what is wrong for people; of an error that is not ours its kind only: the text may hold an address."""
    if isinstance(error, Unusable):
        return str(error)
    status = getattr(getattr(error, "meta", None), "status", None)
    return f"{type(error).__name__} {status}" if status else type(error).__name__


def document(number: int, version: int, text: str) -> dict:
    """Return what is indexed of a row: its number, its version and its folded text, in the forms that are searched."""
    fields = text.split(AFTER_FIELD)
    words = list(dict.fromkeys(text.split()))
    called = [fields[0], *(field for field in fields[1:-1] if len(field.split()) == 1)]
    return {
        "id": number,
        "version": version,
        "text": text,
        "whole": text.removeprefix(BEFORE_WORD),
        "called": [field.removeprefix(BEFORE_WORD) for field in called],
        "begins": words,
        # Each word by itself, so that no phrase reaches from one into the next.
        "trigrams": [" ".join(grams(word)) for word in words if len(word) > SHORT],
    }


def grams(word: str) -> list[str]:
    """Return the groups of three letters in a word: one contains another where all of its groups follow one another."""
    return [word[place : place + SHORT + 1] for place in range(len(word) - SHORT)]


def begins(words) -> list[dict]:
    return [{"prefix": {"begins": word}} for word in words]


@lru_cache(maxsize=256)
def question(query: Query) -> dict:
    """Return the query whose score is the rank of a hit, turned round: the better, the higher."""
    whole = query.whole.removeprefix(BEFORE_WORD)
    contains = [{"match_phrase": {"trigrams": " ".join(grams(word))}} for word in query.words if len(word) > SHORT]
    ranks = {
        EXACT: [{"term": {"called": whole}}],
        NAME_BEGINS: [{"prefix": {"whole": whole}}],
        WORD_BEGINS: begins(query.words),
        INSIDE: contains + begins(word for word in query.words if len(word) <= SHORT),
    }
    return {
        "dis_max": {
            "queries": [
                {"constant_score": {"filter": {"bool": {"filter": conditions}}, "boost": score(rank)}}
                for rank, conditions in ranks.items()
                if rank <= query.last_rank
            ]
        }
    }


def score(rank: int) -> float:
    return float(INSIDE - rank + 1)


class BoundedNode(Urllib3HttpNode):
    """Connections to Elasticsearch that end with an answer whose body takes too long as a whole, or has no end.

    urllib3's time limit is one for each piece of it.
    """

    def __init__(self, config):
        super().__init__(config)
        self.pool = BoundedPool(self.pool)


class BoundedPool:
    """What BoundedNode uses of a pool of urllib3."""

    def __init__(self, pool):
        self.pool = pool

    def urlopen(self, method, target, *, timeout=None, **options):
        """Return the status, the headers and the whole data of an answer. Raises what urllib3 raises."""
        seconds = timeout if timeout is not None else self.pool.timeout.total
        deadline = time.monotonic() + seconds
        limits = {"timeout": seconds, "pool_timeout": seconds}
        response = self.pool.urlopen(method, target, preload_content=False, **limits, **options)
        try:
            data = bytearray()
            while chunk := response.read1(CHUNK):
                data += chunk
                if len(data) > LARGEST_ANSWER:
                    raise ProtocolError("too much of an answer")
                if time.monotonic() > deadline:
                    raise ReadTimeoutError(self.pool, target, "too slow")
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()
        return SimpleNamespace(status=response.status, headers=response.headers, data=bytes(data))

    def close(self):
        """Close the connections."""
        self.pool.close()


class Elasticsearch:
    """Searches by Elasticsearch while that is known to answer and to be up to date; else the database's engine does.

    It is the indexer that finds out that (`is_ready`); whoever searches only ever finds out the opposite, once.
    """

    def __init__(self, app: Flask):
        config = app.config
        self.seconds = config["ELASTICSEARCH_MILLISECONDS"] / 1000
        self.prefix = config["ELASTICSEARCH_PREFIX"]
        url = urlsplit(config["ELASTICSEARCH_URL"])
        port = url.port or USUAL_PORT
        path = url.path.rstrip("/")
        self.host = f"{url.scheme}://{url.hostname}:{port}"
        self.options = {
            "hosts": [{"scheme": url.scheme, "host": url.hostname, "port": port, "path_prefix": path}],
            "node_class": BoundedNode,
            "request_timeout": self.seconds,
            "max_retries": 0,
            # For each thread one, or they would wait for each other's, however long that takes.
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
        self.is_ready, self.told = False, None
        self.pause = self.rested = self.recovered = 0.0
        self.process = None

    def _in_this_process(self):
        """Make what a fork cannot share: connections and threads."""
        with self.lock:
            if self.process != os.getpid():
                self._client = elasticsearch.Elasticsearch(**self.options)
                self._askers = ThreadPoolExecutor(self.threads, thread_name_prefix="search")
                self.process = os.getpid()

    @property
    def client(self) -> elasticsearch.Elasticsearch:
        """The client of this process."""
        self._in_this_process()
        return self._client

    @property
    def askers(self) -> ThreadPoolExecutor:
        """The threads of this process that wait for answers."""
        self._in_this_process()
        return self._askers

    def close(self):
        """Let go of connections and threads; they are made again when they are wanted."""
        with self.lock:
            if self.process == os.getpid():
                self._client.close()
                self._askers.shutdown(wait=False)
                self.process = None

    def index(self, model) -> str:
        """Return the name by which a model's index is searched: an alias."""
        return f"{self.prefix}-{model.__tablename__}"

    def fail(self, why: str):
        """Leave Elasticsearch alone for a while, which grows as it fails again; said once in the log.

        The indexer then sees whether it is well.
        """
        with self.lock:
            moment = time.monotonic()
            if self.is_ready or not self.is_resting:  # or many who waited for it would each make that longer
                calm = self.is_ready and moment - self.recovered > CALM
                self.pause = FIRST_PAUSE if calm or not self.pause else min(2 * self.pause, LONGEST_PAUSE)
                self.rested = moment + self.pause
            self.is_ready = False
            if self.told != "failed":
                self.told = "failed"
                log.warning("the database searches: Elasticsearch at %s: %s", self.host, why)

    @property
    def is_resting(self) -> bool:
        """Whether it is to be left alone yet."""
        return not self.is_ready and time.monotonic() < self.rested

    def recover(self):
        """Search by Elasticsearch from now on."""
        with self.lock:
            if not self.is_ready:
                self.is_ready, self.recovered = True, time.monotonic()
            if self.told != "ready":
                self.told = "ready"
                log.info("Elasticsearch at %s searches", self.host)

    def search(self, model, query: Query, after: Hit | None, limit: int, load, *, unseen, viewer: int) -> list:
        """Return rows as Engine.search does. Where Elasticsearch stops to answer, the database goes on from there.

        Ends the transaction at hand, so not for the middle of writing.
        """
        rows, place, size = [], after, limit + SPARE
        deadline = time.monotonic() + self.seconds
        db.session.commit()  # or a connection is held for as long as Elasticsearch takes, and there are few
        while len(rows) < limit:
            hits = self._ask(model, query, place, size) if self.is_ready and time.monotonic() < deadline else None
            if hits is None:
                about = {"unseen": unseen, "viewer": viewer}
                return rows + database_engine().search(model, query, place, limit - len(rows), load, **about)
            if hits:
                values = {"viewer": viewer, "hits": json.dumps(hits, ensure_ascii=False)}
                rows += db.session.execute(load(given(db.engine.dialect.name, unseen)), values).all()
                place = hits[-1]
            if len(hits) < size:
                break
            size = min(2 * size, MOST_HITS)
        return rows[:limit]

    def _ask(self, model, query: Query, after: Hit | None, size: int) -> list[Hit] | None:
        """Return hits, the best first; None, having said so in the log, if there is trouble."""
        body = {
            "query": question(query),
            "sort": [{"_score": "desc"}, {"text": "asc"}],
            "size": size,
            "track_total_hits": False,
            "_source": False,
        }
        if after:
            body["search_after"] = [score(after.rank), after.text]
        about = {"index": self.index(model), "allow_partial_search_results": False, "body": body}
        about["filter_path"] = "timed_out,hits.hits._id,hits.hits.sort"
        try:
            return hits_in(self.promptly(self.client.search, **about).body)
        except Exception as error:  # noqa: BLE001  whatever a server can send, the person gets an answer
            self.fail(what_happened(error))
            return None

    def promptly(self, ask: Callable, **about):
        """Return what a method of the client returns, in the time of a search. Raises Unusable when that is over.

        In another thread, since much can take time that has no limit of its own: finding out an address, for one.
        """
        try:
            return self.askers.submit(ask, **about).result(self.seconds)
        except TimeoutError:
            raise Unusable(f"no answer in {self.seconds} s") from None


def hits_in(answer) -> list[Hit]:
    """Return the hits in Elasticsearch's answer to a search. Raises Unusable if it is something else."""
    try:
        if answer["timed_out"] is not False:
            raise Unusable("only a part was searched")
        found = answer.get("hits", {}).get("hits", [])
        hits = [Hit(int(hit["_id"]), INSIDE + 1 - int(hit["sort"][0]), hit["sort"][1]) for hit in found]
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise Unusable("no answer to a search") from error
    if not all(0 < hit.id < 2**31 and EXACT <= hit.rank <= INSIDE and is_word(hit.text) for hit in hits):
        raise Unusable("hits that were not asked for")
    return hits


def is_word(text) -> bool:
    """Tell whether this is text that a database takes."""
    return isinstance(text, str) and "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


@lru_cache(maxsize=16)
def given(dialect: str, unseen):
    """Return a subquery of the hits that come as a parameter, in JSON, without whoever may not be found."""
    rows = {
        "postgresql": "SELECT (hit ->> 0)::integer AS id, (hit ->> 1)::integer AS rank,"
        ' (hit ->> 2) COLLATE "C" AS search_text FROM json_array_elements(CAST(:hits AS json)) AS hit',
        "sqlite": "SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS rank,"
        " json_extract(value, '$[2]') AS search_text FROM json_each(:hits)",
    }[dialect]
    statement = text(f"SELECT id, rank, search_text FROM ({rows}) AS given WHERE id NOT IN ({unseen.compile()})")  # noqa: S608
    return statement.columns(id=Integer, rank=Integer, search_text=Text).subquery("hits")
