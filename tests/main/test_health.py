"""The health checks /healthz and /readyz."""

from tests.conftest import Browser


def test_healthz_and_readyz_answer_without_cookies(make_app):
    app = make_app()
    anonymous = Browser(app)
    assert anonymous.get("/healthz").json == {"status": "ok"}
    ready = anonymous.get("/readyz")
    assert ready.status_code == 200 and ready.json["database"] == "sqlite, answers, tables are current"
    for answer in (ready, anonymous.get("/healthz")):
        assert "Set-Cookie" not in answer.headers


def test_readyz_is_503_without_tables(make_app, tmp_path):
    ready = Browser(make_app(uri=f"sqlite:///{tmp_path}/nothing.db")).get("/readyz")
    assert ready.status_code == 503 and "db upgrade" in ready.json["database"]


def test_readyz_is_200_while_mail_search_or_limits_are_degraded(make_app):
    app = make_app(
        MAIL_SERVER="127.0.0.1",
        MAIL_PORT=9,
        ELASTICSEARCH_URL="http://127.0.0.1:9",
        RATELIMIT_STORAGE_URI="redis://127.0.0.1:9",
    )
    ready = Browser(app).get("/readyz")
    assert ready.status_code == 200
    assert "queue" in ready.json["mail"] and "database searches" in ready.json["elasticsearch"]
    assert "each process counts by itself" in ready.json["limits"]
