"""Models whose rows are found by what they are called."""

from collections.abc import Callable

from flask import current_app
from sqlalchemy import Text, bindparam, event, false, inspect, select, update
from sqlalchemy.orm import Mapped, Session, declared_attr, mapped_column

from noxchat.database import start_writing, unhurried
from noxchat.extensions import db
from noxchat.search.engines import choose, current_engine, make_index
from noxchat.search.texts import Hit, Query, searchable

MANY = 5000  # rows at a time
PATIENCE = 600  # seconds that reindex waits for another process to let go of the index


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

        load, unseen, viewer: see Engine.search.
        """
        if not query.is_possible:
            return []
        return current_engine().search(cls, query, after, limit, load, unseen=unseen, viewer=viewer)

    @classmethod
    def rewrite_texts(cls, progress: Callable[[int], None] = lambda _count: None):
        """Compute the texts of all rows anew, as after a change of the folding. Commits.

        progress: is called with how many rows more were looked at.
        """
        fields, joined = [], select(cls.id)
        for path in cls.__searchable__:
            related, _dot, name = path.rpartition(".")
            if related:
                joined = joined.outerjoin(getattr(cls, related))
            owner = getattr(cls, related).property.mapper.class_ if related else cls
            fields.append(getattr(owner, name))
        everything = joined.add_columns(cls.search_text, *fields).order_by(cls.id).limit(MANY)
        last = 0
        while rows := db.session.execute(everything.where(cls.id > last)).all():
            texts = [
                {"number": number, "text": right, "old": text}
                for number, text, *values in rows
                if (right := searchable(*(value or "" for value in values))) != text
            ]
            if texts:
                start_writing(db.session)
                # Not what was changed in the meantime, which is right by itself.
                same = cls.__table__.c.id == bindparam("number"), cls.__table__.c.search_text == bindparam("old")
                db.session.connection().execute(
                    update(cls.__table__).where(*same).values(search_text=bindparam("text")), texts
                )
            db.session.commit()
            last = rows[-1].id
            progress(len(rows))

    @classmethod
    def reindex(cls, progress: Callable[[int], None] = lambda _count: None, *, take_over: bool = False) -> str:
        """Write all texts anew, and make every index anew that finds them; they are searched meanwhile. Commits.

        progress: is called with how many rows more were dealt with. take_over, and what this raises: as Indexer.build.
        Returns what stands in the way of the database's own index, in a sentence; nothing when that is made.
        """
        cls.rewrite_texts(progress)
        with db.engine.begin() as connection, unhurried(connection):
            problem = make_index(connection, cls.__tablename__)
        choose(current_app)
        if indexer := current_app.extensions["indexer"]:
            with indexer.writing(cls, patience=PATIENCE):
                indexer.build(cls, progress, take_over=take_over)
        return problem

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


def models() -> list[type[SearchableMixin]]:
    """Return the models that are searched."""
    return SearchableMixin.__subclasses__()


@event.listens_for(Session, "before_flush")
def keep_texts(session, _context, _instances):
    """Keep the texts of whatever is about to be written."""
    for row in (*session.new, *session.dirty):
        if isinstance(row, SearchableMixin) and row.is_renamed():
            row.write_search_text()
        elif hasattr(row, "found_with") and session.is_modified(row):
            row.found_with().write_search_text()
