"""The engines of the databases themselves: each searches the folded texts in one statement or two."""

import re
from functools import lru_cache

from flask import Flask, current_app
from sqlalchemy import Integer, Text, and_, bindparam, inspect, text
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from noxchat.extensions import db
from noxchat.search.texts import AFTER_FIELD, EXACT, INSIDE, LAST_SIGN, NAME_BEGINS, NEXT_SIGN, WORD_BEGINS, Hit, Query


def fits(column, words: int):
    """Return the condition that a column of such texts holds what a query of so many words looks for.

    For lists that are short anyway: every text is read. Its parameters are Query.values.
    """
    return and_(*(holds(column, bindparam(f"part{number}", type_=Text)) for number in range(words)))


class position(FunctionElement):  # noqa: N801
    """Where in a text another begins, from 1; 0 where it does not. Nothing in either is a wildcard."""

    type = Integer()
    inherit_cache = True


@compiles(position)
def instr(element, compiler, **kwargs):
    return f"instr({compiler.process(element.clauses, **kwargs)})"


@compiles(position, "postgresql")
def strpos(element, compiler, **kwargs):
    return f"strpos({compiler.process(element.clauses, **kwargs)})"


def holds(column, part):
    """Return the condition that a text contains another."""
    return position(column, part) > 0


# The statement of a search. Common words are found by walking the index of texts, which is in the right order already,
# and is left after a page of hits. Where :window rows of it hold too few, the word is rare: then an index of trigrams,
# which knows no order, brings few rows. What lies between `whole` and `beyond` begins with the query; so ranks after
# that walk below and above it. What a rank is not needed for ends at a bound that leaves nothing, in every database.
EXACT_RANK = """exact AS (
  SELECT search_text, id FROM (
    SELECT search_text, id FROM {table} WHERE search_text >= :exactly AND search_text < :longer
    UNION SELECT search_text, id FROM {table} WHERE id IN (SELECT id FROM called)
  ) AS either WHERE id NOT IN (SELECT id FROM unseen) {after} ORDER BY search_text LIMIT :limit
)"""
NAME_RANK = """named AS (
  SELECT search_text, id FROM {table}
  WHERE search_text >= :longer AND search_text < :beyond AND {wanted} AND {room} {after}
  ORDER BY search_text LIMIT :limit
)"""
WALKED_RANK = """room_{rank} AS (SELECT {room} AS yes),
below_{rank} AS (
  SELECT search_text, id FROM (
    SELECT search_text, id FROM {table} WHERE search_text < {below} {after}
    ORDER BY search_text LIMIT :window
  ) AS seen WHERE {fits} AND {wanted} ORDER BY search_text LIMIT :limit
),
below_cut_{rank} AS (SELECT EXISTS (
  SELECT 1 FROM {table} WHERE search_text < {below} {after}
  AND (SELECT count(*) FROM below_{rank}) < :limit ORDER BY search_text LIMIT 1 OFFSET :window
) AS yes),
above_gate_{rank} AS (
  SELECT (SELECT yes FROM room_{rank}) AND NOT (SELECT yes FROM below_cut_{rank})
  AND (SELECT count(*) FROM below_{rank}) < :limit AS yes
),
above_{rank} AS (
  SELECT search_text, id FROM (
    SELECT search_text, id FROM {table} WHERE search_text >= {above}
    ORDER BY search_text LIMIT :window
  ) AS seen WHERE {fits} AND {wanted} {after} ORDER BY search_text LIMIT :limit
),
above_cut_{rank} AS (SELECT EXISTS (
  SELECT 1 FROM {table} WHERE search_text >= {above}
  AND (SELECT count(*) FROM above_{rank}) < :limit ORDER BY search_text LIMIT 1 OFFSET :window
) AS yes),
rare_{rank} AS (
  SELECT (SELECT count(*) FROM below_{rank}) + (SELECT count(*) FROM above_{rank}) < :limit
  AND ((SELECT yes FROM below_cut_{rank}) OR (SELECT yes FROM above_cut_{rank})) AS yes
),
found_{rank} AS MATERIALIZED (
  SELECT search_text, id FROM {table} WHERE {gate} AND {look_up}
),
looked_up_{rank} AS (
  SELECT search_text, id FROM found_{rank}
  WHERE {fits} AND {wanted} {after} AND (search_text < :whole OR search_text >= :beyond)
  ORDER BY search_text LIMIT :limit
),
rank_{rank} AS (
  SELECT search_text, id FROM below_{rank} WHERE NOT (SELECT yes FROM rare_{rank})
  UNION ALL SELECT search_text, id FROM above_{rank} WHERE NOT (SELECT yes FROM rare_{rank})
  UNION ALL SELECT search_text, id FROM looked_up_{rank}
)"""


