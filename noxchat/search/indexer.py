"""Keeps the indexes of Elasticsearch true: hands over what the outbox holds, builds them, compares them, mends them.

The database is the authority, and everything here can be interrupted at any moment: what was not confirmed is still in
the outbox, and an index that is being built is only searched once it is whole. Of all processes one at a time writes.
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
from noxchat.search.elastic import LAYOUT, MAPPINGS, TROUBLE, Elasticsearch, Unusable, document, what_happened
from noxchat.search.mixin import MANY, PATIENCE, models

log = logging.getLogger("noxchat.search")

LOOK_EVERY = 0.5  # seconds; what is changed is found within two
LOOK_AGAIN = 30  # seconds, at an index that seems to be well
STALE = 10.0  # seconds after which an index is too far behind to be asked
SECONDS = 8  # for one batch, in less than outbox.LEASE
AT_ONCE = 1000
MOST_TOLD = 10
SETTINGS = {
    "number_of_shards": 1,
    "auto_expand_replicas": "0-1",
    "refresh_interval": "-1",  # while it is built
}
IN_USE = {"refresh_interval": "500ms"}
CLOSED = "index_closed_exception"  # what has the status of a bad document, and is none
FINDABLE = {"exists": {"field": "text"}}  # not what is left of what was deleted
NDJSON = {
    "content-type": "application/vnd.elasticsearch+x-ndjson; compatible-with=9",
    "accept": "application/vnd.elasticsearch+json; compatible-with=9",
}


class Busy(Exception):
    """Another process writes the index."""


class Foreign(Exception):
    """The index of this name belongs to another place."""


class Missing(Exception):
    """There is no index, or one of another layout, or one that is not this database's any more."""


@dataclass
class Differences:
    """How an index differs from the database, as numbers of rows."""

    missing: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    left_over: list[int] = field(default_factory=list)

    def numbers(self) -> list[int]:
        """Return all of them."""
        return sorted({*self.missing, *self.changed, *self.left_over})

    def __bool__(self):
        return bool(self.numbers())


@dataclass(frozen=True)
class Outcome:
    """What became of a batch, by numbers of rows; the index has all others.

    refused: what it never will have, with why. again: what it could not take just now.
    """

    refused: dict[int, str]
    again: set[int]

    def check(self):
        """Raise Unusable if there is something to try again."""
        if self.again:
            raise Unusable(f"{len(self.again)} documents could not be taken")


@dataclass(frozen=True)
class Status:
    """How an index is. server: in words. index: its name. documents: how many can be found."""

    server: str
    index: str
    documents: int


