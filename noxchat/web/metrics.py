"""Metrics for Prometheus: requests by route, and the state of streams, connections, e-mails, search and disk.

With several processes the numbers of all are added up, in files of the folder PROMETHEUS_MULTIPROC_DIR, which the
server has to make before this module is imported.
"""

import os
import time
from collections.abc import Iterator

from flask import Flask, current_app, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from noxchat import health, search
from noxchat.extensions import db
from noxchat.mail import queue
from noxchat.search import outbox

METHODS = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE"}
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """What is counted in this process."""

    def __init__(self):
        self.registry = own = CollectorRegistry()
        self.requests = Counter("noxchat_requests", "Requests.", ["method", "route", "status"], registry=own)
        self.seconds = Histogram(
            "noxchat_request_seconds", "Time until the answer.", ["route"], registry=own, buckets=BUCKETS
        )
        self.streams = Gauge("noxchat_streams", "Open event streams.", registry=own, multiprocess_mode="livesum")
        self.connections = Gauge(
            "noxchat_database_connections", "The pool.", ["state"], registry=own, multiprocess_mode="livesum"
        )
        self.registry.register(StateCollector())

    def exposition(self) -> bytes:
        """Return the metrics of all processes in Prometheus' text format."""
        if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        registry.register(StateCollector())
        return generate_latest(registry)


class StateCollector:
    """What is looked up when it is asked for."""

    def describe(self) -> list[Metric]:
        """Name no metrics, so that registering looks nothing up."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        disk = GaugeMetricFamily("noxchat_disk_free_bytes", "Free space.", labels=["folder"])
        for name, usage in health.disk_usage(current_app.config).items():
            disk.add_metric([str(name)], usage.free)
        yield disk
        try:
            emails, email_age = queue.backlog()
            backlogs = [outbox.backlog(model.__tablename__) for model in search.models()]
            db.session.commit()
        except SQLAlchemyError:
            db.session.rollback()
            yield GaugeMetricFamily("noxchat_database_up", "Whether the database answers.", 0)
            return
        yield GaugeMetricFamily("noxchat_database_up", "Whether the database answers.", 1)
        yield GaugeMetricFamily("noxchat_emails_queued", "E-mails that wait.", emails)
        yield GaugeMetricFamily("noxchat_email_oldest_seconds", "For how long the oldest e-mail has waited.", email_age)
        if indexer := current_app.extensions["indexer"]:
            is_ready = GaugeMetricFamily("noxchat_elasticsearch_ready", "Whether Elasticsearch searches.")
            is_ready.add_metric([], float(indexer.engine.is_ready))
            yield is_ready
            waiting = sum(count for count, _seconds in backlogs)
            yield GaugeMetricFamily("noxchat_search_changes_queued", "Changes that wait to be indexed.", waiting)


def init_app(app: Flask):
    """Count all requests."""
    app.extensions["metrics"] = Metrics()
    app.after_request(_count)


def _count(response):
    metrics: Metrics = current_app.extensions["metrics"]
    route = str(request.url_rule or "-")
    method = request.method if request.method in METHODS else "other"  # or anybody could invent them
    metrics.requests.labels(method, route, response.status_code).inc()
    metrics.seconds.labels(route).observe(time.perf_counter() - g.began)
    metrics.streams.set(current_app.extensions["event_streams"].count())
    pool = db.engine.pool
    if isinstance(pool, QueuePool):
        metrics.connections.labels("used").set(pool.checkedout())
        metrics.connections.labels("idle").set(pool.checkedin())
    return response
