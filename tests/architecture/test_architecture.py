"""The rules of the README's map: which module may import which, who may commit, and how long a route may be."""

import ast
import re
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "noxchat"
MODULES = {
    ".".join(("noxchat", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
BLUEPRINTS = {path.parent.name for path in PACKAGE.glob("*/__init__.py") if "Blueprint(" in path.read_text()}
TEMPLATES = [*ROOT.glob("templates/**/*.html"), *ROOT.glob("partials/**/*.html")]

# The layers, and what the modules of each may import of NoxChat. Modules are sorted into them by where they are; `rules`
# are all that are not named here.
BASE = {
    *(
        "noxchat.audit",
        "noxchat.characters",
        "noxchat.database",
        "noxchat.exceptions",
        "noxchat.extensions",
        "noxchat.files",
    ),
    *("noxchat.installation", "noxchat.mail", "noxchat.mail.smtp", "noxchat.postgresql"),
}
ENTRY_POINTS = {"noxchat", "noxchat.cli", "noxchat.hosting.cli", "noxchat.web.server"}
MAY_IMPORT = {
    "base": {"base"},
    "search": {"base", "search"},
    "models": {"base", "search", "models"},
    "rules": {"base", "search", "models", "rules"},
    "web": {"base", "search", "models", "rules", "web"},
    "blueprints": {"base", "search", "models", "rules", "web", "blueprints"},
    "entry points": {"base", "search", "models", "rules", "web", "blueprints", "entry points"},
}
HTTP_NAMES = {"request", "session", "render_template", "flash", "abort", "redirect", "url_for", "make_response"}
# Rule modules with transactions of their own: a thread, and what only the command line and the server's start call.
OWN_TRANSACTIONS = {
    *("noxchat.mail.worker", "noxchat.event_stream", "noxchat.demo", "noxchat.health", "noxchat.doctor"),
    *("noxchat.hosting.backup", "noxchat.hosting.outside", "noxchat.hosting.restore", "noxchat.hosting.transfer"),
}
LAST_LINE_OF_A_ROUTE = 20


def layer(module):
    """Return the layer of a module."""
    package = (module.split(".") + [""])[1]
    if module in ENTRY_POINTS:
        return "entry points"
    if module in BASE:
        return "base"
    if package in BLUEPRINTS:
        return "blueprints"
    return package if package in ("web", "models", "search") else "rules"


def imports(path):
    """Yield the modules of NoxChat that a file imports, wherever in it, with the name that it takes from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield (submodule, "") if submodule in MODULES else (node.module, alias.name)


def imported_modules(module):
    return {name for name, _attribute in imports(MODULES[module]) if name in MODULES and name != module}


RULES = [module for module in MODULES if layer(module) == "rules"]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    for imported in imported_modules(module):
        assert layer(imported) in MAY_IMPORT[layer(module)], f"{module} imports {imported}"


@pytest.mark.parametrize("module", [module for module in MODULES if layer(module) == "blueprints"])
def test_blueprints_do_not_import_each_other(module):
    own = module.split(".")[1]
    for imported in imported_modules(module):
        assert layer(imported) != "blueprints" or imported.split(".")[1] == own, imported


UNICODE_MODULES = ["noxchat.names", "noxchat.passwords", "noxchat.search.normalization"]
PYTHONS_UNICODE = re.compile(r"\.(casefold|isalnum|isalpha|isdecimal|isdigit|isnumeric|isprintable|title|capitalize)\(")


def test_only_one_module_asks_pythons_own_unicode_data():
    """It differs between releases of Python."""
    users = {module for module in MODULES if any(name == "unicodedata" for name, _name in imports(MODULES[module]))}
    assert users == {"noxchat.characters"}
    for module in UNICODE_MODULES:
        for line in MODULES[module].read_text().splitlines():
            assert not PYTHONS_UNICODE.search(line) and not re.search(r're\.\w+\(r?".*\\[wWdDbB]', line), (
                f"{module}: {line}"
            )


def test_rule_modules_import_each_other_without_cycles():
    graph = {module: imported_modules(module) & set(RULES) for module in RULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(RULES) > 15


@pytest.mark.parametrize("module", RULES)
def test_rule_modules_do_not_know_http(module):
    for name, attribute in imports(MODULES[module]):
        assert not (name == "flask" and attribute in HTTP_NAMES), f"{name}.{attribute}"


@pytest.mark.parametrize("module", [module for module in RULES if module not in OWN_TRANSACTIONS])
def test_rule_modules_neither_commit_nor_roll_back(module):
    """Neither themselves nor by modules that do. They may end a savepoint, which is what begin_nested() returns."""
    assert not imported_modules(module) & OWN_TRANSACTIONS
    tree = ast.parse(MODULES[module].read_text())
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        assert not called.endswith(("session.commit", "session.rollback", "begin_write")), f"{module}:{call.lineno}"


def routes():
    """Yield every function with a route, as module and node."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(".route(" in ast.unparse(d) for d in node.decorator_list):
                yield module, node


def test_routes_are_short():
    lengths = {f"{module}.{node.name}": node.end_lineno - node.lineno + 1 for module, node in routes()}
    assert len(lengths) > 30
    assert {name: length for name, length in lengths.items() if length > LAST_LINE_OF_A_ROUTE} == {}


def test_only_one_module_knows_the_headers_of_htmx():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "htmx.py":
            assert not re.search(r"[\"']HX-", path.read_text()), path


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_templates_contain_nothing_that_the_csp_blocks_and_no_query(path):
    text = path.read_text()
    assert "email" in path.parts or not re.search(
        r"<style|\sstyle=|<script>|\son(?!line)[a-z]+=|hx-on|js:|hx-trigger=\"[^\"]*\[", text
    )
    assert not re.search(r"\.(query|scalars|execute|all|count|first)\(", text)
    assert "|safe" not in text and "autoescape false" not in text
    assert not re.search(r"(src|href)=\"https?:", text)


@pytest.mark.parametrize("path", sorted(ROOT.glob("partials/**/*.html")), ids=lambda path: str(path.relative_to(ROOT)))
def test_partials_name_their_parameters_first(path):
    assert path.read_text().startswith("{#")


def catalog():
    with open(ROOT / "translations/ru/LC_MESSAGES/messages.po", "rb") as file:
        return read_po(file, locale="ru")


def extracted():
    """Yield every string in the code and the templates, e-mails included."""
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
        placeholders = re.compile(r"%\(\w+\)s")
        english = key[1] if isinstance(key, tuple) else key
        for form in forms:
            assert set(placeholders.findall(form)) == set(placeholders.findall(english)), key


def test_templates_contain_no_untranslated_text():
    """What is left of a template without tags and expressions contains no words."""
    allowed = {"NoxChat", "·", ":", "@", ".", ",", "404"}
    for path in TEMPLATES:
        if "macro button_attributes" in path.read_text():
            continue  # only attributes
        text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<style.*?</style>|<[^>]*>", " ", path.read_text(), flags=re.S)
        words = {word for word in text.split() if word not in allowed and re.search(r"\w", word)}
        assert not words, f"{path.name}: {words}"


@pytest.mark.parametrize("limit", ["140", "1024", "254", "5 MB", '"minlength": [0-9]', '"maxlength": [0-9]'])
def test_templates_repeat_no_limit(limit):
    for path in TEMPLATES:
        assert not re.search(rf"\b{limit}|{limit}\b" if limit[0] != '"' else limit, path.read_text()), path


def test_every_imported_package_is_a_declared_dependency():
    """Not only there because another package needs it, which may cease to."""

    def normalized(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {normalized(re.match(r"[\w.-]+", dependency)[0]) for dependency in project["dependencies"]}
    distributions, own, found = packages_distributions(), {"noxchat", "config", "main"}, set()
    for path in [*MODULES.values(), ROOT / "config.py", ROOT / "main.py"]:
        for package in {name.partition(".")[0] for name, _attribute in imports(path)} - own - sys.stdlib_module_names:
            found.add(package)
            assert {normalized(name) for name in distributions[package]} & declared, f"{path}: {package}"
    assert len(found) > 20


def test_lock_files_contain_no_url():
    for path in [*ROOT.glob("requirements*.txt"), ROOT / "package-lock.json"]:
        assert "://" not in path.read_text(), path


def test_every_package_is_locked_with_hashes():
    for path in ROOT.glob("requirements*.txt"):
        packages = re.findall(r"^[\w.\[\]-]+==", path.read_text(), re.M)
        assert packages and path.read_text().count("--hash=sha256:") >= len(packages)