class Engine:
    """Searches one table in one database.

    Best first: called exactly so, then names that begin so, then with each word at the beginning of one, then inside;
    by name within each. Pages are found by keyset, in one statement or two, whose cost neither the number of people nor
    the place in the list decides.
    """

    WINDOW = 10_000
    STEPS = ((EXACT, NAME_BEGINS), (WORD_BEGINS, INSIDE))  # the ranks of each statement, the first and the last
    name = "reads every name"
    instr = "strpos"

    def look_up(self, table: str, parts: list[str], gate: str) -> str:  # noqa: ARG002
        """Return the condition by which an index finds whatever contains all these parts, named as parameters.

        gate: a condition that holds where it is wanted.
        """
        return "true"

    def pattern(self, part: str) -> str:
        """Return a part as `look_up` wants it bound."""
        return part

    def make(self, connection, table: str):
        """Make what `look_up` needs. Raises DatabaseError where that may not be made."""

    def search(self, model, query: Query, after: Hit | None, limit: int, load, *, unseen, viewer: int) -> list:
        """Return up to so many rows after a place in the order, best first.

        Names that begin so come by a small statement, which mostly suffices while somebody types; the rest by others.
        model: a SearchableMixin. query: a possible one. load: returns the statement that loads rows, given a subquery
        of Hit's columns to join to and to sort by. unseen: what is left out, as a select of ids with a parameter
        `viewer`.
        """
        rows = []
        for first, last in self.STEPS:
            last = min(last, query.last_rank)
            if len(rows) < limit and last >= max(first, after.rank if after else first):
                here = after if after and after.rank >= first else None
                ranks = (here.rank if here else first, last)
                hits, values = self._hits(model, query, here, ranks, unseen, viewer, limit - len(rows))
                rows += db.session.execute(load(hits), values).all()
        return rows

    def _hits(self, model, query: Query, after: Hit | None, ranks: tuple[int, int], unseen, viewer: int, limit: int):
        """Return the hits of these ranks, from the first to the last, as a subquery with its parameters."""
        values = {"word": query.words[0] if len(query.words) == 1 else "", "viewer": viewer}
        values |= {"exactly": query.whole + AFTER_FIELD, "longer": query.whole + NEXT_SIGN}
        values |= {"whole": query.whole, "beyond": query.whole + LAST_SIGN, "limit": limit, "window": self.WINDOW}
        values["end"], values["nothing"] = 2 * LAST_SIGN, self.pattern(3 * NEXT_SIGN)
        if after:
            values |= {"after": after.text, "resume": max(query.whole + LAST_SIGN, after.text)}
        values |= query.values
        for number, (part, start) in enumerate(zip(query.parts, query.starts, strict=True)):
            values[f"part_pattern{number}"] = self.pattern(part)
            values |= {f"start{number}": start, f"start_pattern{number}": self.pattern(start)}
        statement = self._statement(model, unseen, len(query.words), *ranks, after is not None)
        return statement, values

    @lru_cache(maxsize=64)  # noqa: B019  an engine lives as long as the application
    def _statement(self, model, unseen, words: int, first: int, last: int, resumed: bool):
        """Return the statement for queries of this shape; only their parameters differ.

        first, last: the ranks that are wanted; with `resumed`, of the first only what comes after the cursor.
        """
        about = {"table": model.__tablename__}
        about["wanted"] = "id NOT IN (SELECT id FROM unseen) AND id NOT IN (SELECT id FROM called)"

        def holds_all(kind: str) -> str:
            return " AND ".join(f"{self.instr}(search_text, :{kind}{number}) > 0" for number in range(words))

        begins = f"({holds_all('start')})"
        fits = {WORD_BEGINS: begins, INSIDE: f"({holds_all('part')}) AND NOT {begins}"}
        called = model.exactly(bindparam("word"))
        ctes, ranks = [f"unseen(id) AS ({unseen.compile()}), called(id) AS ({called.compile()})"], {}
        for rank in range(first, last + 1):
            is_resumed = resumed and rank == first
            counts = " + ".join(f"(SELECT count(*) FROM {name})" for name in ranks.values())  # noqa: S608
            ranks[rank] = {EXACT: "exact", NAME_BEGINS: "named"}.get(rank, f"rank_{rank}")
            gate = f"(SELECT yes FROM rare_{rank})"  # noqa: S608
            kind = "start" if rank == WORD_BEGINS else "part"
            patterns = [f":{kind}_pattern{number}" for number in range(words)]
            resume = ":resume" if is_resumed else ":beyond"
            shape = {EXACT: EXACT_RANK, NAME_BEGINS: NAME_RANK}.get(rank, WALKED_RANK)
            ctes.append(
                shape.format(
                    **about,
                    rank=rank,
                    fits=fits.get(rank),
                    gate=gate,
                    look_up=self.look_up(model.__tablename__, patterns, gate),
                    room=f"{counts} < :limit" if counts else "1 = 1",
                    after="AND search_text > :after" if is_resumed else "",
                    below=f"CASE WHEN (SELECT yes FROM room_{rank}) THEN :whole ELSE '' END",  # noqa: S608
                    above=f"CASE WHEN (SELECT yes FROM above_gate_{rank}) THEN {resume} ELSE :end END",  # noqa: S608
                )
            )
        every = (f"SELECT id, {rank} AS rank, search_text FROM {name}" for rank, name in ranks.items())  # noqa: S608
        whole = text(f"WITH {', '.join(ctes)} {' UNION ALL '.join(every)} ORDER BY 2, 3 LIMIT :limit")
        return whole.columns(id=Integer, rank=Integer, search_text=Text).subquery("hits")


