"""The house's own rules: who calls whom, what templates may hold, and that Russian is complete."""

import ast
import re
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "noxchat"
ROOMS = {"auth", "main", "errors"}
RULES = {
    "people",
    "friendships",
    "circle",
    "blocks",
    "events",
    "keyset",
    "names",
    "passwords",
    "sessions",
    "resets",
    "throttle",
    "sky",
    "whatsnew",
    "refusal",
}
TEMPLATES = [*ROOT.glob("templates/**/*.html"), *ROOT.glob("partials/**/*.html")]


def imports(path):
    """The names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_rooms_never_import_each_other():
    for room in ROOMS:
        for path in (PACKAGE / room).glob("*.py"):
            for name in imports(path):
                other = name.removeprefix("noxchat.").split(".")[0]
                assert other == room or other not in ROOMS, f"{path.name} imports {name}"


def test_rules_know_nothing_of_http_and_never_commit():
    for rule in RULES:
        text = (PACKAGE / f"{rule}.py").read_text()
        for name in imports(PACKAGE / f"{rule}.py"):
            assert name.split(".")[-1] not in {"request", "render_template", "flash", "abort", "redirect"}, (
                f"{rule}: {name}"
            )
            assert name.removeprefix("noxchat.").split(".")[0] not in {*ROOMS, "htmx", "look", "security"}, (
                f"{rule}: {name}"
            )
        assert ".commit()" not in text, rule


def test_only_htmx_py_knows_the_headers_of_htmx():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "htmx.py":
            assert not re.search(r"[\"']HX-", path.read_text()), path


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_templates_hold_nothing_that_the_policy_blocks_and_no_query(path):
    text = path.read_text()
    letter = "email" in path.parts
    assert letter or not re.search(
        r"<style|\sstyle=|<script>|\son(?!line)[a-z]+=|hx-on|js:|hx-trigger=\"[^\"]*\[", text
    )
    assert not re.search(r"\.(query|scalars|execute|all|count|first)\(", text)
    assert "|safe" not in text and "autoescape false" not in text
    assert not re.search(r"(src|href)=\"https?:", text)


@pytest.mark.parametrize("path", sorted(ROOT.glob("partials/**/*.html")), ids=lambda path: str(path.relative_to(ROOT)))
def test_partials_say_first_what_they_take(path):
    assert path.read_text().startswith("{#")


def catalog():
    with open(ROOT / "translations/ru/LC_MESSAGES/messages.po", "rb") as file:
        return read_po(file, locale="ru")


def extracted():
    """Every string in the code and the templates, letters included."""
    from babel.messages.extract import extract_from_dir

    method_map = [("noxchat/**.py", "python"), ("templates/**", "jinja2"), ("partials/**", "jinja2")]
    keywords = {"_": None, "_l": None, "gettext": None, "ngettext": (1, 2), "lazy_gettext": None}
    for folder in ("noxchat", "templates", "partials"):
        methods = [
            (pattern.removeprefix(f"{folder}/"), method) for pattern, method in method_map if pattern.startswith(folder)
        ]
        for found in extract_from_dir(str(ROOT / folder), methods, keywords=keywords):
            yield found[2]


def test_russian_is_complete_and_nothing_in_it_is_fuzzy():
    russian = {message.id: message for message in catalog() if message.id}
    wanted = set(extracted())
    assert len(wanted) > 150
    assert not wanted - set(russian), "run bin/translate"
    assert not set(russian) - wanted, "no longer used"
    for key, message in russian.items():
        forms = message.string if isinstance(message.string, tuple) else (message.string,)
        assert all(forms) and not message.fuzzy, key
        places = re.compile(r"%\(\w+\)s")
        english = key[1] if isinstance(key, tuple) else key
        for form in forms:
            assert set(places.findall(form)) == set(places.findall(english)), key


def test_templates_say_nothing_that_is_not_translated(app):
    """Words between tags come from gettext: what is left of a template without its tags and expressions is no word."""
    allowed = {"NoxChat", "·", ":", "@", ".", ",", "404"}
    for path in TEMPLATES:
        if "macro around" in path.read_text():
            continue  # a row of attributes
        text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<style.*?</style>|<[^>]*>", " ", path.read_text(), flags=re.S)
        words = {word for word in text.split() if word not in allowed and re.search(r"\w", word)}
        assert not words, f"{path.name}: {words}"


def test_lock_files_name_no_address():
    for path in [*ROOT.glob("requirements*.txt"), ROOT / "package-lock.json"]:
        assert "://" not in path.read_text(), path


def test_every_package_is_locked_with_hashes():
    for path in ROOT.glob("requirements*.txt"):
        packages = re.findall(r"^[\w.\[\]-]+==", path.read_text(), re.M)
        assert packages and path.read_text().count("--hash=sha256:") >= len(packages)
