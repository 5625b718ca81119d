"""Settings: defaults, valid values, and errors for invalid ones."""

import os
import re
import subprocess
import sys

import pytest

from config import ROOT, Config, ConfigError
from tests import certificates
from tests.conftest import skip

KEY = {"SECRET_KEY": "0123456789abcdef0123456789abcdef"}


def config(**variables):
    return Config({**KEY, **variables}, debug=False)


def test_defaults():
    settings = config()
    assert settings.BASE_URL == "http://127.0.0.1:8000"
    assert settings.DATA_DIR == ROOT / "instance"
    assert settings.SQLALCHEMY_DATABASE_URI == f"sqlite:///{ROOT}/instance/noxchat.db"
    assert settings.MAIL_SERVER is None and settings.ELASTICSEARCH_URL is None
    assert {"localhost", "127.0.0.1"} <= set(settings.HOSTS)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_postgresql_scheme_selects_psycopg(scheme):
    settings = config(SQLALCHEMY_DATABASE_URI=f"{scheme}://me:p%40ss@db/nox")
    assert settings.SQLALCHEMY_DATABASE_URI == "postgresql+psycopg://me:p%40ss@db/nox"


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("http://elastic:s3%2Fcret@es", "http://elastic:s3%2Fcret@es:9200"),
        ("https://es.example/", "https://es.example:9200"),
        ("http://[::1]:99/path/", "http://[::1]:99/path"),
    ],
)
def test_elasticsearch_url_has_a_default_port(url, used):
    assert config(ELASTICSEARCH_URL=url).ELASTICSEARCH_URL == used


USES_OF_CA = {
    "ELASTICSEARCH_CA": [{"ELASTICSEARCH_URL": "https://elastic:9200"}],
    "MAIL_CA": [{"MAIL_USE_TLS": "1"}, {"MAIL_USE_SSL": "1"}],
}


@pytest.mark.parametrize("file", ["nowhere.pem", "README.md", "tests"])
@pytest.mark.parametrize("name", USES_OF_CA)
def test_ca_must_be_a_certificate_file(name, file):
    for use in USES_OF_CA[name]:
        with pytest.raises(ConfigError, match=f"{name} cannot be used .*: write a PEM file"):
            config(**use, **{name: file})


@pytest.mark.parametrize("name", USES_OF_CA)
def test_ca_is_a_path_from_the_folder_of_noxchat(name, tmp_path):
    if not certificates.is_installed():
        skip("the openssl command is not installed: apt-get install openssl")
    path = certificates.make_certificate(tmp_path, "authority", kind="authority").path
    for use in USES_OF_CA[name]:
        assert (
            getattr(config(**use, **{name: os.path.relpath(path, ROOT)}), name)
            == f"{ROOT}/{os.path.relpath(path, ROOT)}"
        )
        assert getattr(config(**use), name) is None


def test_mail_ca_is_refused_without_tls():
    with pytest.raises(ConfigError, match="MAIL_CA: it is for a mail server with MAIL_USE_TLS or MAIL_USE_SSL"):
        config(MAIL_SERVER="localhost", MAIL_CA="README.md")


def test_error_messages_contain_no_passwords():
    for variables in (
        {"ELASTICSEARCH_URL": "http://elastic:s3cret@host:port"},
        {"ELASTICSEARCH_URL": "ftp://elastic:s3cret@host"},
        {"ELASTICSEARCH_URL": "http://elastic:s3cret@host", "ELASTICSEARCH_API_KEY": "s3cret"},
    ):
        with pytest.raises(ConfigError) as error:
            config(**variables)
        assert "s3cret" not in str(error.value) and "ELASTICSEARCH_" in str(error.value)


def test_https_sets_secure_cookies_with_host_prefix():
    settings = config(BASE_URL="https://nox.example/")
    assert settings.SESSION_COOKIE_SECURE and settings.REMEMBER_COOKIE_SECURE
    assert settings.SESSION_COOKIE_NAME == "__Host-session"
    assert settings.REMEMBER_COOKIE_NAME == "__Host-remember_token"
    assert settings.HOSTS == ["nox.example"]


