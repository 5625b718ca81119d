"""`flask search …`: the state of the search engine and its index; rebuilding and checking the index."""

import sys
from contextlib import contextmanager, nullcontext

import click
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from noxchat.audit import log_command
from noxchat.extensions import db
from noxchat.search import outbox
from noxchat.search.engines import database_engine
from noxchat.search.mixin import models

group = AppGroup("search", help="The search engine, and the index of Elasticsearch.")


def count_rows(model) -> int:
    """Return how many rows a model has."""
    return db.session.scalars(select(func.count()).select_from(model)).one()


@contextmanager
def running_indexer():
    """Return the indexer for a with statement, which exits with a message when there is none or something fails."""
    indexer = current_app.extensions["indexer"]
    if indexer is None:
        raise click.ClickException("ELASTICSEARCH_URL is not set: the database searches.")
    from noxchat.search.elasticsearch_engine import ELASTICSEARCH_ERRORS, describe_error

    try:
        yield indexer
    except SQLAlchemyError as error:
        raise click.ClickException(f"The database: {type(error).__name__}.") from None
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
        with running_indexer():
            server, index, documents = indexer.status(model)
        click.echo(f"Answers:   {server}")
        click.echo(f"Index:     {index}")
        click.echo(f"Documents: {documents} of {count_rows(model)} rows")


@group.command("reindex")
def reindex():
    """Recompute all search texts and rebuild the indexes; searches are answered meanwhile."""
    uses_elasticsearch = current_app.extensions["indexer"] is not None
    for model in models():
        table, rows = model.__tablename__, count_rows(model)
        db.session.commit()
        with (
            running_indexer() if uses_elasticsearch else nullcontext(),
            progress(f"Indexing {table}", rows * (2 if uses_elasticsearch else 1)) as step,
        ):
            problem = model.reindex(step)
        if problem:
            raise click.ClickException(problem)
        log_command(table)
        click.echo(f"{rows} {table} indexed: {'Elasticsearch and ' * uses_elasticsearch}{database_engine().name}.")


@group.command("check")
@click.option("--repair", is_flag=True, help="Rebuild the index if they differ.")
def check(repair):
    """Compare index and database row by row. Exits with 1 if they differ and that is not repaired."""
    differs = False
    for model in models():
        table, rows = model.__tablename__, count_rows(model)
        with running_indexer() as indexer, progress(f"Comparing {table}", rows) as step:
            problem, found = indexer.check(model, step)
        shown = " ".join(map(str, sorted(found)[:20])) + " …" * (len(found) > 20)
        click.echo(f"{table}: {problem or f'{len(found)} differences. {shown}'.strip()}")
        is_wrong = bool(problem or found)
        if is_wrong and repair:
            with running_indexer(), progress(f"Indexing {table}", rows) as step:
                indexer.rebuild(model, step)
            click.echo(f"{table}: the index was rebuilt.")
        differs |= is_wrong and not repair
    raise SystemExit(1 if differs else 0)


@group.command("forget")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def forget(yes):
    """Delete the index and stop recording changes for it, to go back to the database for good."""
    with running_indexer() as indexer:
        if not yes:
            click.confirm("Delete the indexes of this installation from Elasticsearch?", abort=True)
        for model in models():
            indexer.remove(model)
    log_command("all indexes")
    click.echo("Deleted. A server with ELASTICSEARCH_URL set builds it again.")
