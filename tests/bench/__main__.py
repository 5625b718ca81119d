"""`bin/bench [search|pages|races|streams|forget] [people or actions]`: measure, and say whether it is good enough."""

import sys

from tests.bench import pages, places, races, searches, streams

MEASURES = {"search": searches.main, "pages": pages.main, "races": races.main, "streams": streams.main}


def main(arguments: list[str]) -> int:
    """Run what is named, or everything. Returns 0 when all of it was good enough."""
    wanted = [name for name in arguments if not name.isdigit()] or list(MEASURES)
    numbers = [int(number) for number in arguments if number.isdigit()]
    if wanted == ["forget"]:
        places.forget()
        return 0
    if not set(wanted) <= set(MEASURES):
        print(__doc__)
        return 2
    results = {name: MEASURES[name](*numbers) for name in wanted}
    print(", ".join(f"{name}: {'good' if good else 'NOT GOOD ENOUGH'}" for name, good in results.items()))
    return 0 if all(results.values()) else 1


sys.exit(main(sys.argv[1:]))