INVALID = {
    "PORT": ["eighty", "-1", "0", "65536", "8000.5", "８０"],
    "MAIL_PORT": ["smtp", "99999"],
    "RESET_MINUTES": ["0", "61", "soon"],
    "BASE_URL": ["nox.example", "ftp://nox.example", "https://", "https://nox.example/path", "https://nox:port"],
    "SQLALCHEMY_DATABASE_URI": ["mysql://x", "nonsense", "postgresql:/", "://"],
    "ELASTICSEARCH_URL": [
        *(
            "localhost:9200",
            "file:///x",
            "http://",
            "http://:9200",
            "http://host:port",
            "http://host:99999",
            "http://h:0",
        ),
        *(
            "http://ho st:9200",
            "http://host:9200?pretty",
            "http://host/#x",
            "http://[::1",
            "http://хост:9200",
            "http://a..b:9200",
        ),
    ],
    "ELASTICSEARCH_PREFIX": ["Nox", "_nox", "nox-two", "x" * 65, "ёж", "a/b", "*"],
    "ELASTICSEARCH_MILLISECONDS": ["0", "soon", "0.8"],
    "ELASTICSEARCH_API_KEY": ["ключ"],
    "ELASTICSEARCH_CA": ["README.md"],  # only allowed with https
    "MAIL_USE_TLS": ["maybe"],
    "MAIL_CA": ["README.md"],  # only allowed with TLS
    "TRUSTED_PROXIES": ["everybody", "10.0.0.0/99"],
    "MAIL_DEFAULT_SENDER": ["nobody", "a@x\r\nBcc: b@y"],
    "RATELIMIT_STORAGE_URI": ["etcd://x"],
    "WORKERS": ["0", "many"],
    "DEMO": ["perhaps"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
def test_invalid_value_raises_one_line_error_with_variable_name(name, value):
    with pytest.raises(ConfigError) as error:
        config(**{name: value})
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_mail_tls_and_ssl_exclude_each_other():
    with pytest.raises(ConfigError, match="MAIL_USE_TLS"):
        config(MAIL_USE_TLS="1", MAIL_USE_SSL="1")


@pytest.mark.parametrize("key", ["", "change-me", "secret", "x" * 31, "a" * 64, "abab" * 16])
def test_missing_or_weak_secret_key_is_refused_outside_development(key, tmp_path):
    with pytest.raises(ConfigError, match="SECRET_KEY"):
        Config({"SECRET_KEY": key, "DATA_DIR": str(tmp_path)}, debug=False)
    assert Config({"SECRET_KEY": key, "DATA_DIR": str(tmp_path)}, debug=True).warnings


def test_secret_key_is_read_from_data_folder(tmp_path):
    (tmp_path / "secret_key").write_text(KEY["SECRET_KEY"])
    assert Config({"DATA_DIR": str(tmp_path)}, debug=False).SECRET_KEY == KEY["SECRET_KEY"]


def run_module(*command, **environment):
    return subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "command", [("noxchat.web.server",), ("gunicorn", "main:app", "--check-config"), ("flask", "--app", "main", "run")]
)
def test_every_server_command_refuses_a_weak_secret_key(command, tmp_path):
    result = run_module(
        *command, SECRET_KEY="change-me", DATA_DIR=str(tmp_path), LOG_DIR=str(tmp_path), FLASK_DEBUG="0"
    )
    assert result.returncode != 0
    assert "SECRET_KEY is too weak" in result.stderr + result.stdout


def test_migrations_run_with_a_weak_secret_key(tmp_path):
    result = run_module(
        "flask", "--app", "main", "db", "upgrade", SECRET_KEY="change-me", DATA_DIR=str(tmp_path), LOG_DIR=str(tmp_path)
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "noxchat.db").exists()


def test_env_example_lists_every_variable():
    example = (ROOT / ".env.example").read_text()
    used = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', (ROOT / "config.py").read_text()))
    assert used and not {name for name in used if not re.search(rf"^#?{name}=", example, re.M)}
    assert not set(re.findall(r"^#?([A-Z_]+)=", example, re.M)) - used


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MAIL_SERVER", "mail.straße.example", "mail.xn--strae-oqa.example"),
        ("MAIL_SERVER", "Mail.Nox.example", "Mail.Nox.example"),
        ("MAIL_SERVER", "my_mail", "my_mail"),
        ("MAIL_SERVER", "mail.nox.example.", "mail.nox.example"),
        ("MAIL_DEFAULT_SENDER", "Straße <noreply@straße.example>", "Straße <noreply@xn--strae-oqa.example>"),
        ("MAIL_DEFAULT_SENDER", "noreply@βόλος.example", "noreply@xn--nxasmm1c.example"),
        ("MAIL_DEFAULT_SENDER", "Ночь <noreply@nox.example>", "Ночь <noreply@nox.example>"),
    ],
)
def test_domains_of_mail_settings_follow_idna_2008(name, value, expected):
    assert getattr(config(**{name: value}), name) == expected
    assert config(BASE_URL="https://straße.example").MAIL_DEFAULT_SENDER == "NoxChat <noreply@xn--strae-oqa.example>"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAIL_SERVER", "-☕.example"),
        ("MAIL_DEFAULT_SENDER", "a@☕"),
        ("RATELIMIT_STORAGE_URI", "redis://straße.example"),
        ("RATELIMIT_STORAGE_URI", "redis://localhost:port"),
        ("RATELIMIT_STORAGE_URI", "redis://[::1"),
    ],
)
def test_domain_that_cannot_be_one_is_refused_at_start(name, value):
    with pytest.raises(ConfigError, match=name):
        config(**{name: value})


@pytest.mark.parametrize(
    "value",
    [
        "Nox, Inc. <noreply@nox.example>",
        "noreply",
        "Nox <noreply>",
        "a@b, c@d",
        "Nox Chat noreply@nox.example",
        "<>",
        "Nox <a@b> x",
        "жора@nox.example",
    ],
)
def test_sender_that_is_not_one_address_is_refused_at_start(value):
    with pytest.raises(ConfigError, match="MAIL_DEFAULT_SENDER: write one address"):
        config(MAIL_DEFAULT_SENDER=value)


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("http://192.0.2.1:8000", "noreply@[192.0.2.1]"),
        ("http://[2001:db8::1]:8000", "noreply@[IPv6:2001:db8::1]"),
        ("http://127.0.0.1:8000", "noreply@localhost"),
    ],
)
def test_default_sender_at_an_ip_address(base_url, address):
    assert config(BASE_URL=base_url).MAIL_DEFAULT_SENDER == f"NoxChat <{address}>"