class Postgres(Engine):
    """PostgreSQL with pg_trgm (https://www.postgresql.org/docs/current/pgtrgm.html): an index of trigrams."""

    name = "PostgreSQL with pg_trgm"

    def look_up(self, table, parts, gate):  # noqa: ARG002, D102
        return " AND ".join(f"search_text LIKE {part}" for part in parts)

    def pattern(self, part):  # noqa: D102
        return "%" + re.sub(r"([\\%_])", r"\\\1", part) + "%"

    def make(self, connection, table):  # noqa: D102
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
        connection.execute(
            text(
                f"CREATE INDEX IF NOT EXISTS {trigrams(table)} ON {table} USING gin (search_text gin_trgm_ops)"
                " WITH (fastupdate = off)"  # or every search reads through what was written last
            )
        )


class PlainSqlite(Engine):
    """SQLite without an index of trigrams."""

    # It writes out what a statement names as often as that is mentioned: with both of the large ranks in one, a new
    # connection took 150 ms to begin.
    STEPS = ((EXACT, WORD_BEGINS), (INSIDE, INSIDE))
    instr = "instr"


class Sqlite(PlainSqlite):
    """SQLite with FTS5's trigram tokenizer (https://www.sqlite.org/fts5.html#the_trigram_tokenizer)."""

    name = "SQLite with FTS5"

    def look_up(self, table, parts, gate):  # noqa: D102
        index = trigrams(table)
        # SQLite reads the index before it looks at other conditions, so it is given what is nowhere to look for.
        match = f"CASE WHEN {gate} THEN {' || char(32) || '.join(parts)} ELSE :nothing END"
        return f"id IN (SELECT rowid FROM {index} WHERE {index} MATCH {match})"  # noqa: S608

    def pattern(self, part):  # noqa: D102
        return '"' + part.replace('"', '""') + '"'

    def make(self, connection, table):  # noqa: D102
        index = trigrams(table)
        remove = f"INSERT INTO {index} ({index}, rowid, search_text) VALUES ('delete', old.id, old.search_text);"  # noqa: S608
        add = f"INSERT INTO {index} (rowid, search_text) VALUES (new.id, new.search_text);"  # noqa: S608
        for statement in (
            f"CREATE VIRTUAL TABLE IF NOT EXISTS {index} USING fts5"
            f"(search_text, content='{table}', content_rowid='id', tokenize='trigram case_sensitive 1')",
            # The table's own triggers, so that nothing that writes it, by whatever way, can forget the index.
            f"CREATE TRIGGER IF NOT EXISTS {index}_insert AFTER INSERT ON {table} BEGIN {add} END",
            f"CREATE TRIGGER IF NOT EXISTS {index}_delete AFTER DELETE ON {table} BEGIN {remove} END",
            f"CREATE TRIGGER IF NOT EXISTS {index}_update AFTER UPDATE OF search_text ON {table} "
            f"WHEN old.search_text IS NOT new.search_text BEGIN {remove} {add} END",
            f"INSERT INTO {index} ({index}) VALUES ('rebuild')",  # noqa: S608
        ):
            connection.exec_driver_sql(statement)


