"""The indexer keeps the indexes of Elasticsearch up to date: it sends the outbox, builds, compares and repairs indexes.

The database is the source of truth, and everything here can be interrupted at any moment: what was not confirmed is
still in the outbox, and a new index is only searched once it is complete. One process at a time writes an index.
"""

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from flask import Flask
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from noxchat.extensions import db
from noxchat.search import outbox
from noxchat.search.elasticsearch_engine import (
    ELASTICSEARCH_ERRORS,
    INDEX_VERSION,
    MAPPINGS,
    ElasticsearchEngine,
    Unavailable,
    describe_error,
    make_document,
)
from noxchat.search.mixin import BATCH_SIZE, LOCK_TIMEOUT_SECONDS, models

log = logging.getLogger("noxchat.search")

POLL_SECONDS = 0.5  # changes can be found within two seconds
VERIFY_SECONDS = 30  # between two checks of an index that is in use
MAX_LAG_SECONDS = 10.0  # an index that is further behind is not searched
TIMEOUT_SECONDS = 8  # of a request; less than outbox.LEASE
CHANGES_PER_BATCH = 1000
MAX_LOGGED = 10
BUILD_SETTINGS = {
    "number_of_shards": 1,
    "auto_expand_replicas": "0-1",
    "refresh_interval": "-1",  # not until it is complete
}
LIVE_SETTINGS = {"refresh_interval": "500ms"}
# The keys in an index's _meta, as indexes of all releases have them.
OWNER, VERSION = "place", "layout"
CLOSED = "index_closed_exception"  # has the status of an invalid document, but is not one
FINDABLE = {"exists": {"field": "text"}}  # not the tombstones of deleted rows
NDJSON = {
    "content-type": "application/vnd.elasticsearch+x-ndjson; compatible-with=9",
    "accept": "application/vnd.elasticsearch+json; compatible-with=9",
}


class IndexLocked(Exception):
    """Another process holds the lock of the index."""


class ForeignIndex(Exception):
    """The index of this name belongs to another installation."""


class IndexUnusable(Exception):
    """The index is missing, of another version, or does not match the database: it has to be rebuilt."""


@dataclass
class Differences:
    """How an index differs from the database, as row ids."""

    missing: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)

    def row_ids(self) -> list[int]:
        """Return all of them, sorted."""
        return sorted({*self.missing, *self.changed, *self.extra})

    def __bool__(self):
        return bool(self.row_ids())


@dataclass(frozen=True)
class BulkResult:
    """The result of a bulk request, by row id; rows that are in neither were indexed.

    refused: invalid documents, with the reason. retry: those that could not be indexed just now.
    """

    refused: dict[int, str]
    retry: set[int]

    def check(self):
        """Raise Unavailable if there is something to retry."""
        if self.retry:
            raise Unavailable(f"{len(self.retry)} documents could not be indexed")


@dataclass(frozen=True)
class Status:
    """The state of an index. server: a description. index: its name. documents: how many can be found."""

    server: str
    index: str
    documents: int


