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
    return db.session.scalars(select(func.count()).select_from(model)).one()


def require_indexer():
    """Return the indexer; exits where there is none."""
    if current_app.extensions["indexer"] is None:
        raise click.ClickException("ELASTICSEARCH_URL is not set: the database searches.")
    return current_app.extensions["indexer"]


@contextmanager
def exit_on_error():
    """Exit with a message when Elasticsearch, or another process, prevents what is in the with statement."""
    indexer = current_app.extensions["indexer"]
    if indexer is None:
        yield
        return
    from noxchat.search.elasticsearch_engine import ELASTICSEARCH_ERRORS, describe_error

    try:
        yield
    except SQLAlchemyError as error:
        raise click.ClickException(f"The database did not answer in time: {type(error).__name__}.") from None
    except ELASTICSEARCH_ERRORS as error:
        raise click.ClickException(f"Elasticsearch at {indexer.engine.host}: {describe_error(error)}.") from None


@contextmanager
def progress(label: str, length: int):
    """Show a progress bar in a with statement, whose value is called with each step. Only in a terminal."""
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        yield bar.update


@group.command("status")
def status():
    """Show the engine, whether its server answers, and how far its index is behind."""
    indexer = current_app.extensions["indexer"]
    for model in models():
        table = model.__tablename__
        engine = database_engine().name
        if indexer is None:
            click.echo(f"Engine:    {engine}; ELASTICSEARCH_URL is not set")
            continue
        count, seconds = outbox.backlog(table)
        db.session.commit()
        click.echo(f"Engine:    Elasticsearch; {engine} while that does not answer")
        click.echo(f"Server:    {indexer.engine.host}")
        click.echo(f"Outbox:    {count} {table} wait, the oldest for {seconds:.1f} s")
        with exit_on_error():
            server, index, documents = indexer.status(model)
        click.echo(f"Answers:   {server}")
        click.echo(f"Index:     {index}")
        click.echo(f"Documents: {documents} of {count_rows(model)} rows")


@group.command("reindex")
def reindex():
    """Recompute all search texts and rebuild the indexes; searches are answered meanwhile."""
    indexer = current_app.extensions["indexer"]
    for model in models():
        rows = count_rows(model)
        db.session.commit()
        with progress(f"Indexing {model.__tablename__}", rows * (2 if indexer else 1)) as step, exit_on_error():
            problem = model.reindex(step)
        if problem:
            raise click.ClickException(problem)
        engine = database_engine().name
        click.echo(f"{rows} {model.__tablename__} indexed: {'Elasticsearch and ' if indexer else ''}{engine}.")


@group.command("check")
@click.option("--repair", is_flag=True, help="Rebuild the index if they differ.")
def check(repair):
    """Compare index and database row by row. Exits with 1 if they differ and that is not repaired."""
    indexer, differs = require_indexer(), False
    for model in models():
        table, rows = model.__tablename__, count_rows(model)
        with exit_on_error(), progress(f"Comparing {table}", rows) as step:
            found = indexer.check(model, step)
        for label in sorted(set(found.values())):
            row_ids = [row_id for row_id, kind in found.items() if kind == label]
            click.echo(f"{len(row_ids)} {label}: {' '.join(map(str, row_ids[:20]))}{' …' if len(row_ids) > 20 else ''}")
        click.echo(f"{table}: {len(found)} differences.")
        if found and repair:
            with exit_on_error(), progress(f"Indexing {table}", rows) as step:
                indexer.rebuild(model, step)
            click.echo(f"{table}: the index was rebuilt.")
        differs |= bool(found) and not repair
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
            indexer.remove(model)
    click.echo("Deleted. A server with ELASTICSEARCH_URL set builds it again.")
