"""The texts of messages as HTML: what is a link, and nothing else."""

import re
from functools import lru_cache
from urllib.parse import urlsplit

import idna
from linkify_it import LinkifyIt
from markupsafe import Markup, escape

from noxchat.characters import is_alnum, script

TRAILING = "…»”’\"'*_~"  # which the library takes for a part of a link
# Characters that are not drawn, or turn the direction of what follows, are no part of a link.
INVISIBLE = re.compile("[\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
JAPANESE = {"CJK", "HIRAGANA", "KATAKANA"}
LINK = '<a href="{}" rel="noopener nofollow ugc" target="_blank">{}</a>'

_links = LinkifyIt(options={"fuzzy_link": False, "fuzzy_email": False, "fuzzy_ip": False})
for _schema in ("ftp:", "mailto:", "//"):
    _links.add(_schema, None)


@lru_cache(maxsize=512)
def render_text(text: str) -> Markup:
    """Return a text as HTML, with its http and https links."""
    parts, done = [], 0
    for match in _links.match(text) or ():
        url = INVISIBLE.split(match.url, maxsplit=1)[0].rstrip(TRAILING)
        if not _is_plain(url):
            continue
        parts += [escape(text[done : match.index]), LINK.format(escape(url), escape(_readable(url)))]
        done = match.index + len(url)
    return Markup("".join([*parts, escape(text[done:])]))  # noqa: S704  all parts are escaped


def _is_plain(url: str) -> bool:
    """Tell whether a link leads where it seems to: one with a user name before the host may not."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and "@" not in parts.netloc and (parts.port or 1) > 0
    except ValueError:
        return False


def _readable(url: str) -> str:
    """Return the text of a link. A host that mixes scripts, whose letters may look like others, is in Punycode."""
    parts = urlsplit(url)
    host = parts.netloc.removesuffix(f":{parts.port}")
    scripts = {script(char) for char in host if is_alnum(char)} - {"DIGIT"}
    if host.isascii() or len(scripts) < 2 or scripts <= JAPANESE:
        return url
    try:
        return url.replace(host, idna.encode(host, uts46=True).decode(), 1)
    except idna.IDNAError:
        return url.replace(host, host.encode("unicode_escape").decode(), 1)