class Indexer:
    """The thread that keeps the indexes up to date, one in each server process; also used by the command line.

    holder: the name under which this process holds leases.
    """

    def __init__(self, app: Flask, engine: ElasticsearchEngine):
        self.app, self.engine = app, engine
        self.process_id, self.thread = None, None
        self.wake_event = threading.Event()
        self.stopped = False
        self.holder = secrets.token_hex(8)
        self.start_lock, self.write_lock = threading.Lock(), threading.Lock()
        self.verified_at = 0.0
        self.needs_cleanup = set()

    # The thread.

    def start(self):
        """Start the thread unless it runs in this process already. A forked process has the object but no thread."""
        if self.process_id == os.getpid() or self.stopped:
            return
        with self.start_lock:
            if self.process_id != os.getpid():
                self.process_id, self.holder = os.getpid(), secrets.token_hex(8)
                self.wake_event = threading.Event()
                self.thread = threading.Thread(target=self._run, name="indexer", daemon=True)
                self.thread.start()

    def request_stop(self):
        """Have the thread end after its current step, and release the index."""
        self.stopped = True
        self.wake_event.set()

    def stop(self):
        """End the thread, and wait until it has ended."""
        self.request_stop()
        if self.thread:
            self.thread.join()

    def _run(self):
        while not self.stopped:
            if not self.engine.circuit_open:
                with self.app.app_context():
                    self.step()
            self.wake_event.wait(POLL_SECONDS)

    def step(self) -> bool:
        """Verify the indexes if that is due, and send the outbox. Returns whether Elasticsearch can be used now."""
        was_ready, moment = self.engine.is_ready, time.monotonic()
        verify = not was_ready or moment - self.verified_at > VERIFY_SECONDS
        try:
            for model in models():
                self._update(model, verify=verify)
        except ForeignIndex:
            problem = "its index belongs to another installation: set ELASTICSEARCH_PREFIX, or run flask search reindex"
        except IndexUnusable as reason:
            problem = f"its index: {reason}"
        except ELASTICSEARCH_ERRORS as error:
            problem = describe_error(error)
        except SQLAlchemyError as error:
            problem = f"the outbox cannot be read: {type(error).__name__}"
        except Exception:  # the thread must go on
            problem = "the indexer failed"
            log.exception("indexer failed")
        else:
            problem = ""
        if problem:
            db.session.rollback()
            self.engine.open_circuit(problem)
            return False
        if verify:
            self.verified_at = moment
        if not was_ready:  # if it was ready and a search failed meanwhile, it is verified in the next step
            self.engine.close_circuit()
        return self.engine.is_ready

    def _update(self, model, *, verify: bool):
        """Send a model's changes to its index; if wanted, verify or rebuild that first. Raises what prevents it."""
        kind = model.__tablename__
        if verify:
            self._verify_or_build(model)
        lag = outbox.lag(kind)
        db.session.commit()
        if lag is None:
            return
        try:
            with self.lock(model):
                self.drain(model)
        except IndexLocked:
            if lag > MAX_LAG_SECONDS:
                raise Unavailable("it is too far behind") from None

    def _verify_or_build(self, model):
        """Verify a model's index, and build it if it is missing or unusable."""
        try:
            self.verify(model)
        except IndexUnusable:
            try:
                with self.lock(model):
                    self._build_if_missing(model)
            except IndexLocked:
                raise Unavailable("its index is being built") from None

    def _build_if_missing(self, model):
        try:
            self.verify(model)  # another may have built it meanwhile
        except IndexUnusable as reason:
            log.info("index of %s: %s; building it", model.__tablename__, reason)
            self.build(model)

    def verify(self, model):
        """Raise IndexUnusable, ForeignIndex or ELASTICSEARCH_ERRORS if a model's index cannot be searched.

        Waits no longer than a search does.
        """
        kind, alias, client = model.__tablename__, self.engine.alias(model), self.engine.client
        live = self.live(model, client)
        name, known = outbox.last_built(kind)
        db.session.commit()
        if live != name:
            raise IndexUnusable("it is not the one that was built last")
        client.indices.refresh(index=alias)
        newest = versions_from(max(known, 1), alias, client)
        if known and not newest:
            raise IndexUnusable("it has lost changes that it had confirmed")
        explained = outbox.explains(kind, newest)
        db.session.commit()
        if not explained:
            raise IndexUnusable("it has changes that the database does not have, which was restored from a backup")

    def live(self, model, client=None) -> str:
        """Return the name of a model's index that is in use.

        client: see `indexes`. Raises IndexUnusable, ForeignIndex, and ELASTICSEARCH_ERRORS.
        """
        installation_id, alias = outbox.register(model.__tablename__), self.engine.alias(model)
        found = self.indexes(model, client)
        name, *others = [name for name, index in found.items() if alias in index["aliases"]] or [None]
        if name is None or others:
            raise IndexUnusable("there are several" if others else "there is none")
        meta = found[name]["mappings"].get("_meta", {})
        if meta.get(OWNER) != installation_id:
            raise ForeignIndex
        if meta.get(VERSION, 0) > INDEX_VERSION:
            raise Unavailable("its index is of a newer version of NoxChat")
        if meta.get(VERSION, 0) < INDEX_VERSION:
            raise IndexUnusable("it is of an older version")
        return name

    @contextmanager
    def lock(self, model, timeout: float = 0.0):
        """Hold the lock to write a model's index, in a with statement. Raises IndexLocked after `timeout` seconds."""
        kind, deadline = model.__tablename__, time.monotonic() + timeout
        outbox.register(kind)
        if not self.write_lock.acquire(timeout=timeout):  # the lease belongs to the process, this lock to a thread
            raise IndexLocked
        try:
            while (abandoned := outbox.acquire_lease(kind, self.holder)) is None:
                if time.monotonic() >= deadline:
                    raise IndexLocked
                time.sleep(0.2)
            if abandoned or kind in self.needs_cleanup:  # if that fails, it is done before the next write
                self.needs_cleanup.add(kind)
                self._delete_unused(model)
                self.needs_cleanup.discard(kind)
            try:
                yield
            finally:
                outbox.release_lease(kind, self.holder)
        finally:
            self.write_lock.release()

    def _keep_lock(self, model):
        """Extend the lock of a model's index. Raises IndexLocked if another process has it, or this one is to stop."""
        if self.stopped or not outbox.renew_lease(model.__tablename__, self.holder):
            raise IndexLocked

    # What is in Elasticsearch.

    def indexes(self, model, client=None) -> dict:
        """Return the indexes of a model by name, in use and unfinished, each with its aliases and mappings.

        client: by default the one with the longer timeout. Raises Unavailable for an unexpected response.
        """
        alias, client = self.engine.alias(model), client or self.client
        found = client.indices.get(index=f"{alias}-*", expand_wildcards="all", features=["aliases", "mappings"])
        if not isinstance(found.body, dict) or not all(
            isinstance(index, dict) and {"aliases", "mappings"} <= set(index) for index in found.body.values()
        ):
            raise Unavailable("unexpected response to a request for indexes")
        return found.body

    @property
    def client(self):
        """The client with a longer timeout than searches have."""
        return self.engine.client.options(request_timeout=TIMEOUT_SECONDS)

    def count(self, model) -> int:
        """Return how many documents can be found."""
        return self.client.count(index=self.engine.alias(model), query=FINDABLE)["count"]

    def status(self, model) -> Status:
        """Return the state of a model's index. Raises IndexUnusable and ForeignIndex as `verify` does."""
        self.verify(model)
        health = self.client.cluster.health()
        server = f"{health['cluster_name']}, {health['status']}, nodes: {health['number_of_nodes']}"
        return Status(server, self.live(model), self.count(model))

    # Sending changes.

    def drain(self, model, also: str | None = None) -> int:
        """Send all changes in the outbox; return how many rows that was. Requires the lock.

        also: an index that is being built, and gets the changes as well.
        """
        kind, sent, last = model.__tablename__, 0, 0
        # By an alias that is deleted with the index: a process that was frozen while it was replaced writes nothing.
        targets = [write_alias(self.live(model)), *([also] if also else [])]
        while rows := outbox.next_changes(model, CHANGES_PER_BATCH, last):
            if self.engine.is_ready and (outbox.lag(kind) or 0) > MAX_LAG_SECONDS:
                self.engine.open_circuit("it is too far behind")
            result = self._send(targets, rows)
            versions = {row.row_id: row.id for row in rows if row.row_id not in result.retry}
            refused = {versions.pop(row_id): reason for row_id, reason in result.refused.items()}
            locked = outbox.complete(kind, self.holder, list(versions.values()), refused)
            self._log_refused(kind, result.refused)
            result.check()
            if self.stopped or not locked:
                raise IndexLocked
            sent, last = sent + len(rows), rows[-1].id
        return sent

    def _send(self, targets: list[str], rows) -> BulkResult:
        """Write rows of version, row id and text to indexes, each by its alias."""
        lines = []
        for version, row_id, text in rows:
            # A deleted row leaves a tombstone with its version, so that no older write can bring it back: Elasticsearch
            # itself remembers a deletion for a minute only. The next index that is built has no tombstones.
            document = {"id": row_id, "version": version} if text is None else make_document(row_id, version, text)
            for target in targets:
                action = {"_index": target, "_id": str(row_id), "version": version, "version_type": "external"}
                lines += [{"index": action}, document]
        body = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
        # require_alias: otherwise Elasticsearch would create a missing index by itself, with guessed mappings.
        params = {"require_alias": "true", "filter_path": "items.*.status,items.*.error.type,items.*.error.reason"}
        response = self.client.perform_request("POST", "/_bulk", params=params, headers=NDJSON, body=body.encode())
        return parse_bulk(response.body, rows, len(targets))

    def _log_refused(self, kind: str, refused: dict[int, str]):
        for row_id, reason in list(refused.items())[:MAX_LOGGED]:
            log.error("index of %s: row %s was refused: %s", kind, row_id, reason)

    # Building.

    def build(self, model, progress: Callable[[int], None] = lambda _count: None, *, take_over: bool = False):
        """Build a new index for a model, and use it instead of the old one once it is complete. Requires the lock.

        progress: is called with the number of rows read since the last call. take_over: whether to replace an index of
        another installation. Raises ForeignIndex otherwise, IndexLocked when another process has the lock by now, and
        ELASTICSEARCH_ERRORS.
        """
        kind, alias = model.__tablename__, self.engine.alias(model)
        installation_id, found = outbox.register(kind), self.indexes(model)
        meta = {OWNER: installation_id, VERSION: INDEX_VERSION}
        old = {name: index["mappings"].get("_meta", {}) for name, index in found.items() if alias in index["aliases"]}
        if not take_over and any(other.get(OWNER) != installation_id for other in old.values()):
            raise ForeignIndex
        is_current = list(old.values()) == [meta]
        self._delete_unused(model)
        name = f"{alias}-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}{secrets.token_hex(4)}"
        self._keep_lock(model)
        try:
            self.client.indices.create(
                index=name,
                settings={"index": BUILD_SETTINGS},
                mappings={**MAPPINGS, "_meta": meta},
                aliases={write_alias(name): {}},
            )
            drained = time.monotonic()
            for rows in batches(model):
                self._keep_lock(model)
                result = self._send([write_alias(name)], [(0, row_id, text) for row_id, text in rows])
                result.check()
                for row_id, reason in result.refused.items():
                    outbox.add(kind, [row_id], reason)
                self._log_refused(kind, result.refused)
                progress(len(rows))
                if is_current and time.monotonic() > drained + POLL_SECONDS:
                    self._keep_lock(model)
                    self.drain(model, write_alias(name))
                    drained = time.monotonic()
            self._keep_lock(model)
            self.client.indices.put_settings(index=name, settings={"index": LIVE_SETTINGS})
            self._keep_lock(model)
            self.client.indices.refresh(index=name)
            newest = max(versions_from(1, name, self.client).values(), default=0)
            self._keep_lock(model)
        except BaseException:
            with suppress(*ELASTICSEARCH_ERRORS):  # it is deleted before the next one is built
                self.client.indices.delete(index=name)
            raise
        outbox.set_built(kind, name, newest)
        deleted = [{"remove_index": {"index": old_name}} for old_name in old]
        self.client.indices.update_aliases(actions=[{"add": {"index": name, "alias": alias}}, *deleted])
        log.info("index of %s: built", kind)
        outbox.retry(kind)
        self.drain(model)

    def _delete_unused(self, model, *, include_live: bool = False):
        """Delete unfinished indexes of this installation, whose process has crashed or is frozen.

        include_live: also the index in use.
        """
        installation_id, alias = outbox.register(model.__tablename__), self.engine.alias(model)
        for name, index in self.indexes(model).items():
            is_ours = index["mappings"].get("_meta", {}).get(OWNER) == installation_id
            if is_ours and (include_live or alias not in index["aliases"]):
                self.client.indices.delete(index=name)

    def remove(self, model):
        """Delete a model's indexes, and stop recording changes for them. Requires the lock."""
        self._delete_unused(model, include_live=True)
        outbox.unregister(model.__tablename__)

    # Comparing.

    def sync(self, model) -> int:
        """Send all changes, and make them searchable. Returns how many rows that was. Requires the lock."""
        sent = self.drain(model)
        self.client.indices.refresh(index=self.engine.alias(model))
        return sent

    def check(
        self, model, repair: bool, progress: Callable[[int], None] = lambda _count: None
    ) -> tuple[Differences, Differences]:
        """Return how a model's index differs from the database after all changes were sent, before and after a repair.

        repair: whether to index again what differs. Raises IndexLocked and ELASTICSEARCH_ERRORS.
        """
        with self.lock(model, LOCK_TIMEOUT_SECONDS):
            self.sync(model)
        found = self.compare(model, progress)
        if not found:
            return found, found
        # Rows that were changed during the comparison no longer differ once their changes are sent as well.
        with self.lock(model, LOCK_TIMEOUT_SECONDS):
            self.sync(model)
            found = self.compare_rows(model, found.row_ids())
            if not found or not repair:
                return found, found
            outbox.retry(model.__tablename__)
            outbox.add(model.__tablename__, found.row_ids())
            self.sync(model)
            return found, self.compare_rows(model, found.row_ids())

    def compare(self, model, progress: Callable[[int], None] = lambda _count: None) -> Differences:
        """Return how a model's index differs from the database, if nothing is changed meanwhile.

        progress: is called with the number of rows read since the last call.
        """
        found = Differences()
        documents = self._documents(model)
        indexed_id, indexed_text = next(documents)
        for rows in batches(model):
            for row_id, text in rows:
                while indexed_id is not None and indexed_id < row_id:
                    found.extra.append(indexed_id)
                    indexed_id, indexed_text = next(documents)
                if indexed_id != row_id:
                    found.missing.append(row_id)
                    continue
                if indexed_text != text:
                    found.changed.append(row_id)
                indexed_id, indexed_text = next(documents)
            progress(len(rows))
        while indexed_id is not None:
            found.extra.append(indexed_id)
            indexed_id, indexed_text = next(documents)
        return found

    def compare_rows(self, model, row_ids: list[int]) -> Differences:
        """Return how the index differs in these rows, except for those in the outbox. Requires the lock."""
        found, table = Differences(), model.__table__.c
        for start in range(0, len(row_ids), BATCH_SIZE):
            batch = row_ids[start : start + BATCH_SIZE]
            answer = self.client.search(
                index=self.engine.alias(model),
                size=len(batch),
                query={"bool": {"filter": [FINDABLE, {"ids": {"values": [str(row_id) for row_id in batch]}}]}},
                sort=[{"id": "asc"}, {"text": "asc"}],
                source=False,
            )
            documents = dict(hit["sort"] for hit in answer["hits"]["hits"])
            texts = dict(map(tuple, db.session.execute(select(table.id, table.search_text).where(table.id.in_(batch)))))
            pending = outbox.pending_row_ids(model.__tablename__, batch)
            db.session.commit()
            for row_id in set(batch) - pending:
                if row_id not in documents and row_id in texts:
                    found.missing.append(row_id)
                elif row_id in documents and row_id not in texts:
                    found.extra.append(row_id)
                elif documents.get(row_id) != texts.get(row_id):
                    found.changed.append(row_id)
        return found

    def _documents(self, model) -> Iterator[tuple[int | None, str | None]]:
        """Yield row id and text of each document, by row id, and after the last one (None, None) for ever."""
        after, more = None, True
        while more:
            answer = self.client.search(
                index=self.engine.alias(model),
                size=BATCH_SIZE,
                query=FINDABLE,
                sort=[{"id": "asc"}, {"text": "asc"}],
                search_after=after,
                source=False,
                track_total_hits=False,
                filter_path="hits.hits.sort",
            )
            hits = answer.body.get("hits", {}).get("hits", [])
            yield from (tuple(hit["sort"]) for hit in hits)
            if more := bool(hits):
                after = hits[-1]["sort"]
        while True:
            yield None, None


