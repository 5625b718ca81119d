"""Counts and checksums of tables, by which two databases are compared."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, FromClause, Select, column, inspect, select, table

from noxchat.search import is_search_index

BATCH_SIZE = 5000  # rows
Summaries = dict[str, list]  # the name of each table, with its number of rows and its checksum


def list_tables(connection: Connection) -> list[str]:
    """Return the names of the tables that have data of their own, which the indexes of search engines have not."""
    return sorted(name for name in inspect(connection).get_table_names() if not is_search_index(name))


def stored_rows(connection: Connection, name: str) -> Select:
    """Return a select of a table's rows as they are stored, whatever the models say: it may be of any version."""
    names = sorted(each["name"] for each in inspect(connection).get_columns(name))
    return select(*map(column, names)).select_from(table(name))


def summarize(
    connection: Connection,
    names: Iterable[str],
    rows_of: Callable[[Connection, str], Select | FromClause] = stored_rows,
    progress: Callable[[str], None] = lambda _text: None,
) -> Summaries:
    """Return counts and checksums of tables.

    rows_of: returns what to select of a table. progress: is told which table is being read.
    """
    summaries: Summaries = {}
    for name in names:
        progress(f"checking {name}")
        summaries[name] = _summarize(connection, rows_of(connection, name))
    return summaries


def _summarize(connection: Connection, rows: Any) -> list:
    """Return the number of rows and a checksum, which does not depend on their order."""
    count, total = 0, 0
    for row in stream(connection, rows):
        digest = hashlib.blake2b(repr(tuple(row)).encode("utf-8", "backslashreplace"), digest_size=16).digest()
        total += int.from_bytes(digest, "big")
        count += 1
    return [count, f"{total % 2**128:032x}"]


def stream(connection: Connection, statement: Any):
    """Return the rows of a select, of which only some are in memory at a time."""
    return connection.execute(statement, execution_options={"yield_per": BATCH_SIZE})


def compare(expected: Summaries, found: Summaries) -> list[str]:
    """Return a sentence for each table that differs."""
    problems = []
    for name in sorted(expected.keys() | found.keys()):
        before, after = expected.get(name), found.get(name)
        if before is None or after is None:
            problems.append(f"the table {name} is {'missing' if after is None else 'not expected'}")
        elif before[0] != after[0]:
            problems.append(f"the table {name} has {after[0]:,} rows instead of {before[0]:,}")
        elif before != after:
            problems.append(f"the table {name} has other rows")
    return problems
