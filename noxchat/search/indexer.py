"""The indexer keeps the indexes of Elasticsearch up to date: it sends the outbox, and builds and compares indexes.

The database is the source of truth, and everything here can be interrupted at any moment: what was not confirmed is
still in the outbox, and a new index is only searched once it is complete. One process at a time writes an index.
"""

import heapq
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import groupby
from typing import Any

from elasticsearch import Elasticsearch, helpers
from flask import Flask
from sqlalchemy import Connection, Row, select
from sqlalchemy.exc import SQLAlchemyError

from noxchat.database import Locked, exclusive_lock
from noxchat.extensions import db
from noxchat.search import outbox
from noxchat.search.elasticsearch_engine import (
    ELASTICSEARCH_ERRORS,
    INDEX_VERSION,
    MAPPINGS,
    ElasticsearchEngine,
    Unavailable,
    make_document,
)
from noxchat.search.mixin import BATCH_SIZE, models

log = logging.getLogger("noxchat.search")

POLL_SECONDS = 0.5  # changes can be found within two seconds
VERIFY_SECONDS = 30  # between two checks of an index that is in use
MAX_LAG_SECONDS = 5.0  # an index that is further behind is not searched
TIMEOUT_SECONDS = 8  # of a request
LOCK_SECONDS = 2  # how long to wait for another process that is writing the index
LOCK_SECONDS_OF_COMMANDS = 600
CHANGES_PER_BATCH = 1000
SETTINGS = {"number_of_shards": 1, "auto_expand_replicas": "0-1", "refresh_interval": "500ms"}
# The keys in an index's _meta, as indexes of all releases have them.
OWNER, VERSION = "place", "layout"
NOT_DELETED = {"exists": {"field": "text"}}  # not the tombstones of deleted rows


class IndexUnusable(Unavailable):
    """The index is missing, of another version, or does not match the database: it has to be rebuilt."""


