"""Files, lines and functions of `noxchat/`: `bin/bench code`."""

import ast
import io
import statistics
import tokenize
from collections import Counter

from config import ROOT

PACKAGE = ROOT / "noxchat"


def count_docstring_lines(tree) -> int:
    """Return how many lines the docstrings of a module have."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)]
    return sum(node.body[0].end_lineno - node.body[0].lineno + 1 for node in nodes)


def count_comments(source: str) -> int:
    """Return how many comments a module has."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def main() -> bool:
    """Print the counts of each package, and the lengths of functions and routes. Returns True: there are no limits."""
    columns = ("files", "lines", "docstrings", "comments")
    packages, functions, routes = {}, [], []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text()
        tree = ast.parse(source)
        counts = packages.setdefault(path.relative_to(PACKAGE).parent.as_posix(), Counter())
        numbers = (1, len(source.splitlines()), count_docstring_lines(tree), count_comments(source))
        counts.update(dict(zip(columns, numbers, strict=True)))
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            length = (node.end_lineno - node.lineno + 1, f"{path.relative_to(PACKAGE)}:{node.name}")
            functions.append(length)
            if any(".route(" in ast.unparse(decorator) for decorator in node.decorator_list):
                routes.append(length)
    print(f"  {'package':10}" + "".join(f"{column:>12}" for column in columns))
    for name, counts in {**packages, "total": sum(packages.values(), Counter())}.items():
        print(f"  {name:10}" + "".join(f"{counts[column]:12,}" for column in columns))
    for name, lengths in (("functions", functions), ("routes", routes)):
        median = statistics.median(length for length, _name in lengths)
        longest = ", ".join(f"{name} {length}" for length, name in sorted(lengths, reverse=True)[:5])
        print(f"  {len(lengths)} {name}, median {median:g} lines, longest: {longest}")
    return True
