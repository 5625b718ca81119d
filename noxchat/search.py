"""Finding people by what they are called: one folded text for each, and an engine of the database that searches it.

A model names what it is searched by (`SearchableMixin.__searchable__`). That becomes one text, kept with the row, which
every engine searches and by which every list of names is sorted:

    "  anna  o'neil\t  anna_o\t  neil  oneil  o"

First the words of the name, then those of the other fields, each with two spaces before it; last what else begins a
word for a reader: the parts of `anna_o`, and `oneil` without its sign. So a text that holds "  ann" has a word that
begins with ann, one that begins with "  anna\t" is of somebody called exactly that, and a word of one letter is, with
its spaces, still the three characters that indexes of trigrams need.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

from flask import Flask, current_app
from sqlalchemy import (
    Integer,
    Text,
    and_,
    bindparam,
    event,
    false,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped, Session, declared_attr, mapped_column
from sqlalchemy.sql.functions import FunctionElement

from noxchat.extensions import db

BEFORE_WORD, AFTER_FIELD, NEXT_SIGN = "  ", "\t", "\n"
LAST_SIGN = "\U0010ffff"
LONGEST_QUERY = 200  # folded; the longest name is 32 characters, of which a few become several
MOST_WORDS = 8
EXACT, NAME_BEGINS, WORD_BEGINS, INSIDE = range(4)
SHORT = 2  # a word up to this long is looked for at the beginnings of words only
SIGNS = "_-.'"  # what stands inside names beside letters and digits, and begins a word for a reader

PARTS = re.compile(f"[{re.escape(SIGNS)}]+")

# Letters that have no accent to take off, and signs that are typed for each other.
ALIKE = str.maketrans(dict(zip("øłđħıðŋ’‘ʼ´`", "oldhidn'''''", strict=True)) | {"æ": "ae", "œ": "oe", "þ": "th"})


def fold(words: str) -> str:
    """Return text without case and accents (so ё is е), in which two spellings of one name are the same."""
    bare = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", words).casefold())
    return "".join(char for char in bare if not unicodedata.combining(char)).translate(ALIKE)


@lru_cache(maxsize=4096)
def fold_letter(char: str) -> str:
    """Return what becomes of a single character."""
    return fold(char)


def searchable(*fields: str) -> str:
    """Return the text by which something with these fields is found: see the top of this file."""
    also, written = [], []
    for field in fields:
        words = fold(field).split()
        written.append("".join(BEFORE_WORD + word for word in words))
        for word in words:
            parts = [part for part in PARTS.split(word) if part]
            also += [part for part in (*parts, word.replace("'", "")) if part and not word.startswith(part)]
    return AFTER_FIELD.join([*written, "".join(BEFORE_WORD + word for word in dict.fromkeys(also))])


def is_in_names(char: str) -> bool:
    """Tell whether a folded name can hold this character."""
    return char.isalnum() or char in SIGNS or unicodedata.category(char).startswith("M")


@dataclass(frozen=True)
class Query:
    """What somebody looks for, folded.

    words: without a leading @, as Public IDs are shown with one.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, typed: str) -> "Query":
        """Return the query in a text of any length; whatever it holds is letters."""
        words = fold(typed[: 10 * LONGEST_QUERY]).split()
        return cls(tuple(word for word in (word.removeprefix("@") for word in words) if word))

    def __bool__(self):
        return bool(self.words)

    @cached_property
    def whole(self) -> str:
        """The beginning of the text of everybody whose name begins with this."""
        return "".join(BEFORE_WORD + word for word in self.words)

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """What the text of everybody contains who is found by this: no order, each of them somewhere."""
        return tuple(word if len(word) > SHORT else BEFORE_WORD + word for word in self.words)

    @cached_property
    def starts(self) -> tuple[str, ...]:
        """The same, with each word at the beginning of one."""
        return tuple(BEFORE_WORD + word for word in self.words)

    @cached_property
    def is_short(self) -> bool:
        """Whether this is so little that only beginnings of words are found."""
        return max(map(len, self.words), default=0) <= SHORT

    @cached_property
    def is_possible(self) -> bool:
        """Whether anybody can be called so: names hold no other signs, and are not that long."""
        return (
            0 < len(self.whole) <= LONGEST_QUERY
            and len(self.words) <= MOST_WORDS
            and all(is_in_names(char) for word in self.words for char in word)
        )

    @cached_property
    def last_rank(self) -> int:
        """The last rank that can have anybody: no index knows signs alone; short words are found where words begin."""
        if not any(char.isalnum() for char in self.whole):
            return NAME_BEGINS
        return WORD_BEGINS if self.is_short else INSIDE

    def pieces(self, name: str) -> list[tuple[str, bool]]:
        """Return a name in pieces, each with whether it is what was looked for, where that can be told."""
        folded, origin = name.lower(), range(len(name))
        if not name.isascii():  # a letter may become several
            letters = [fold_letter(char) for char in name]
            folded, origin = "".join(letters), [place for place, char in enumerate(letters) for _letter in char]
        hits = []
        for word in self.words:
            start = folded.find(word)
            while start >= 0:
                if len(word) > SHORT or not folded[start - 1 : start].isalnum():
                    hits.append((origin[start], origin[start + len(word) - 1] + 1))
                start = folded.find(word, start + len(word))
        pieces, done = [], 0
        for start, end in sorted(hits):
            if start >= done:
                pieces += [(name[done:start], False), (name[start:end], True)]
                done = end
        return [(piece, hit) for piece, hit in [*pieces, (name[done:], False)] if piece]

    @cached_property
    def values(self) -> dict[str, str]:
        """The parameters of `fits`."""
        return {f"part{number}": part for number, part in enumerate(self.parts)}


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