class Indexer:
    """The thread that keeps the indexes true, one in each process that serves; and what the command line does by hand.

    holder: the name under which this process holds the lease.
    """

    def __init__(self, app: Flask, elastic: Elasticsearch):
        self.app, self.elastic = app, elastic
        self.process, self.thread = None, None
        self.bell = threading.Event()
        self.stopped = False
        self.holder = secrets.token_hex(8)
        self.lock, self.turn = threading.Lock(), threading.Lock()
        self.looked = 0.0
        self.untidy = set()

    # The thread.

    def start(self):
        """Start the thread unless it already runs in this process. A fork has the object but not the thread."""
        if self.process == os.getpid() or self.stopped:
            return
        with self.lock:
            if self.process != os.getpid():
                self.process, self.holder = os.getpid(), secrets.token_hex(8)
                self.bell = threading.Event()
                self.thread = threading.Thread(target=self._work, name="indexer", daemon=True)
                self.thread.start()

    def end(self):
        """Have the thread end at its next step, and let go of the index."""
        self.stopped = True
        self.bell.set()

    def stop(self):
        """End the thread, and wait until it has ended."""
        self.end()
        if self.thread:
            self.thread.join()

    def _work(self):
        while not self.stopped:
            if not self.elastic.is_resting:
                with self.app.app_context():
                    self.step()
            self.bell.wait(LOOK_EVERY)

    def step(self) -> bool:
        """Bring everything one step nearer to how it should be. Returns whether Elasticsearch can be asked now."""
        was_ready, moment = self.elastic.is_ready, time.monotonic()
        look = not was_ready or moment - self.looked > LOOK_AGAIN
        try:
            for model in models():
                self._keep(model, look=look)
        except Foreign:
            trouble = "its index is of another place: set ELASTICSEARCH_PREFIX, or run flask search reindex"
        except Missing as why:
            trouble = f"its index: {why}"
        except TROUBLE as error:
            trouble = what_happened(error)
        except SQLAlchemyError as error:
            trouble = f"the outbox cannot be read: {type(error).__name__}"
        except Exception:  # the thread lives on, whatever this was
            trouble = "the indexer broke"
            log.exception("indexer broken")
        else:
            trouble = ""
        if trouble:
            db.session.rollback()
            self.elastic.fail(trouble)
            return False
        if look:
            self.looked = moment
        if not was_ready:  # who was found failing by somebody meanwhile is looked at the next time
            self.elastic.recover()
        return self.elastic.is_ready

    def _keep(self, model, *, look: bool):
        """Make sure that a model's index knows everything and, to look, that it is there. Raises what is in the way."""
        kind = model.__tablename__
        if look:
            self._look(model)
        waits = outbox.behind(kind)
        db.session.commit()
        if waits is None:
            return
        try:
            with self.writing(model):
                self.drain(model)
        except Busy:
            if waits > STALE:
                raise Unusable("it is too far behind") from None

    def _look(self, model):
        """Find out whether a model's index can be searched; build it if there is none, or not the right one."""
        try:
            self.examine(model)
        except Missing:
            try:
                with self.writing(model):
                    self._build_if_missing(model)
            except Busy:
                raise Unusable("its index is being built") from None

    def _build_if_missing(self, model):
        try:
            self.examine(model)  # another may have built it meanwhile
        except Missing as why:
            log.info("index of %s: %s; building it", model.__tablename__, why)
            self.build(model)

    def examine(self, model):
        """Raise Missing, Foreign or TROUBLE if a model's index cannot be searched. No more patient than people are."""
        kind, alias, client = model.__tablename__, self.elastic.index(model), self.elastic.client
        live = self.live(model, client)
        name, known = outbox.last_built(kind)
        db.session.commit()
        if live != name:
            raise Missing("it is another than was built last")
        client.indices.refresh(index=alias)
        newest = versions_from(max(known, 1), alias, client)
        if known and not newest:
            raise Missing("it has lost changes that it had")
        explained = outbox.explains(kind, newest)
        db.session.commit()
        if not explained:
            raise Missing("it knows of changes that the database does not, which was put back from a copy, then")

    def live(self, model, client=None) -> str:
        """Return the name of a model's index that is in use. Raises Missing, Foreign, and TROUBLE.

        client: see `indexes`.
        """
        place, alias = outbox.register(model.__tablename__), self.elastic.index(model)
        found = self.indexes(model, client)
        name, *others = [name for name, about in found.items() if alias in about["aliases"]] or [None]
        if name is None or others:
            raise Missing("there are several" if others else "there is none")
        meta = found[name]["mappings"].get("_meta", {})
        if meta.get("place") != place:
            raise Foreign
        if meta.get("layout", 0) > LAYOUT:
            raise Unusable("its index is of a newer version of NoxChat")
        if meta.get("layout", 0) < LAYOUT:
            raise Missing("it has an older layout")
        return name

    @contextmanager
    def writing(self, model, patience: float = 0.0):
        """Be the one who writes a model's index, in a with statement. Raises Busy after so many seconds of waiting."""
        kind, end = model.__tablename__, time.monotonic() + patience
        outbox.register(kind)
        if not self.turn.acquire(timeout=patience):  # the lease is the process's, and this is for its threads
            raise Busy
        try:
            while (left := outbox.take(kind, self.holder)) is None:
                if time.monotonic() >= end:
                    raise Busy
                time.sleep(0.2)
            if left or kind in self.untidy:  # and where that fails, nobody else may begin before it is done
                self.untidy.add(kind)
                self._tidy(model)
                self.untidy.discard(kind)
            try:
                yield
            finally:
                outbox.give_back(kind, self.holder)
        finally:
            self.turn.release()

    def _go_on(self, model):
        """Go on being the one who writes a model's index. Raises Busy where that is another by now, or when to end."""
        if self.stopped or not outbox.renew(model.__tablename__, self.holder):
            raise Busy

    # What is in Elasticsearch.

    def indexes(self, model, client=None) -> dict:
        """Return the indexes of a model by name, each with its aliases and mappings: the one in use, and unfinished.

        client: by default the patient one. Raises Unusable where the answer is something else.
        """
        alias, client = self.elastic.index(model), client or self.client
        found = client.indices.get(index=f"{alias}-*", expand_wildcards="all", features=["aliases", "mappings"])
        if not isinstance(found.body, dict) or not all(
            isinstance(about, dict) and {"aliases", "mappings"} <= set(about) for about in found.body.values()
        ):
            raise Unusable("no answer to a question for indexes")
        return found.body

    @property
    def client(self):
        """The client, with more patience than a search has."""
        return self.elastic.client.options(request_timeout=SECONDS)

    def count(self, model) -> int:
        """Return how many documents can be found."""
        return self.client.count(index=self.elastic.index(model), query=FINDABLE)["count"]

    def status(self, model) -> Status:
        """Return how a model's index is, having asked Elasticsearch. Raises Missing and Foreign as `examine` does."""
        self.examine(model)
        health = self.client.cluster.health()
        server = f"{health['cluster_name']}, {health['status']}, nodes: {health['number_of_nodes']}"
        return Status(server, self.live(model), self.count(model))

    # Handing over what changed.

    def drain(self, model, also: str | None = None) -> int:
        """Hand over everything that waits; return how many rows that was. Only for whoever is `writing`.

        also: an index that is being built, and is to know as well.
        """
        kind, handed, last = model.__tablename__, 0, 0
        # By a name that goes with the index: who is stopped here, and wakes up when there is another, writes nothing.
        targets = [writing_to(self.live(model)), *([also] if also else [])]
        while rows := outbox.next_changes(model, AT_ONCE, last):
            if self.elastic.is_ready and (outbox.behind(kind) or 0) > STALE:
                self.elastic.fail("it is too far behind")
            outcome = self._send(targets, rows)
            versions = {row.row_id: row.id for row in rows if row.row_id not in outcome.again}
            refused = {versions.pop(number): why for number, why in outcome.refused.items()}
            still = outbox.done(kind, self.holder, list(versions.values()), refused)
            self._tell(kind, outcome.refused)
            outcome.check()
            if self.stopped or not still:
                raise Busy
            handed, last = handed + len(rows), rows[-1].id
        return handed

    def _send(self, targets: list[str], rows) -> Outcome:
        """Write rows of version, number and text into indexes, each by its alias."""
        lines = []
        for version, number, words in rows:
            # What is gone leaves a document with nothing but its version, so that no older write can bring it back:
            # Elasticsearch itself remembers a deletion for a minute. The next index that is built has none of them.
            about = {"id": number, "version": version} if words is None else document(number, version, words)
            for target in targets:
                action = {"_index": target, "_id": str(number), "version": version, "version_type": "external"}
                lines += [{"index": action}, about]
        body = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
        # Without an alias of that name it makes no index by itself, of a layout that it guesses.
        about = {"require_alias": "true", "filter_path": "items.*.status,items.*.error.type,items.*.error.reason"}
        answer = self.client.perform_request("POST", "/_bulk", params=about, headers=NDJSON, body=body.encode())
        return outcome(answer.body, rows, len(targets))

    def _tell(self, kind: str, refused: dict[int, str]):
        """Say in the log what was refused."""
        for number, why in list(refused.items())[:MOST_TOLD]:
            log.error("index of %s: row %s was refused: %s", kind, number, why)

    # Building.

    def build(self, model, progress: Callable[[int], None] = lambda _count: None, *, take_over: bool = False):
        """Build a model's index beside the one in use, and use it instead once it knows all. Only for who is `writing`.

        progress: is called with how many rows more were read. take_over: whether to replace one of another place.
        Raises Foreign where that is not wanted, Busy where another process has taken over, and TROUBLE.
        """
        kind, alias = model.__tablename__, self.elastic.index(model)
        place, found = outbox.register(kind), self.indexes(model)
        meta = {"place": place, "layout": LAYOUT}
        old = {name: about["mappings"].get("_meta", {}) for name, about in found.items() if alias in about["aliases"]}
        if not take_over and any(theirs.get("place") != place for theirs in old.values()):
            raise Foreign
        same = list(old.values()) == [meta]
        self._tidy(model)
        name = f"{alias}-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}{secrets.token_hex(4)}"
        self._go_on(model)
        try:
            self.client.indices.create(
                index=name,
                settings={"index": SETTINGS},
                mappings={**MAPPINGS, "_meta": meta},
                aliases={writing_to(name): {}},
            )
            drained = time.monotonic()
            for rows in batches(model):
                self._go_on(model)
                outcome = self._send([writing_to(name)], [(0, number, words) for number, words in rows])
                outcome.check()
                for number, why in outcome.refused.items():
                    outbox.add(kind, [number], why)
                self._tell(kind, outcome.refused)
                progress(len(rows))
                if same and time.monotonic() > drained + LOOK_EVERY:
                    self._go_on(model)
                    self.drain(model, writing_to(name))
                    drained = time.monotonic()
            self._go_on(model)
            self.client.indices.put_settings(index=name, settings={"index": IN_USE})
            self._go_on(model)
            self.client.indices.refresh(index=name)
            newest = max(versions_from(1, name, self.client).values(), default=0)
            self._go_on(model)
        except BaseException:
            with suppress(*TROUBLE):  # whoever builds the next one removes it
                self.client.indices.delete(index=name)
            raise
        outbox.built(kind, name, newest)
        removed = [{"remove_index": {"index": each}} for each in old]
        self.client.indices.update_aliases(actions=[{"add": {"index": name, "alias": alias}}, *removed])
        log.info("index of %s: built", kind)
        outbox.retry(kind)
        self.drain(model)

    def _tidy(self, model, *, all_of_them: bool = False):
        """Remove what somebody began to build and did not finish, who may have died, or may wake up and go on.

        all_of_them: whether to remove the index in use as well.
        """
        place, alias = outbox.register(model.__tablename__), self.elastic.index(model)
        for name, about in self.indexes(model).items():
            is_ours = about["mappings"].get("_meta", {}).get("place") == place
            if is_ours and (all_of_them or alias not in about["aliases"]):
                self.client.indices.delete(index=name)

    def remove(self, model):
        """Remove a model's indexes, and have nothing more be written down for them. Only for who is `writing`."""
        self._tidy(model, all_of_them=True)
        outbox.unregister(model.__tablename__)

    # Comparing.

    def sync(self, model) -> int:
        """Hand over everything that waits, and have it found from then on. Only for who is `writing`."""
        handed = self.drain(model)
        self.client.indices.refresh(index=self.elastic.index(model))
        return handed

    def check(
        self, model, repair: bool, progress: Callable[[int], None] = lambda _count: None
    ) -> tuple[Differences, Differences]:
        """Return how a model's index differs from the database once all that waits is handed over, and what is left.

        repair: whether to mend what differs. Raises Busy and TROUBLE.
        """
        with self.writing(model, PATIENCE):
            self.sync(model)
        found = self.compare(model, progress)
        if not found:
            return found, found
        # Whatever was changed while it was compared differs no more once that is handed over as well.
        with self.writing(model, PATIENCE):
            self.sync(model)
            found = self.compare_some(model, found.numbers())
            if not found or not repair:
                return found, found
            outbox.retry(model.__tablename__)
            outbox.add(model.__tablename__, found.numbers())
            self.sync(model)
            return found, self.compare_some(model, found.numbers())

    def compare(self, model, progress: Callable[[int], None] = lambda _count: None) -> Differences:
        """Return how a model's index differs from the database, where everything stands still.

        progress: is called with how many rows more were read.
        """
        found = Differences()
        documents = self._documents(model)
        number, words = next(documents)
        for rows in batches(model):
            for there, text in rows:
                while number is not None and number < there:
                    found.left_over.append(number)
                    number, words = next(documents)
                if number != there:
                    found.missing.append(there)
                    continue
                if words != text:
                    found.changed.append(there)
                number, words = next(documents)
            progress(len(rows))
        while number is not None:
            found.left_over.append(number)
            number, words = next(documents)
        return found

    def compare_some(self, model, numbers: list[int]) -> Differences:
        """Return how the index differs in these rows, but for what is in the outbox. Only for who is `writing`."""
        found, table = Differences(), model.__table__.c
        for place in range(0, len(numbers), MANY):
            some = numbers[place : place + MANY]
            answer = self.client.search(
                index=self.elastic.index(model),
                size=len(some),
                query={"bool": {"filter": [FINDABLE, {"ids": {"values": [str(number) for number in some]}}]}},
                sort=[{"id": "asc"}, {"text": "asc"}],
                source=False,
            )
            documents = dict(hit["sort"] for hit in answer["hits"]["hits"])
            texts = dict(map(tuple, db.session.execute(select(table.id, table.search_text).where(table.id.in_(some)))))
            waiting = outbox.waiting_of(model.__tablename__, some)
            db.session.commit()
            for number in set(some) - waiting:
                if number not in documents and number in texts:
                    found.missing.append(number)
                elif number in documents and number not in texts:
                    found.left_over.append(number)
                elif documents.get(number) != texts.get(number):
                    found.changed.append(number)
        return found

    def _documents(self, model) -> Iterator[tuple[int | None, str | None]]:
        """Yield number and text of each document in the order of numbers, and then for ever None."""
        after, more = None, True
        while more:
            answer = self.client.search(
                index=self.elastic.index(model),
                size=MANY,
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


def writing_to(name: str) -> str:
    """Return the alias by which an index is written: it goes with the index, and nothing is made under its name."""
    return f"{name}-writing"


def batches(model) -> Iterator[list]:
    """Yield all rows as number and text, in the order of numbers, some thousands at a time."""
    table, last = model.__table__.c, 0
    while rows := db.session.execute(
        select(table.id, table.search_text).where(table.id > last).order_by(table.id).limit(MANY)
    ).all():
        db.session.commit()
        yield rows
        last = rows[-1].id
    db.session.commit()


def versions_from(version: int, index: str, client) -> dict[int, int]:
    """Return the newest versions in an index from this one on, by numbers of rows; at most some thousands."""
    answer = client.search(
        index=index,
        size=MANY,
        query={"range": {"version": {"gte": version}}},
        sort=[{"version": "desc"}, {"id": "desc"}],
        source=False,
        track_total_hits=False,
    )
    try:
        found = [hit["sort"] for hit in answer.body["hits"]["hits"]]
        return {int(number): int(version) for version, number in found if version > 0}
    except (LookupError, TypeError, ValueError) as error:
        raise Unusable("no answer to a search") from error


def outcome(answer, rows, each: int) -> Outcome:
    """Return what an answer to a bulk request says of each row, which was written `each` times."""
    try:
        items = [next(iter(item.values())) for item in answer["items"]]
        statuses = [(item["status"], item.get("error", {})) for item in items]
    except (AttributeError, LookupError, TypeError, StopIteration) as error:
        raise Unusable("no answer to a bulk") from error
    if len(items) != each * len(rows):
        raise Unusable("an answer to another bulk")
    refused, again = {}, set()
    for place, (_version, number, _words) in enumerate(rows):
        mine = statuses[place * each : (place + 1) * each]
        # 409: it has a later version already.
        bad = [(status, error) for status, error in mine if status >= 300 and status != 409]
        # Only what is wrong with the document itself: not that the index is gone, closed, full, or not ours to write.
        if any(status != 400 or error.get("type") == CLOSED for status, error in bad):
            again.add(number)
        elif bad:
            refused[number] = f"{bad[0][1].get('type')}: {bad[0][1].get('reason')}"
    return Outcome(refused, again)
