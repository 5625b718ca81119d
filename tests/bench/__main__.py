"""`bin/bench [benchmark …] [number of people, actions, streams or times]`: run benchmarks, compare with their limits."""

import sys

from tests.bench import (
    chat,
    chat_browser,
    chat_load,
    chat_streams,
    code,
    databases,
    elasticsearch,
    hosting,
    pages,
    races,
    search,
    streams,
)

SEARCH_BENCHMARKS = {
    "database": search.main,
    "compare": elasticsearch.compare_all,
    "breaker": elasticsearch.breaker,
    "outages": elasticsearch.outages,
    "kills": elasticsearch.kills,
}
BENCHMARKS = {
    **SEARCH_BENCHMARKS,
    "pages": pages.main,
    "races": races.main,
    "streams": streams.main,
    "chat": chat.main,
    "chatsends": chat_load.sends,
    "chatkills": chat_load.kills,
    "chatraces": chat_load.races,
    "chatstreams": chat_streams.main,
    "chatbrowser": chat_browser.main,
    "backup": hosting.backups,
    "moveto": hosting.moves,
    "rolling": hosting.rolling,
    "code": code.main,
}


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, or all of them. Returns 0 when all passed."""
    arguments = [argument for argument in arguments if argument != "--listeners"]  # the number says the same
    named = [name for name in arguments if not name.isdigit()] or list(BENCHMARKS)
    selected = [name for given in named for name in (SEARCH_BENCHMARKS if given == "search" else [given])]
    numbers = [int(number) for number in arguments if number.isdigit()]
    if selected == ["forget"]:
        databases.forget()
        return 0
    if not set(selected) <= set(BENCHMARKS):
        benchmarks = f"search (all of {', '.join(SEARCH_BENCHMARKS)}), {', '.join(BENCHMARKS)}, forget"
        print(f"{__doc__}\n\n  benchmarks: {benchmarks}")
        return 2
    results = {name: BENCHMARKS[name](*numbers) for name in selected}
    print(", ".join(f"{name}: {'passed' if passed else 'FAILED'}" for name, passed in results.items()))
    return 0 if all(results.values()) else 1


sys.exit(main(sys.argv[1:]))
