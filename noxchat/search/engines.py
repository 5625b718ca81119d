"""The search engines of the databases: each searches the folded texts in one or two statements."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, bindparam, inspect, text
from sqlalchemy.exc import DatabaseError

from noxchat.extensions import db
from noxchat.search.normalization import (
    AFTER_FIELD_END,
    EXACT,
    FIELD_END,
    MAX_CHAR,
    NAME_PREFIX,
    SUBSTRING,
    WORD_PREFIX,
    Hit,
    Query,
    like_pattern,
)


def contains_all(column, words: int):
    """Return the condition that a search text matches a query with this number of words.

    For short lists: every text is read. Its parameters are Query.patterns.
    """
    patterns = (bindparam(f"pattern{number}", type_=Text) for number in range(words))
    return and_(*(column.like(pattern, escape="\\") for pattern in patterns))


@dataclass(frozen=True)
class Search:
    """What is searched for, and where.

    query: one that can match. condition: which rows may be found: about the id of the model. parameters: its values.
    """

    model: Any  # type[SearchableMixin], which imports this module
    query: Query
    condition: ColumnElement
    parameters: dict


# The statement of a search. Common words are found by walking the index on search_text, which has the right order, and
# stopping after a page of hits. If :window rows of it contain too few, the word is rare: then the trigram index, which
# has no order, returns few rows. What lies between `prefix` and `beyond` begins with the query, so later ranks walk
# below and above that. A part of the statement that is not needed gets an empty range, which all databases skip.
EXACT_RANK = """exact AS (
  SELECT search_text, id FROM (
    SELECT search_text, id FROM {table} WHERE search_text >= :exactly AND search_text < :longer
    UNION SELECT search_text, id FROM {table} WHERE id IN (SELECT id FROM exact_ids)
  ) AS {table} WHERE {condition} {after} ORDER BY search_text LIMIT :limit
)"""
NAME_RANK = """named AS (
  SELECT search_text, id FROM {table}
  WHERE search_text >= :longer AND search_text < :beyond AND {wanted} AND {has_room} {after}
  ORDER BY search_text LIMIT :limit
)"""
WALKED_RANK = """has_room_{rank} AS (SELECT {has_room} AS yes),
below_{rank} AS (
  SELECT search_text, id FROM (
    SELECT search_text, id FROM {table} WHERE search_text < {below} {after}
    ORDER BY search_text LIMIT :window
  ) AS {table} WHERE {matches} AND {wanted} ORDER BY search_text LIMIT :limit
),
below_cut_{rank} AS (SELECT EXISTS (
  SELECT 1 FROM {table} WHERE search_text < {below} {after}
  AND (SELECT count(*) FROM below_{rank}) < :limit ORDER BY search_text LIMIT 1 OFFSET :window
) AS yes),
above_gate_{rank} AS (
  SELECT (SELECT yes FROM has_room_{rank}) AND NOT (SELECT yes FROM below_cut_{rank})
  AND (SELECT count(*) FROM below_{rank}) < :limit AS yes
),
above_{rank} AS (
  SELECT search_text, id FROM (
    SELECT search_text, id FROM {table} WHERE search_text >= {above}
    ORDER BY search_text LIMIT :window
  ) AS {table} WHERE {matches} AND {wanted} {after} ORDER BY search_text LIMIT :limit
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
  SELECT search_text, id FROM found_{rank} AS {table}
  WHERE {matches} AND {wanted} {after} AND (search_text < :prefix OR search_text >= :beyond)
  ORDER BY search_text LIMIT :limit
),
rank_{rank} AS (
  SELECT search_text, id FROM below_{rank} WHERE NOT (SELECT yes FROM rare_{rank})
  UNION ALL SELECT search_text, id FROM above_{rank} WHERE NOT (SELECT yes FROM rare_{rank})
  UNION ALL SELECT search_text, id FROM looked_up_{rank}
)"""


class Engine:
    """Searches a table of one database.

    Best match first: exact names, then names that begin with the query, then all words at the beginning of words, then
    substrings; by name within each rank. Pages are found by keyset, in one or two statements whose cost depends neither
    on the number of rows nor on the position in the list.
    """

    WINDOW = 10_000
    STEPS: tuple[tuple[int, int], ...]  # the ranks of each statement, the first and the last
    name: str
    position: str  # the function that returns the position of a substring, and 0 if it is not contained
    # Returns the condition by which the index of a table finds texts that contain all parts, which are names of
    # parameters; and only looks them up if a gate, another condition, is true.
    look_up: Callable[[str, list[str], str], str]
    pattern: Callable[[str], str]  # returns a part as the parameter that look_up needs
    create_index: Callable[[Connection, str], None]  # of a table; raises DatabaseError where that is not possible

    def search(self, search: Search, after: Hit | None, limit: int) -> list[Hit]:
        """Return up to `limit` hits after a position in the order, best match first.

        Names that begin with the query are found by a small statement, which mostly suffices while somebody types.
        """
        hits: list[Hit] = []
        for first, last in self.STEPS:
            last = min(last, search.query.max_rank)
            if len(hits) < limit and last >= max(first, after.rank if after else first):
                cursor = after if after and after.rank >= first else None
                ranks = (cursor.rank if cursor else first, last)
                hits += self._search_ranks(search, cursor, ranks, limit - len(hits))
        return hits

    def _search_ranks(self, search: Search, after: Hit | None, ranks: tuple[int, int], limit: int) -> list[Hit]:
        """Return hits from the first to the last of two ranks."""
        query, prefix = search.query, search.query.prefix
        values = {**search.parameters, "limit": limit, "window": self.WINDOW}
        values |= {"exactly": prefix + FIELD_END, "longer": prefix + AFTER_FIELD_END, "end": 2 * MAX_CHAR}
        values |= {"prefix": prefix, "beyond": prefix + MAX_CHAR, "nothing": self.pattern(3 * AFTER_FIELD_END)}
        values["word"] = query.words[0] if len(query.words) == 1 else ""
        if after:
            values |= {"after": after.text, "resume": max(prefix + MAX_CHAR, after.text)}
        for number, (part, start) in enumerate(zip(query.substrings, query.word_prefixes, strict=True)):
            values |= {f"part{number}": part, f"part_pattern{number}": self.pattern(part)}
            values |= {f"start{number}": start, f"start_pattern{number}": self.pattern(start)}
        statement = self._statement(search.model, search.condition, len(query.words), *ranks, after is not None)
        return [Hit(*row) for row in db.session.connection().execute(statement, values)]

    @lru_cache(maxsize=64)  # noqa: B019  an engine lives as long as the application
    def _statement(self, model, condition, words: int, first: int, last: int, resumed: bool):
        """Return the statement for queries with this number of words; only their parameters differ.

        first, last: the ranks to search; if `resumed`, of the first only what follows the cursor.
        """
        condition = condition.compile()
        may_be_found = f"({condition})"
        wanted = f"{may_be_found} AND id NOT IN (SELECT id FROM exact_ids)"  # noqa: S608
        common = {"table": model.__tablename__, "condition": may_be_found, "wanted": wanted}

        def contains_each(kind: str) -> str:
            return " AND ".join(f"{self.position}(search_text, :{kind}{number}) > 0" for number in range(words))

        begin_words = f"({contains_each('start')})"
        matches = {WORD_PREFIX: begin_words, SUBSTRING: f"({contains_each('part')}) AND NOT {begin_words}"}
        exact_ids = model.exact_match_ids(bindparam("word"))
        ctes, ranks = [f"exact_ids(id) AS ({exact_ids.compile()})"], dict[int, str]()
        for rank in range(first, last + 1):
            is_resumed = resumed and rank == first
            counts = " + ".join(f"(SELECT count(*) FROM {name})" for name in ranks.values())  # noqa: S608
            ranks[rank] = {EXACT: "exact", NAME_PREFIX: "named"}.get(rank, f"rank_{rank}")
            gate = f"(SELECT yes FROM rare_{rank})"  # noqa: S608
            kind = "start" if rank == WORD_PREFIX else "part"
            patterns = [f":{kind}_pattern{number}" for number in range(words)]
            resume = ":resume" if is_resumed else ":beyond"
            template = {EXACT: EXACT_RANK, NAME_PREFIX: NAME_RANK}.get(rank, WALKED_RANK)
            ctes.append(
                template.format(
                    **common,
                    rank=rank,
                    matches=matches.get(rank),
                    gate=gate,
                    look_up=self.look_up(model.__tablename__, patterns, gate),
                    has_room=f"{counts} < :limit" if counts else "1 = 1",
                    after="AND search_text > :after" if is_resumed else "",
                    below=f"CASE WHEN (SELECT yes FROM has_room_{rank}) THEN :prefix ELSE '' END",  # noqa: S608
                    above=f"CASE WHEN (SELECT yes FROM above_gate_{rank}) THEN {resume} ELSE :end END",  # noqa: S608
                )
            )
        every = (f"SELECT id, {rank} AS rank, search_text FROM {name}" for rank, name in ranks.items())  # noqa: S608
        whole = text(f"WITH {', '.join(ctes)} {' UNION ALL '.join(every)} ORDER BY 2, 3 LIMIT :limit")
        constants = {name: value for name, value in condition.params.items() if value is not None}
        return whole.bindparams(**constants)


class Postgres(Engine):
    """PostgreSQL with a trigram index (https://www.postgresql.org/docs/current/pgtrgm.html); slow without."""

    STEPS = ((EXACT, NAME_PREFIX), (WORD_PREFIX, WORD_PREFIX), (SUBSTRING, SUBSTRING))
    name = "PostgreSQL with pg_trgm"
    position = "strpos"

    def look_up(self, table, parts, gate):  # noqa: ARG002
        return " AND ".join(f"search_text LIKE {part}" for part in parts)

    def pattern(self, part):
        return like_pattern(part)

    def create_index(self, connection, table):
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
        index = f"{trigram_index_name(table)} ON {table} USING gin (search_text gin_trgm_ops)"
        # Without fastupdate, since otherwise every search scans the pending list of recent writes.
        connection.execute(text(f"CREATE INDEX IF NOT EXISTS {index} WITH (fastupdate = off)"))


class Sqlite(Engine):
    """SQLite with FTS5's trigram tokenizer (https://www.sqlite.org/fts5.html#the_trigram_tokenizer)."""

    # SQLite expands a CTE wherever it is mentioned: with both large ranks in one statement, preparing it took 150 ms on
    # each new connection.
    STEPS = ((EXACT, WORD_PREFIX), (SUBSTRING, SUBSTRING))
    name = "SQLite with FTS5"
    position = "instr"

    def look_up(self, table, parts, gate):
        index = trigram_index_name(table)
        # SQLite reads the index before it evaluates the gate: if that is closed, it searches for what nothing contains.
        match = f"CASE WHEN {gate} THEN {' || char(32) || '.join(parts)} ELSE :nothing END"
        return f"id IN (SELECT rowid FROM {index} WHERE {index} MATCH {match})"  # noqa: S608

    def pattern(self, part):
        return '"' + part.replace('"', '""') + '"'

    def create_index(self, connection, table):
        index = trigram_index_name(table)
        remove = f"INSERT INTO {index} ({index}, rowid, search_text) VALUES ('delete', old.id, old.search_text);"  # noqa: S608
        add = f"INSERT INTO {index} (rowid, search_text) VALUES (new.id, new.search_text);"  # noqa: S608
        for statement in (
            f"CREATE VIRTUAL TABLE IF NOT EXISTS {index} USING fts5"
            f"(search_text, content='{table}', content_rowid='id', tokenize='trigram case_sensitive 1')",
            # Triggers keep the index up to date however the table is written.
            f"CREATE TRIGGER IF NOT EXISTS {index}_insert AFTER INSERT ON {table} BEGIN {add} END",
            f"CREATE TRIGGER IF NOT EXISTS {index}_delete AFTER DELETE ON {table} BEGIN {remove} END",
            f"CREATE TRIGGER IF NOT EXISTS {index}_update AFTER UPDATE OF search_text ON {table} "
            f"WHEN old.search_text IS NOT new.search_text BEGIN {remove} {add} END",
            f"INSERT INTO {index} ({index}) VALUES ('rebuild')",  # noqa: S608
        ):
            connection.exec_driver_sql(statement)


ENGINES = {"postgresql": Postgres(), "sqlite": Sqlite()}


def database_engine() -> Engine:
    """Return the engine of the database."""
    return ENGINES[db.engine.dialect.name]


def trigram_index_name(table: str) -> str:
    """Return the name of a table's trigram index."""
    return f"ix_{table}_trigrams"


def is_search_index(name: str | None) -> bool:
    """Tell whether a table or index with this name belongs to an engine, and is therefore in no model."""
    return "_trigrams" in (name or "")


def has_trigram_index(table: str) -> bool:
    """Tell whether the trigram index of a table exists."""
    index = trigram_index_name(table)
    inspector = inspect(db.session.connection())
    return inspector.has_table(index) if db.engine.dialect.name == "sqlite" else inspector.has_index(table, index)


def create_trigram_index(connection, table: str) -> str:
    """Create the trigram index of a table.

    Returns a message about why PostgreSQL did not create it, which works without; empty when it did. Raises
    DatabaseError when SQLite has no FTS5, without which it cannot search.
    """
    try:
        with connection.begin_nested():
            ENGINES[connection.dialect.name].create_index(connection, table)
    except DatabaseError as error:
        if connection.dialect.name == "sqlite":
            raise
        reason = str(error.orig).strip().splitlines()[0]
        return (
            f"The search index was not created ({reason}). Search works without it, but is slow with many people. Have "
            "the database's owner run CREATE EXTENSION pg_trgm; then run flask --app main search reindex."
        )
    return ""
