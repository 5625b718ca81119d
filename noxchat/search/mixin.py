"""SearchableMixin, for models whose rows are found by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from flask import current_app
from sqlalchemy import ColumnElement, Table, Text, bindparam, event, false, inspect, select, update
from sqlalchemy.orm import Mapped, Session, declared_attr, mapped_column

from noxchat.database import begin_write, without_statement_timeout
from noxchat.extensions import db
from noxchat.search.engines import Search, create_trigram_index, database_engine
from noxchat.search.normalization import Hit, Query, make_search_text

BATCH_SIZE = 5000  # rows
TEXT_BY_CODE_POINTS = Text().with_variant(Text(collation="C"), "postgresql")


class SearchableMixin:
    """A model whose rows are found by name.

    __searchable__: the attributes that are searched, the name first. With a dot, those of a related row, whose model
    has a method `search_owner` that returns the row whose text it is part of. `search_text` is updated whenever the
    session writes one of them.
    """

    __searchable__: ClassVar[tuple[str, ...]] = ()
    if TYPE_CHECKING:  # what each model has
        __tablename__: ClassVar[str]
        __table__: ClassVar[Table]
        id: Mapped[int]

    @declared_attr
    def search_text(cls) -> Mapped[str]:  # noqa: N805
        """The folded text. Sorted by code points everywhere, so that all engines have the same order."""
        return mapped_column(TEXT_BY_CODE_POINTS, server_default="", deferred=True)

    @classmethod
    def exact_match_ids(cls, word):
        """Return a select of the ids of rows that match exactly by another field than the name; by default none."""
        return select(cls.__table__.c.id).where(false(), cls.__table__.c.search_text == word)

    @classmethod
    def search(
        cls, query: Query, after: Hit | None, limit: int, condition: ColumnElement, **parameters: object
    ) -> list[Hit]:
        """Return up to `limit` hits after a position in the order, best match first.

        condition: which rows may be found, about this model's id and of constant text; parameters: its values. It is
        evaluated by the database, whichever engine searches. With Elasticsearch the transaction at hand is committed,
        so never search in the middle of writing.
        """
        if not query.can_match:
            return []
        search = Search(cls, query, condition, parameters)
        if indexer := current_app.extensions["indexer"]:
            indexer.start()
            return indexer.engine.search(search, after, limit)
        return database_engine().search(search, after, limit)

    @classmethod
    def rewrite_search_texts(cls, progress: Callable[[int], None] = lambda _count: None):
        """Recompute the search texts of all rows, as after a change of the folding. Commits.

        progress: is called with the number of rows done since the last call.
        """
        fields, joined = [], select(cls.id)
        for path in cls.__searchable__:
            related, _dot, name = path.rpartition(".")
            if related:
                joined = joined.outerjoin(getattr(cls, related))
            owner = getattr(cls, related).property.mapper.class_ if related else cls
            fields.append(getattr(owner, name))
        rows_by_id = joined.add_columns(cls.search_text, *fields).order_by(cls.id).limit(BATCH_SIZE)
        last_id = 0
        while rows := db.session.execute(rows_by_id.where(cls.id > last_id)).all():
            texts = [
                {"row_id": row_id, "new": new, "old": old}
                for row_id, old, *values in rows
                if (new := make_search_text(*(value or "" for value in values))) != old
            ]
            if texts:
                begin_write(db.session)
                # Rows that were changed in the meantime have a correct text already.
                unchanged = cls.__table__.c.id == bindparam("row_id"), cls.__table__.c.search_text == bindparam("old")
                statement = update(cls.__table__).where(*unchanged).values(search_text=bindparam("new"))
                db.session.connection().execute(statement, texts)
            db.session.commit()
            last_id = rows[-1].id
            progress(len(rows))

    @classmethod
    def reindex(cls, progress: Callable[[int], None] = lambda _count: None) -> str:
        """Recompute all search texts and rebuild every index; searches are answered meanwhile. Commits.

        progress, and what this raises: as for rewrite_search_texts and Indexer.rebuild.
        Returns a message about why the database's index could not be created; empty when it was.
        """
        cls.rewrite_search_texts(progress)
        with db.engine.begin() as connection, without_statement_timeout(connection):
            problem = create_trigram_index(connection, cls.__tablename__)
        if indexer := current_app.extensions["indexer"]:
            indexer.rebuild(cls, progress)
        return problem

    def update_search_text(self):
        """Recompute this row's search text."""
        fields = []
        for path in self.__searchable__:
            value: Any = self
            for name in path.split("."):
                value = getattr(value, name) if value is not None else None
            fields.append(value or "")
        self.search_text = make_search_text(*fields)

    def is_renamed(self) -> bool:
        """Tell whether one of this row's own searched attributes has changed."""
        attributes = inspect(self).attrs
        return any(attributes[path].history.has_changes() for path in self.__searchable__ if "." not in path)


def models() -> list[type[SearchableMixin]]:
    """Return all searchable models."""
    return SearchableMixin.__subclasses__()


@event.listens_for(Session, "before_flush")
def _update_search_texts(session, _context, _instances):
    for row in (*session.new, *session.dirty):
        if isinstance(row, SearchableMixin) and row.is_renamed():
            row.update_search_text()
        elif hasattr(row, "search_owner") and session.is_modified(row):
            row.search_owner().update_search_text()