class Hit(NamedTuple):
    """Something that was found. `rank` and `text` are its place in the order, and the cursor of whatever follows it."""

    id: int
    rank: int
    text: str


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

    def parts(self, model, query: Query, after: Hit | None, unseen, viewer: int):
        """Yield what brings the hits after a place in the order: functions of how many more are wanted.

        Each returns a subquery of Hit's columns, with its parameters, to be joined to. Names that begin so come by a
        small one, which mostly suffices while somebody types; the rest by a larger one.
        model: a SearchableMixin. query: a possible one. unseen: what is left out, as a select of ids with a parameter
        `viewer`.
        """
        for first, last in ((EXACT, NAME_BEGINS), (WORD_BEGINS, query.last_rank)):
            if last >= max(first, after.rank if after else first):
                here = after if after and after.rank >= first else None
                yield partial(self._hits, model, query, here, (here.rank if here else first, last), unseen, viewer)

    def _hits(self, model, query: Query, after: Hit | None, ranks: tuple[int, int], unseen, viewer: int, limit: int):
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
    """Choose the application's engine by what its database has; None, to be asked again, while that does not answer."""
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


def engine() -> Engine:
    """Return the engine that was chosen."""
    return current_app.extensions["search"] or choose(current_app) or ENGINES[db.engine.dialect.name][1]


class SearchableMixin:
    """A model whose rows are found by what they are called.

    __searchable__: the attributes that are searched, the name first; with a dot, those of a related row, whose model
    has a method `found_with` that returns the row whose text it is part of. `search_text` is kept from them whenever
    the session writes one.
    """

    __searchable__: tuple[str, ...] = ()

    @declared_attr
    def search_text(cls) -> Mapped[str]:  # noqa: N805
        """The folded text. By code points everywhere, so that every engine has one order."""
        by_code_points = Text().with_variant(Text(collation="C"), "postgresql")
        return mapped_column(by_code_points, server_default="", deferred=True)

    @classmethod
    def exactly(cls, word):
        """Return a select of ids of whoever is called exactly so by another field than the name; nobody by default."""
        return select(cls.__table__.c.id).where(false(), cls.__table__.c.search_text == word)

    @classmethod
    def search(cls, query: Query, after: Hit | None, limit: int, load, *, unseen, viewer: int) -> list:
        """Return up to `limit` rows after a place in the order, best first; none for a query that is impossible.

        load: returns the statement that loads rows, given a subquery of Hit's columns to join to and to sort by.
        unseen, viewer: see Engine.parts.
        """
        rows = []
        for hits in engine().parts(cls, query, after, unseen, viewer) if query.is_possible else ():
            if len(rows) < limit:
                found, values = hits(limit - len(rows))
                rows += db.session.execute(load(found), values).all()
        return rows

    def write_search_text(self):
        """Compute this row's text anew."""
        words = []
        for path in self.__searchable__:
            value = self
            for name in path.split("."):
                value = getattr(value, name) if value is not None else None
            words.append(value or "")
        self.search_text = searchable(*words)

    def is_renamed(self) -> bool:
        """Tell whether one of this row's own searched attributes is about to be written."""
        attributes = inspect(self).attrs
        return any(attributes[path].history.has_changes() for path in self.__searchable__ if "." not in path)


@event.listens_for(Session, "before_flush")
def keep_texts(session, _context, _instances):
    """Keep the texts of whatever is about to be written."""
    for row in (*session.new, *session.dirty):
        if isinstance(row, SearchableMixin) and row.is_renamed():
            row.write_search_text()
        elif hasattr(row, "found_with") and session.is_modified(row):
            row.found_with().write_search_text()
