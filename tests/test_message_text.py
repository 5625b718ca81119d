"""Links in the texts of messages."""

import re

import pytest

from noxchat.web.message_text import render_text


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("(http://x/a)", ["http://x/a"]),
        ("see https://en.wikipedia.org/wiki/Foo_(bar).", ["https://en.wikipedia.org/wiki/Foo_(bar)"]),
        ("http://x.example/a?b=c&d=e, and «https://a.b/»!", ["http://x.example/a?b=c&amp;d=e", "https://a.b/"]),
        ("https://a.b/c… “https://d.e/”", ["https://a.b/c", "https://d.e/"]),
        ("https://пример.рф/путь!", ["https://пример.рф/путь"]),
        ("javascript:alert(1) data:text/html,x ftp://a.b mailto:a@b.c //a.b www.a.b a@b.c", []),
        ("https://bank.example@evil.example/", []),
        ("https://a.b/\u202egnp.exe", ["https://a.b/"]),
        ("xhttps://a.b http://", []),
        ("<b>https://a.b/<script></b>", ["https://a.b/"]),
    ],
)
def test_links_are_found_and_everything_else_is_text(text, links):
    html = render_text(text)
    assert re.findall(r'<a href="([^"]*)" rel="noopener nofollow ugc" target="_blank">', html) == links
    assert "<b>" not in html and "<script" not in html
    assert re.sub("<[^>]*>", "", html).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://раураl.com/x", "https://xn--"),
        ("https://раураl.com:443/x", "https://xn--"),
        ("https://пример.рф/", "https://пример.рф/"),
        ("https://例え.テスト/", "https://例え.テスト/"),
        ("https://straße.example/", "https://straße.example/"),
    ],
)
def test_hosts_of_mixed_scripts_are_shown_in_punycode(url, shown):
    html = render_text(url)
    assert f'href="{url}"' in html and re.search(">([^<]*)</a>", html)[1].startswith(shown)