def write_alias(name: str) -> str:
    """Return the alias by which an index is written. It is deleted with the index, and creates none by itself."""
    return f"{name}-writing"


def batches(model) -> Iterator[list]:
    """Yield all rows as pairs of id and search text, by id, in batches."""
    table, last_id = model.__table__.c, 0
    while rows := db.session.execute(
        select(table.id, table.search_text).where(table.id > last_id).order_by(table.id).limit(BATCH_SIZE)
    ).all():
        db.session.commit()
        yield rows
        last_id = rows[-1].id
    db.session.commit()


def versions_from(version: int, index: str, client) -> dict[int, int]:
    """Return the newest versions in an index, from this one on, by row id; at most BATCH_SIZE."""
    answer = client.search(
        index=index,
        size=BATCH_SIZE,
        query={"range": {"version": {"gte": version}}},
        sort=[{"version": "desc"}, {"id": "desc"}],
        source=False,
        track_total_hits=False,
    )
    try:
        found = [hit["sort"] for hit in answer.body["hits"]["hits"]]
        return {int(row_id): int(version) for version, row_id in found if version > 0}
    except (LookupError, TypeError, ValueError) as error:
        raise Unavailable("unexpected response to a search") from error


def parse_bulk(response, rows, writes_per_row: int) -> BulkResult:
    """Return the result of a bulk request that wrote each row to so many indexes."""
    try:
        items = [next(iter(item.values())) for item in response["items"]]
        statuses = [(item["status"], item.get("error", {})) for item in items]
    except (AttributeError, LookupError, TypeError, StopIteration) as error:
        raise Unavailable("unexpected response to a bulk request") from error
    if len(items) != writes_per_row * len(rows):
        raise Unavailable("unexpected number of results of a bulk request")
    refused, retry = {}, set()
    for index, (_version, row_id, _text) in enumerate(rows):
        own = statuses[index * writes_per_row : (index + 1) * writes_per_row]
        # 409: the index has a later version already.
        bad = [(status, error) for status, error in own if status >= 300 and status != 409]
        # Refused only if the document itself is invalid, not if the index is missing, closed, full or read-only.
        if any(status != 400 or error.get("type") == CLOSED for status, error in bad):
            retry.add(row_id)
        elif bad:
            refused[row_id] = f"{bad[0][1].get('type')}: {bad[0][1].get('reason')}"
    return BulkResult(refused, retry)