# For each database the engine with an index, and the one that gets by without.
ENGINES = {"postgresql": (Postgres(), Engine()), "sqlite": (Sqlite(), PlainSqlite())}


def trigrams(table: str) -> str:
    """Return the name of a table's index of trigrams."""
    return f"ix_{table}_trigrams"


def is_index(name: str | None) -> bool:
    """Tell whether a table or index of this name is an engine's own, which the models know nothing of."""
    return bool(name) and "_trigrams" in name


def make_index(connection, table: str) -> str:
    """Make the index that the database's own engine needs, if it may be made; the searches work either way.

    Returns what stands in the way, in a sentence, and nothing when it was made.
    """
    engine, _plain = ENGINES[connection.dialect.name]
    try:
        with connection.begin_nested():
            engine.make(connection, table)
    except DatabaseError as error:
        reason = str(error.orig).strip().splitlines()[0]
        return (
            f"The index for search was not made ({reason}). Search works without it, and is slow with many people. "
            + (
                "Have the database's owner run CREATE EXTENSION pg_trgm; "
                if connection.dialect.name == "postgresql"
                else "Use a Python whose SQLite has FTS5; "
            )
            + "then run flask --app main search reindex."
        )
    return ""


def choose(app: Flask) -> Engine | None:
    """Choose the database's engine by what that has; None, to be asked again, while it does not answer."""
    with app.app_context():
        try:
            with db.engine.connect() as connection:
                names = inspect(connection)
                kind = connection.dialect.name
                index = trigrams("users")
                found = names.has_table(index) if kind == "sqlite" else names.has_index("users", index)
        except SQLAlchemyError:
            app.extensions["search"] = None
        else:
            app.extensions["search"] = ENGINES[kind][0 if found else 1]
        return app.extensions["search"]


def database_engine() -> Engine:
    """Return the database's engine that was chosen."""
    return current_app.extensions["search"] or choose(current_app) or ENGINES[db.engine.dialect.name][1]


def current_engine():
    """Return what searches: Elasticsearch, which falls back on the database's engine, where it is set; or else that."""
    if current_app.extensions["indexer"]:
        current_app.extensions["indexer"].start()
        return current_app.extensions["elasticsearch"]
    return database_engine()