class Indexer:
    """The thread that keeps the indexes up to date, one in each server process; also used by the command line."""

    def __init__(self, app: Flask, engine: ElasticsearchEngine):
        self.app, self.engine = app, engine
        self.client = engine.client.options(request_timeout=TIMEOUT_SECONDS)
        self.thread: threading.Thread | None = None
        self.stopped = threading.Event()
        self.start_lock = threading.Lock()
        self.verify_at = 0.0
        self.verified: dict[str, str] = {}  # the index of each table that was verified last

    # The thread.

    def start(self):
        """Start the thread unless it was started before."""
        with self.start_lock:
            if self.thread is None and not self.stopped.is_set():
                self.thread = threading.Thread(target=self._run, name="indexer", daemon=True)
                self.thread.start()

    def stop(self):
        """Have the thread end after its current step."""
        self.stopped.set()

    def _run(self):
        while not self.stopped.is_set():
            if not self.engine.circuit_open:
                with self.app.app_context():
                    self.step()
            self.stopped.wait(POLL_SECONDS)

    def step(self) -> bool:
        """Verify the indexes, and send the outbox, if that is due. Returns whether Elasticsearch can be used now."""
        was_ready, moment = self.engine.is_ready, time.monotonic()
        verify = not was_ready or moment >= self.verify_at
        try:
            for model in models():
                self._update(model, verify=verify)
        except Exception as error:  # noqa: BLE001  the thread must go on
            if not self.stopped.is_set():
                self.engine.open_circuit(error)
            with suppress(SQLAlchemyError):  # the session may have lost its connection as well
                db.session.rollback()
            return False
        if verify:
            self.verify_at = moment + VERIFY_SECONDS
        if not was_ready:  # if it was ready and a search failed meanwhile, it is verified in the next step
            self.engine.close_circuit()
        return self.engine.is_ready

    def _update(self, model, *, verify: bool):
        """Verify or build a model's index, and send its changes, if there are any or `verify` says so."""
        table = model.__tablename__
        lag, (name, _known) = outbox.lag(table), outbox.last_built(table)
        db.session.commit()
        is_usable = self.engine.is_ready and name == self.verified.get(table)
        if is_usable and lag is None and not verify:
            return
        try:
            with lock(model, 0 if is_usable else LOCK_SECONDS) as connection:
                try:
                    self._verify(model)
                    self._drain(model, connection)
                except IndexUnusable as reason:
                    log.info("search in %s: %s; building it", table, reason)
                    outbox.set_built(connection, table, None)  # so that no process searches it any more
                    if self.engine.is_ready:
                        self.engine.open_circuit(reason)
                    self._build(model, connection)
        except Locked:  # another process sends changes, or builds a new index while this one can be used
            if not is_usable or (lag or 0) > MAX_LAG_SECONDS:
                raise

    def verify(self, model):
        """Raise IndexUnusable or another of ELASTICSEARCH_ERRORS if a model's index cannot be searched."""
        with lock(model, LOCK_SECONDS):
            self._verify(model)

    def _verify(self, model, client: Elasticsearch | None = None):
        """client: by default the one that waits no longer than a search does."""
        # Under the lock, since the index is ahead of what the database knows while another process sends changes. A
        # crash at that moment leaves it ahead for good; it is then rebuilt.
        table, client = model.__tablename__, client or self.engine.client
        alias = self._alias(table)
        name, known = outbox.last_built(table)
        db.session.commit()
        found = client.indices.get(index=alias, ignore_unavailable=True, features="mappings").body
        version = found[name]["mappings"].get("_meta", {}).get(VERSION, 0) if list(found) == [name] else 0
        if version > INDEX_VERSION:
            raise Unavailable("its index is of a newer version of NoxChat")
        if version < INDEX_VERSION:
            raise IndexUnusable("its index is missing, of an older version, or not the one that was built last")
        client.indices.refresh(index=alias)
        newest = client.search(index=alias, size=1, sort=[{"version": "desc"}], source=False)["hits"]["hits"]
        if (newest[0]["sort"][0] if newest else 0) != known:
            raise IndexUnusable("its index and the database do not have the same changes")
        self.verified[table] = name

    def status(self, model) -> tuple[str, str, int]:
        """Return a description of the server, the name of a model's index, and how many documents can be found.

        Raises ELASTICSEARCH_ERRORS.
        """
        health = self.client.cluster.health()
        server = f"{health['cluster_name']}, {health['status']}, nodes: {health['number_of_nodes']}"
        name, _known = outbox.last_built(model.__tablename__)
        if not name:
            raise IndexUnusable("its index has not been built yet")
        return server, name, self.client.count(index=name, query=NOT_DELETED)["count"]

    # Writing.

    def _drain(self, model, connection: Connection):
        """Send all changes in the outbox to the index that was built last. connection: see `lock`."""
        table, last = model.__tablename__, 0
        name, _known = outbox.last_built(table)
        while rows := outbox.next_changes(model, CHANGES_PER_BATCH, last):
            if self.engine.is_ready and (outbox.lag(table) or 0) > MAX_LAG_SECONDS:
                self.engine.open_circuit(Unavailable("its index is too far behind"))
            db.session.commit()
            self._send(name, rows)
            outbox.complete(connection, table, [row.id for row in rows])
            last = rows[-1].id
        db.session.commit()

    def _send(self, name: str, rows: Iterable):
        """Write rows of version, row id and text to an index. Raises ELASTICSEARCH_ERRORS unless all were written."""
        if self.stopped.is_set():
            raise Unavailable("the indexer was stopped")
        index: dict[str, Any] = {"_index": write_alias(name), "version_type": "external"}
        actions = [
            {**index, "_id": str(row_id), "version": version, "_source": make_document(row_id, version, text)}
            for version, row_id, text in rows
        ]
        # require_alias: otherwise Elasticsearch would create a missing index by itself, with guessed mappings.
        options: dict[str, Any] = {"raise_on_error": False, "require_alias": True, "chunk_size": CHANGES_PER_BATCH}
        results = list(helpers.streaming_bulk(self.client, actions, **options))
        for ok, item in results:
            result = item["index"]
            if not ok and result["status"] != 409:  # 409: the index has a later version already
                raise Unavailable(f"row {result['_id']} was not indexed: {result['error']['type']}")
        if len(results) != len(actions):
            raise Unavailable("unexpected response")

    def _build(self, model, connection: Connection, progress: Callable[[int], None] = lambda _count: None):
        """Build a new index for a model, and put it in the place of the old one. connection: see `lock`."""
        table = model.__tablename__
        alias = self._alias(table)
        name = f"{alias}-{secrets.token_hex(4)}"
        try:
            self.client.indices.create(
                index=name,
                settings={"index": SETTINGS},
                mappings={**MAPPINGS, "_meta": {OWNER: outbox.register(table), VERSION: INDEX_VERSION}},
                aliases={write_alias(name): {}},
            )
            for batch in batches(model, progress):
                self._send(name, [(0, row_id, text) for row_id, text in batch])
            # From now on no process uses the old index, and if this is interrupted, the next step of any builds one.
            outbox.set_built(connection, table, name)
            self._drain(model, connection)
            self.client.indices.refresh(index=name)
            others = [{"remove_index": {"index": other}} for other in self._own_indexes(table) if other != name]
            self.client.indices.update_aliases(actions=[{"add": {"index": name, "alias": alias}}, *others])
        except BaseException:
            with suppress(*ELASTICSEARCH_ERRORS):  # then it is deleted when the next one is complete
                self.client.indices.delete(index=name)
            raise
        self.verified[table] = name
        log.info("search in %s: its index was built", table)

    def rebuild(self, model, progress: Callable[[int], None] = lambda _count: None):
        """Build a model's index anew; the old one is used until it is complete.

        progress: is called with the number of rows read since the last call. Raises ELASTICSEARCH_ERRORS.
        """
        with lock(model, LOCK_SECONDS_OF_COMMANDS) as connection:
            self._build(model, connection, progress)

    def remove(self, model):
        """Delete a model's indexes, and stop recording changes for them. Raises ELASTICSEARCH_ERRORS."""
        with lock(model, LOCK_SECONDS_OF_COMMANDS):
            for name in self._own_indexes(model.__tablename__):
                self.client.indices.delete(index=name)
            outbox.unregister(model.__tablename__)

    def _alias(self, table: str) -> str:
        """Return the alias by which the index of a table is searched; begin recording its changes."""
        prefix = self.app.config["ELASTICSEARCH_PREFIX"]
        alias = self.engine.aliases[table] = f"{prefix}-{table}-{outbox.register(table)}"
        return alias

    def _own_indexes(self, table: str) -> list[str]:
        """Return the names of this installation's indexes of a table, in use or left over by an interrupted build."""
        pattern, owner = f"{self.app.config['ELASTICSEARCH_PREFIX']}-{table}-*", outbox.register(table)
        found = self.client.indices.get(index=pattern, expand_wildcards="all", features="mappings")
        return [name for name, index in found.items() if index["mappings"].get("_meta", {}).get(OWNER) == owner]

    # Comparing.

    def check(self, model, progress: Callable[[int], None] = lambda _count: None) -> tuple[str, set[int]]:
        """Return why a model's index cannot be used, else the ids of the rows that it has wrong. Sends changes first.

        progress: as for `rebuild`. Raises ELASTICSEARCH_ERRORS.
        """
        table = model.__tablename__
        # Nobody sends changes meanwhile, so what is changed in the database stays in the outbox, and may differ.
        with lock(model, LOCK_SECONDS_OF_COMMANDS) as connection:
            try:
                self._verify(model, self.client)
            except IndexUnusable as reason:
                return str(reason), set()
            self._drain(model, connection)
            self.client.indices.refresh(index=self.engine.aliases[table])
            rows = (tuple(row) for batch in batches(model, progress) for row in batch)
            both = groupby(heapq.merge(rows, self._documents(table)))  # a row and its document are equal
            found = {row_id for (row_id, _text), group in both if len(list(group)) == 1}
            changed = outbox.pending_row_ids(table)
            db.session.commit()
        return "", found - changed

    def _documents(self, table: str) -> Iterator[tuple[int, str]]:
        """Yield row id and text of the documents, by row id."""
        query = {"query": NOT_DELETED, "sort": [{"id": "asc"}, {"text": "asc"}], "_source": False}
        options: dict[str, Any] = {"size": BATCH_SIZE, "preserve_order": True, "request_timeout": TIMEOUT_SECONDS}
        hits = helpers.scan(self.client, query, index=self.engine.aliases[table], **options)
        return (tuple(hit["sort"]) for hit in hits)


def lock(model, timeout: float = 0.0) -> AbstractContextManager[Connection]:
    """Hold the lock to write a model's index, in a with statement. Raises Locked after `timeout` seconds.

    Its value is the connection that holds it. Only through that are confirmed changes deleted from the outbox and
    indexes recorded, so that nobody who has lost the lock can do so.
    """
    return exclusive_lock(db.engine, f"search-{model.__tablename__}", timeout)


def write_alias(name: str) -> str:
    """Return the alias by which an index is written. It is deleted with the index, and creates none by itself."""
    return f"{name}-writing"


def batches(model, progress: Callable[[int], None]) -> Iterator[Sequence[Row]]:
    """Yield all rows as pairs of id and search text, by id, in batches.

    progress: is called with the number of rows read since the last call.
    """
    table, last_id = model.__table__.c, 0
    rows = select(table.id, table.search_text).order_by(table.id).limit(BATCH_SIZE)
    while batch := db.session.execute(rows.where(table.id > last_id)).all():
        db.session.commit()
        yield batch
        progress(len(batch))
        last_id = batch[-1].id
    db.session.commit()
