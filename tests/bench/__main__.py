"""`bin/bench [what …] [people, actions or times]`: measure, and say whether it is good enough."""

import sys

from tests.bench import code, databases, elasticsearch, pages, races, search, streams

SEARCH = {
    "database": search.main,
    "compare": elasticsearch.compare_all,
    "breaker": elasticsearch.breaker,
    "outages": elasticsearch.outages,
    "kills": elasticsearch.kills,
}
MEASURES = {**SEARCH, "pages": pages.main, "races": races.main, "streams": streams.main, "code": code.main}


def main(arguments: list[str]) -> int:
    """Run what is named, or everything. Returns 0 when all of it was good enough."""
    named = [name for name in arguments if not name.isdigit()] or list(MEASURES)
    wanted = [name for given in named for name in (SEARCH if given == "search" else [given])]
    numbers = [int(number) for number in arguments if number.isdigit()]
    if wanted == ["forget"]:
        databases.forget()
        return 0
    if not set(wanted) <= set(MEASURES):
        print(f"{__doc__}\n\n  what: search (all of {', '.join(SEARCH)}), {', '.join(MEASURES)}, forget")
        return 2
    results = {name: MEASURES[name](*numbers) for name in wanted}
    print(", ".join(f"{name}: {'good' if good else 'NOT GOOD ENOUGH'}" for name, good in results.items()))
    return 0 if all(results.values()) else 1


sys.exit(main(sys.argv[1:]))
