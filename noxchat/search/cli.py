"""`flask search …`: the state of the search engine and its index; rebuilding, updating and checking the index."""

import sys
from contextlib import contextmanager

import click
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from noxchat.extensions import db
from noxchat.search import outbox
from noxchat.search.engines import database_engine
from noxchat.search.mixin import models

group = AppGroup("search", help="The search engine, and the index of Elasticsearch.")


def count_rows(model) -> int:
    """Return how many rows a model has."""
    return db.session.scalar(select(func.count()).select_from(model))


def require_indexer():
    """Return the indexer; exits where there is none."""
    if current_app.extensions["indexer"] is None:
        raise click.ClickException(f"ELASTICSEARCH_URL is not set: searches use {database_engine().name}.")
    return current_app.extensions["indexer"]


@contextmanager
def exit_on_error():
    """Exit with a message when Elasticsearch, or another process, prevents what is in the with statement."""
    if current_app.extensions["indexer"] is None:
        yield
        return
    from noxchat.search.elasticsearch_engine import ELASTICSEARCH_ERRORS, describe_error
    from noxchat.search.indexer import ForeignIndex, IndexLocked, IndexUnusable

    try:
        yield
    except IndexLocked:
        raise click.ClickException("Another process is writing the index: try again later.") from None
    except ForeignIndex:
        raise click.ClickException(
            "The index of this name belongs to another installation: set ELASTICSEARCH_PREFIX, or take it over with "
            "flask --app main search reindex --take-over"
        ) from None
    except IndexUnusable as reason:
        raise click.ClickException(
            f"The index cannot be searched: {reason}. A server builds it by itself; or run search reindex."
        ) from None
    except SQLAlchemyError as error:
        raise click.ClickException(f"The database did not answer in time: {type(error).__name__}.") from None
    except ELASTICSEARCH_ERRORS as error:
        where = current_app.extensions["elasticsearch"].host
        raise click.ClickException(f"Elasticsearch at {where}: {describe_error(error)}.") from None


@contextmanager
def progress(label: str, length: int):
    """Show a progress bar in a with statement, whose value is called with each step. Only in a terminal."""
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        yield bar.update


@group.command("status")
def status():
    """Show the engine, whether its server answers, and how far its index is behind."""
    indexer = current_app.extensions["indexer"]
    if indexer is None:
        click.echo(f"Engine:    {database_engine().name}; ELASTICSEARCH_URL is not set")
        return
    click.echo(f"Engine:    Elasticsearch; {database_engine().name} while that does not answer")
    click.echo(f"Server:    {indexer.engine.host}")
    for model in models():
        backlog = outbox.backlog(model.__tablename__)
        click.echo(
            f"Outbox:    {backlog.count} {model.__tablename__} wait, the oldest for {backlog.oldest_seconds:.1f} s"
        )
        for row_id, reason in outbox.refused_rows(model.__tablename__, 10):
            click.echo(f"Refused:   {model.__tablename__} {row_id}: {reason}")
        db.session.commit()
        with exit_on_error():
            state = indexer.status(model)
            click.echo(f"Answers:   {state.server}")
            click.echo(f"Index:     {state.index}")
            click.echo(f"Documents: {state.documents} of {count_rows(model)} rows")


@group.command("reindex")
@click.option("--take-over", is_flag=True, help="Replace an index of this name that belongs to another installation.")
def reindex(take_over):
    """Recompute all search texts and rebuild the indexes; searches are answered meanwhile."""
    indexer = current_app.extensions["indexer"]
    for model in models():
        rows = count_rows(model)
        db.session.commit()
        with progress(f"Indexing {model.__tablename__}", rows * (2 if indexer else 1)) as step, exit_on_error():
            problem = model.reindex(step, take_over=take_over)
        if problem:
            raise click.ClickException(problem)
        engine = f"Elasticsearch and {database_engine().name}" if indexer else database_engine().name
        click.echo(f"{rows} people indexed: {engine}.")


@group.command("sync")
def sync():
    """Send the changes in the outbox to the index now."""
    indexer = require_indexer()
    with exit_on_error():
        for model in models():
            indexer.verify(model)
            with indexer.lock(model, timeout=30):
                count = indexer.sync(model)
            click.echo(f"{count} {model.__tablename__} sent.")


@group.command("check")
@click.option("--repair", is_flag=True, help="Index again what differs.")
def check(repair):
    """Compare index and database row by row. Exits with 1 if they differ."""
    indexer, differs = require_indexer(), False
    for model in models():
        kind = model.__tablename__
        with exit_on_error(), progress(f"Comparing {kind}", count_rows(model)) as step:
            indexer.verify(model)
            found, left = indexer.check(model, repair, step)
        for label, row_ids in (("missing", found.missing), ("different", found.changed), ("too many", found.extra)):
            if row_ids:
                more = " …" if len(row_ids) > 20 else ""
                click.echo(f"{len(row_ids)} {label}: {' '.join(map(str, row_ids[:20]))}{more}")
        click.echo(f"{kind}: {len(found.row_ids())} differences" + (f", {len(left.row_ids())} left" if repair else "."))
        if repair and left:
            click.echo("What is left needs search reindex.")
        differs = differs or bool(left if repair else found)
    raise SystemExit(1 if differs else 0)


@group.command("forget")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def forget(yes):
    """Delete the index and stop recording changes for it, to go back to the database for good."""
    indexer = require_indexer()
    if not yes:
        click.confirm("Delete the indexes of this installation from Elasticsearch?", abort=True)
    with exit_on_error():
        for model in models():
            with indexer.lock(model, timeout=30):
                indexer.remove(model)
    click.echo("Deleted. A server with ELASTICSEARCH_URL set builds it again.")
