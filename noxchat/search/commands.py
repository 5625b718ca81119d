"""`flask search …`: what searches, and how its index is; building, handing over, comparing it by hand."""

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

group = AppGroup("search", help="What people are found by: its engine, and the index of Elasticsearch.")


def rows_of(model) -> int:
    """Return how many rows a model has."""
    return db.session.scalar(select(func.count()).select_from(model))


def the_indexer():
    """Return the indexer; ends the command where there is none."""
    if current_app.extensions["indexer"] is None:
        raise click.ClickException(f"ELASTICSEARCH_URL is not set: {database_engine().name} searches.")
    return current_app.extensions["indexer"]


@contextmanager
def said():
    """End the command with a sentence when Elasticsearch, or another process, stands in the way."""
    if current_app.extensions["indexer"] is None:
        yield
        return
    from noxchat.search.elastic import TROUBLE, what_happened
    from noxchat.search.indexer import Busy, Foreign, Missing

    try:
        yield
    except Busy:
        raise click.ClickException("Another process is writing the index: try again later.") from None
    except Foreign:
        raise click.ClickException(
            "The index of this name belongs to another place: set ELASTICSEARCH_PREFIX, or take it over with "
            "flask --app main search reindex --take-over"
        ) from None
    except Missing as why:
        raise click.ClickException(
            f"The index cannot be searched: {why}. A server builds it by itself; or run search reindex."
        ) from None
    except SQLAlchemyError as error:
        raise click.ClickException(f"The database did not answer in time: {type(error).__name__}.") from None
    except TROUBLE as error:
        where = current_app.extensions["elasticsearch"].host
        raise click.ClickException(f"Elasticsearch at {where}: {what_happened(error)}.") from None


@contextmanager
def progress(label: str, length: int):
    """Show how far something is, in a with statement, whose value is told of each step. Silent if nobody looks."""
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        yield bar.update


@group.command("status")
def status():
    """Say what searches, whether its server answers, and how far its index is behind."""
    indexer = current_app.extensions["indexer"]
    if indexer is None:
        click.echo(f"Engine:    {database_engine().name}; ELASTICSEARCH_URL is not set")
        return
    click.echo(f"Engine:    Elasticsearch; {database_engine().name} when that does not answer")
    click.echo(f"Server:    {indexer.elastic.host}")
    for model in models():
        waits = outbox.waiting(model.__tablename__)
        click.echo(f"Outbox:    {waits.count} {model.__tablename__} wait, the oldest for {waits.oldest:.1f} s")
        for number, why in outbox.refused(model.__tablename__, 10):
            click.echo(f"Refused:   {model.__tablename__} {number}: {why}")
        db.session.commit()
        with said():
            found = indexer.status(model)
            click.echo(f"Answers:   {found.server}")
            click.echo(f"Index:     {found.index}")
            click.echo(f"Documents: {found.documents} of {rows_of(model)} rows")


@group.command("reindex")
@click.option("--take-over", is_flag=True, help="Replace an index of this name that belongs to another place.")
def reindex(take_over):
    """Write everybody's text for the search anew, and build the indexes anew beside those in use."""
    indexer = current_app.extensions["indexer"]
    for model in models():
        rows = rows_of(model)
        db.session.commit()
        with progress(f"Indexing {model.__tablename__}", rows * (2 if indexer else 1)) as step, said():
            problem = model.reindex(step, take_over=take_over)
        if problem:
            raise click.ClickException(problem)
        engine = f"Elasticsearch and {database_engine().name}" if indexer else database_engine().name
        click.echo(f"{rows} people can be found: {engine}.")


@group.command("sync")
def sync():
    """Hand over now what waits to be indexed."""
    indexer = the_indexer()
    with said():
        for model in models():
            indexer.examine(model)
            with indexer.writing(model, patience=30):
                count = indexer.sync(model)
            click.echo(f"{count} {model.__tablename__} handed over.")


@group.command("check")
@click.option("--repair", is_flag=True, help="Mend what differs.")
def check(repair):
    """Compare index and database row by row. Ends with 1 if they differ."""
    indexer, differs = the_indexer(), False
    for model in models():
        kind = model.__tablename__
        with said(), progress(f"Comparing {kind}", rows_of(model)) as step:
            indexer.examine(model)
            found, left = indexer.check(model, repair, step)
        for what, numbers in (("missing", found.missing), ("different", found.changed), ("too many", found.left_over)):
            if numbers:
                more = " …" if len(numbers) > 20 else ""
                click.echo(f"{len(numbers)} {what}: {' '.join(map(str, numbers[:20]))}{more}")
        click.echo(f"{kind}: {len(found.numbers())} differences" + (f", {len(left.numbers())} left" if repair else "."))
        if repair and left:
            click.echo("What is left needs search reindex.")
        differs = differs or bool(left if repair else found)
    raise SystemExit(1 if differs else 0)


@group.command("forget")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(yes):
    """Remove the index, and write down no more what changes: for whoever goes back to the database for good."""
    indexer = the_indexer()
    if not yes:
        click.confirm("Remove this place's indexes from Elasticsearch?", abort=True)
    with said():
        for model in models():
            with indexer.writing(model, patience=30):
                indexer.remove(model)
    click.echo("Forgotten. A server that has ELASTICSEARCH_URL set builds it again.")
