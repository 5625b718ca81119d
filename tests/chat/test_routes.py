"""Every route of conversations: by htmx, as a plain form, and refused."""

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select, update

from noxchat import messages
from noxchat.database import begin_write, now
from noxchat.extensions import db
from noxchat.models import Conversation, Member, Message
from tests.architecture.test_routes import dump, recorded
from tests.chat.conftest import Place


def soup(response):
    return BeautifulSoup(response.text, "html.parser")


def bodies(response):
    return [element.text for element in soup(response).select("[data-body]")]


# Opening


@pytest.mark.parametrize("htmx", [False, True])
def test_friend_is_written_to_from_their_profile(any_place, htmx):
    anna = any_place.browser("A")
    first, again = (anna.post("/u/boris/chat", htmx=htmx) for _time in range(2))
    for answer in (first, again):
        assert answer.status_code == (200 if htmx else 303)
        assert (answer.headers["HX-Redirect"] if htmx else answer.location) == "/chats/1"
    page = soup(anna.get("/chats/1"))
    assert page.select_one("h1").text == "Boris" and page.select_one("#messages")["data-version"] == "0"


def test_chat_with_strangers_is_refused_and_former_ones_open(place):
    boris = place.browser("B")
    assert boris.post("/u/clara/chat").status_code == 409
    assert boris.post("/u/clara/chat", htmx=True).status_code == 409
    assert boris.post("/u/boris/chat").status_code == 409
    assert boris.post("/u/nobody/chat").status_code == 404
    place.block("C", "B")
    assert boris.post("/u/clara/chat").status_code == 404
    conversation_id = place.direct("A", "B")
    place.unfriend("A", "B")
    assert boris.post("/u/anna/chat").location == f"/chats/{conversation_id}"
    place.block("A", "B")
    assert boris.post("/u/anna/chat").location == f"/chats/{conversation_id}"
    assert place.browser("A").post("/u/boris/chat").location == f"/chats/{conversation_id}"


def test_row_of_a_conversation_is_as_in_the_list(any_place):
    conversation_id = any_place.group()
    any_place.send("B", conversation_id, "hello")
    anna = any_place.browser("A")
    answer = soup(anna.get(f"/chats/{conversation_id}/row", htmx=True))
    row = answer.select_one(f"[data-chat='{conversation_id}']")
    assert row["data-unread"] == "1" and row == soup(anna.get("/chats")).select_one("[data-chat]")
    assert answer.select_one("#nav-chats [data-counter=unread]").text == "1"


def test_page_of_a_conversation_has_the_list_beside_it(any_place):
    conversation_id, group = any_place.direct(), any_place.group()
    any_place.send("B", group, "hello")
    anna = any_place.browser("A")
    page = soup(anna.get(f"/chats/{conversation_id}"))
    assert [row["data-chat"] for row in page.select("#chats [data-chat]")] == [str(group), str(conversation_id)]
    assert page.select_one("#detail #thread") and page.select_one("h1").text == "Boris"
    beside = soup(anna.get(f"/chats/{conversation_id}", htmx=True, headers={"HX-Target": "div#detail"}))
    assert beside.select_one("#composer") and not beside.select("[data-chat]")
    assert not soup(anna.get(f"/chats/{conversation_id}", htmx=True)).select("#composer, [data-chat]")


# Sending


def test_sent_message_is_shown_as_it_is_stored(any_place):
    """The answer is made without reading it."""
    path = f"/chats/{any_place.group()}/messages"
    anna = any_place.browser("A")

    def shown(answer):
        (message,) = soup(answer).select("[data-message]")
        message.select_one("[name=csrf_token]").decompose()
        return message

    for fields in ({"client_id": "x1"}, {"client_id": "x2", "reply_to": "2"}):
        sent = shown(anna.post(path, {"body": "see http://nox.example", **fields}, htmx=True))
        assert sent == shown(anna.get(f"{path}/{sent['data-message']}", htmx=True))
        assert ("data-quote" in str(sent)) == ("reply_to" in fields)


def test_message_is_sent_by_a_plain_form(any_place):
    conversation_id = any_place.direct()
    anna = any_place.browser("A")
    answer = anna.post(f"/chats/{conversation_id}/messages", {"body": "Hi\r\nBoris ", "client_id": "x1"})
    assert (answer.status_code, answer.location) == (303, f"/chats/{conversation_id}#m-1")
    assert bodies(anna.get(f"/chats/{conversation_id}")) == ["Hi\nBoris"]
    message = soup(any_place.browser("B").get(f"/chats/{conversation_id}")).select_one("[data-message]")
    assert message["id"] == "m-1" and message["data-author"] == "anna" and "data-own" not in message.attrs


def test_message_is_sent_by_htmx(place):
    conversation_id = place.direct()
    answer = place.browser("A").post(f"/chats/{conversation_id}/messages", {"body": "Hi", "client_id": "x"}, htmx=True)
    page = soup(answer)
    assert answer.status_code == 200 and bodies(answer) == ["Hi"]
    assert "data-own" in page.select_one("[data-message='1']").attrs
    assert page.select_one("#client_id")["value"] not in {"", "x"}


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "Write something first."),
        (" \n\u200b\u2060\u3164 ", "Write something first."),
        ("x" * 4001, "One character too many."),
        ("a\x1bb", "U+001B"),
    ],
)
def test_refused_text_is_kept(place, htmx, body, text):
    conversation_id = place.direct()
    anna = place.browser("A")
    path = f"/chats/{conversation_id}"
    before = dump(place.app)
    answer = anna.post(f"{path}/messages", {"body": body, "client_id": "x"}, htmx=htmx)
    assert answer.status_code == 422 and text in answer.text
    assert dump(place.app) == before
    if htmx:
        assert answer.headers["HX-Retarget"] == "#composer-errors"
    else:
        assert soup(answer).select_one("#body").text.lstrip("\n") == body.replace("\r", "").lstrip("\n")


def test_length_is_counted_in_characters_after_normalization(place):
    conversation_id = place.direct()
    anna = place.browser("A")
    for body, status in (("e\u0301" * 4000, 303), ("😀" * 4000, 303), (f"  {'x' * 4000}\n", 303), ("😀" * 4001, 422)):
        assert anna.post(f"/chats/{conversation_id}/messages", {"body": body}).status_code == status


def test_message_with_the_same_client_id_is_stored_once(any_place):
    conversation_id = any_place.direct()
    anna = any_place.browser("A")
    path = f"/chats/{conversation_id}/messages"
    for _time in range(3):
        assert anna.post(path, {"body": "once", "client_id": "same"}).location.endswith("#m-1")
    for htmx in (False, True):
        answer = anna.post(path, {"body": "another", "client_id": "same"}, htmx=htmx)
        page = soup(answer)
        assert answer.status_code == 409 and "already sent a different message" in answer.text
        assert page.select_one("#client_id")["value"] != "same"
        assert htmx or page.select_one("#body").text == "another"
    # Somebody else, and in another conversation, the same id is another message.
    assert any_place.browser("B").post(path, {"body": "another", "client_id": "same"}).status_code == 303
    other = f"/chats/{any_place.direct('A', 'C')}/messages"
    assert anna.post(other, {"body": "another", "client_id": "same"}).status_code == 303
    assert any_place.texts("A", conversation_id) == ["once", "another"]


def test_bad_client_ids_and_replies_are_refused(place):
    conversation_id, other = place.direct("A", "B"), place.direct("A", "C")
    foreign = place.send("A", other)
    anna = place.browser("A")
    path = f"/chats/{conversation_id}/messages"
    for fields in ({"client_id": "a b"}, {"client_id": "x" * 65}, {"client_id": "é"}):
        assert anna.post(path, {"body": "x", **fields}).status_code == 422
    for reply_to in (foreign, 999):
        assert anna.post(path, {"body": "x", "reply_to": reply_to}).status_code == 422
    answer = anna.post(path, {"body": "kept", "reply_to": str(foreign)})
    assert answer.status_code == 422 and soup(answer).select_one("#body").text == "kept"


def test_messages_are_limited_per_minute(make_app):
    place = Place(make_app(MESSAGES_PER_MINUTE=3))
    conversation_id = place.direct()
    anna = place.browser("A")
    for _number in range(3):
        assert anna.post(f"/chats/{conversation_id}/messages", {"body": "x"}).status_code == 303
    for htmx in (False, True):
        answer = anna.post(f"/chats/{conversation_id}/messages", {"body": "one too many"}, htmx=htmx)
        assert answer.status_code == 429 and int(answer.headers["Retry-After"]) <= 60
        assert htmx or soup(answer).select_one("#body").text == "one too many"
    assert place.browser("B").post(f"/chats/{conversation_id}/messages", {"body": "x"}).status_code == 303


def test_only_friends_write(any_place):
    conversation_id = any_place.direct()
    any_place.send("A", conversation_id)
    any_place.unfriend("B", "A")
    for letter in "AB":
        browser = any_place.browser(letter)
        page = soup(browser.get(f"/chats/{conversation_id}"))
        assert page.select_one("#chat-state").has_attr("data-read-only") and len(page.select("[data-body]")) == 1
        for htmx in (False, True):
            answer = browser.post(f"/chats/{conversation_id}/messages", {"body": "still?"}, htmx=htmx)
            assert answer.status_code == 409 and (htmx or soup(answer).select_one("#body").text == "still?")
    edit = any_place.browser("A").post(f"/chats/{conversation_id}/messages/1/edit", {"body": "changed"})
    assert edit.status_code == 409 and "changed" in edit.text
    assert any_place.browser("A").post(f"/chats/{conversation_id}/messages/1/delete").status_code == 303


# Editing and deleting


@pytest.mark.parametrize("htmx", [False, True])
def test_message_is_edited(any_place, htmx):
    conversation_id = any_place.direct()
    any_place.send("A", conversation_id, "frist")
    anna = any_place.browser("A")
    path = f"/chats/{conversation_id}/messages/1/edit"
    form = anna.get(path, htmx=htmx)
    assert soup(form).select_one("textarea").text == "frist" and ("<html" in form.text) is not htmx
    assert anna.post(path, {"body": " "}, htmx=htmx).status_code == 422
    answer = anna.post(path, {"body": "first"}, htmx=htmx)
    if htmx:
        assert bodies(answer) == ["first"]
    else:
        assert answer.location == f"/chats/{conversation_id}?around=1#m-1"
    message = soup(any_place.browser("B").get(f"/chats/{conversation_id}")).select_one("[data-message]")
    assert message.has_attr("data-edited") and message.select_one("[data-body]").text == "first"


def test_edits_of_others_of_deleted_and_of_old_messages_are_refused(place):
    conversation_id = place.direct()
    for _number in range(2):
        place.send("A", conversation_id)
    path = f"/chats/{conversation_id}/messages"
    boris, anna = place.browser("B"), place.browser("A")
    assert boris.get(f"{path}/1/edit").status_code == boris.post(f"{path}/1/edit", {"body": "x"}).status_code == 403
    assert anna.get(f"{path}/99/edit").status_code == anna.post(f"{path}/99/edit", {"body": "x"}).status_code == 404
    anna.post(f"{path}/1/delete")
    assert anna.get(f"{path}/1/edit").status_code == 409
    assert "kept" in anna.post(f"{path}/1/edit", {"body": "kept"}).text
    with place.app.app_context():
        begin_write(db.session)
        old = now().replace(year=now().year - 1)
        db.session.execute(update(Message).where(Message.id == 2).values(created_at=old))
        db.session.commit()
    answer = anna.post(f"{path}/2/edit", {"body": "too late"})
    assert answer.status_code == 409 and "too late" in answer.text and "24 hours" in answer.text
    assert not soup(anna.get(f"/chats/{conversation_id}")).select("a[href$=edit]")


@pytest.mark.parametrize("htmx", [False, True])
def test_message_is_deleted(any_place, htmx):
    conversation_id = any_place.direct()
    any_place.send("A", conversation_id, "a secret")
    any_place.send("B", conversation_id, "about it", reply_to=1)
    anna, boris = any_place.browser("A"), any_place.browser("B")
    path = f"/chats/{conversation_id}/messages/1/delete"
    assert boris.post(path, htmx=htmx).status_code == 403
    for _again in range(2):
        answer = anna.post(path, htmx=htmx)
        assert answer.status_code == (200 if htmx else 303)
    for browser in (anna, boris):
        page = browser.get(f"/chats/{conversation_id}")
        assert "secret" not in page.text + browser.get("/chats").text + browser.get("/").text
        assert soup(page).select_one("[data-message='1']").has_attr("data-deleted")
        assert soup(page).select_one("[data-quote='1']").text.strip() == "Deleted message"
    with any_place.app.app_context():
        assert db.session.scalars(select(Message.body).order_by(Message.id)).all() == ["", "about it"]
    # The newest, too: the conversation stays.
    boris.post(f"/chats/{conversation_id}/messages/2/delete")
    assert boris.get(f"/chats/{conversation_id}").status_code == 200


# Reading


def test_get_reads_nothing_and_the_button_does(any_place):
    conversation_id = any_place.direct()
    for _number in range(3):
        any_place.send("A", conversation_id)
    boris = any_place.browser("B")
    for _time in range(2):
        page = boris.get(f"/chats/{conversation_id}").text
        assert 'data-counter="unread">1<' in page and 'data-divider="unread"' in page
    assert boris.post(f"/chats/{conversation_id}/read", {"message_id": 2}).location == f"/chats/{conversation_id}"
    assert any_place.unread("B") == {conversation_id: 1}
    assert boris.post(f"/chats/{conversation_id}/read", {"message_id": 1}, htmx=True).status_code == 204
    assert any_place.unread("B") == {conversation_id: 1}
    boris.post(f"/chats/{conversation_id}/read", {"message_id": 10**17}, htmx=True)
    assert any_place.unread("B") == {conversation_id: 0}
    any_place.send("A", conversation_id)
    assert any_place.unread("B") == {conversation_id: 1}
    for nonsense in ("", "-1", "abc", "10" * 30):
        assert boris.post(f"/chats/{conversation_id}/read", {"message_id": nonsense}).status_code == 422


def test_sending_reads_what_was_on_the_screen(any_place):
    conversation_id = any_place.direct()
    seen = any_place.send("A", conversation_id)
    any_place.send("A", conversation_id)
    any_place.send("B", conversation_id, seen=seen)
    assert any_place.unread("B") == {conversation_id: 1}
    any_place.send("B", conversation_id)
    assert any_place.unread("B") == {conversation_id: 0}


def test_more_than_99_unread_are_counted_as_100(any_place):
    conversation_id = any_place.direct()
    for _number in range(messages.MAX_UNREAD_ROWS + 3):
        any_place.send("A", conversation_id)
    boris = any_place.browser("B")
    assert 'data-unread="100"' in boris.get("/chats").text and "99+" in boris.get("/chats").text
    page = soup(boris.get(f"/chats/{conversation_id}"))
    assert [message["data-message"] for message in page.select("[data-message]")][0] == "1"
    assert len(page.select("[data-message]")) == messages.MAX_UNREAD_ROWS
    later = boris.get(page.select(".more a")[-1]["href"], htmx=True)
    assert soup(later).select_one("[data-message]")["data-message"] == str(messages.MAX_UNREAD_ROWS + 1)


def test_counter_counts_each_conversation_once_whatever_the_sessions(any_place):
    for other in "BCD":
        any_place.send(other, any_place.direct("A", other))
    anna = any_place.browser("A")
    any_place.browser("A")  # another session
    assert 'data-counter="unread">3<' in anna.get("/friends").text
    assert 'data-counter="unread">3<' in anna.get("/counters", htmx=True).text
    assert "(3)" in anna.get("/friends").text.split("</title>")[0]
    anna.post("/chats/1/mute")
    assert 'data-counter="unread">2<' in anna.get("/friends").text
    anna.post("/chats/1/unmute")
    assert 'data-counter="unread">3<' in anna.get("/friends").text


# Pages of a conversation


def test_all_messages_are_reached_by_links_without_gaps(any_place):
    conversation_id = any_place.direct()
    ids = [any_place.send("A", conversation_id) for _number in range(120)]
    anna = any_place.browser("A")
    for htmx in (False, True):
        path, found = f"/chats/{conversation_id}", []
        while path:
            page = soup(anna.get(path, htmx=htmx))
            found = [int(message["data-message"]) for message in page.select("[data-message]")] + found
            link = page.select_one("a[data-next][href*=before]")
            path = link and link["href"]
        assert found == ids
        path, found = f"/chats/{conversation_id}?after=0", []
        while path:
            page = soup(anna.get(path, htmx=htmx))
            found += [int(message["data-message"]) for message in page.select("[data-message]")]
            link = page.select_one("a[data-next][href*=after]")
            path = link and link["href"]
        assert found == ids
    around = soup(anna.get(f"/chats/{conversation_id}?around=60"))
    assert around.select_one("#m-60") and len(around.select(".more")) == 2


@pytest.mark.parametrize("value", ["-1", "abc", "9" * 30, "1.5", "", "0", "\u0663"])
def test_nonsense_positions_show_the_beginning_or_nothing(place, value):
    conversation_id = place.direct()
    place.send("A", conversation_id)
    for name in ("before", "after", "around", "reply_to"):
        assert place.browser("A").get(f"/chats/{conversation_id}", query_string={name: value}).status_code == 200
    query = {"since": value, "from": value}
    assert place.browser("A").get(f"/chats/{conversation_id}/changes", htmx=True, query_string=query).status_code == 200


@pytest.mark.parametrize(
    "path", ["/chats/0", "/chats/2147483648", "/chats/99999999999999999999", "/chats/-1", "/chats/x"]
)
def test_conversations_that_cannot_be_are_not_found(place, path):
    for suffix in ("", "/details", "/changes"):
        assert place.browser("A").get(path + suffix, htmx=True).status_code == 404
    assert place.browser("A").post(f"{path}/messages", {"body": "x"}).status_code == 404


def test_list_is_paged_searched_and_newest_first(any_place):
    place = any_place
    for number in range(25):
        place.group(members="B", title=f"Number {number}")
    place.direct("A", "C")
    anna = place.browser("A")
    titles, path = [], "/chats"
    while path:
        page = soup(anna.get(path))
        titles += [link.text for link in page.select("[data-chat] .row__link")]
        link = page.select_one("[data-next]")
        path = link and link["href"]
    assert titles == ["Clara", *(f"Number {number}" for number in reversed(range(25)))]
    place.send("A", 1)
    assert soup(anna.get("/chats")).select_one("[data-chat]")["data-chat"] == "1"
    for term, expected in (
        ("clar", ["Clara"]),
        ("nUMBER 24", ["Number 24"]),
        ("boris", []),
        ("%", []),
        ("x" * 500, []),
    ):
        found = soup(anna.get("/chats", query_string={"q": term}, htmx=True)).select("[data-chat] .row__link")
        assert [link.text for link in found] == expected, term
    for after in ("nonsense", "WyJ4IiwgMV0", "W10"):
        assert anna.get("/chats", query_string={"after": after}).status_code == 200


# Changes


def test_changes_are_what_was_added_edited_deleted_or_quotes_that(any_place):
    place = any_place
    conversation_id = place.direct()
    for number in range(4):
        place.send("A", conversation_id, f"text {number}")
    place.send("B", conversation_id, "answer", reply_to=2)
    boris = place.browser("B")

    def changes(since, first=0):
        answer = boris.get(f"/chats/{conversation_id}/changes?since={since}&from={first}", htmx=True)
        found = [int(message["data-message"]) for message in soup(answer).select("[data-message]")]
        version = soup(answer).select_one("[data-version]")
        return answer.status_code, found, version and int(version["data-version"])

    assert changes(0) == (200, [1, 2, 3, 4, 5], 5)
    assert changes(3, 2) == (200, [4, 5], 5)
    assert changes(5) == (204, [], None)
    place.call(messages.edit, "A", conversation_id, 2, "edited")
    assert changes(5) == (200, [2, 5], 6)
    assert changes(5, 3) == (200, [5], 6)
    place.call(messages.delete, "A", conversation_id, 1)
    assert changes(6) == (200, [1], 7)
    place.unfriend("A", "B")
    status, found, version = changes(7)
    assert (status, found, version) == (200, [], 8)
    plain = boris.get(f"/chats/{conversation_id}/changes?since=0")
    assert (plain.status_code, plain.location) == (303, f"/chats/{conversation_id}")


def test_more_than_100_changes_load_the_page_again(any_place):
    conversation_id = any_place.direct()
    for _number in range(101):
        any_place.send("A", conversation_id)
    answer = any_place.browser("B").get(f"/chats/{conversation_id}/changes?since=0", htmx=True)
    assert (answer.status_code, answer.headers["HX-Refresh"]) == (204, "true")
    answer = any_place.browser("B").get(f"/chats/{conversation_id}/changes?since=1", htmx=True)
    assert len(soup(answer).select("[data-message]")) == 100


# Drafts


def test_draft_is_kept_unless_it_is_older(any_place):
    conversation_id = any_place.direct()
    anna = any_place.browser("A")
    path = f"/chats/{conversation_id}/draft"

    def composer():
        form = soup(anna.get(f"/chats/{conversation_id}")).select_one("#composer")
        return form.select_one("#body").text, int(form["data-revision"])

    assert anna.post(path, {"body": "one", "revision": 2}, htmx=True).status_code == 204
    assert anna.post(path, {"body": "late", "revision": 1}, htmx=True).status_code == 204
    assert composer() == ("one", 2)
    assert "Draft:" in anna.get("/chats").text
    assert anna.post(path, {"body": "two", "revision": 3}).status_code == 303
    any_place.send("A", conversation_id)
    assert composer() == ("", 4)
    anna.post(path, {"body": "two", "revision": 4}, htmx=True)
    assert composer() == ("", 4)
    assert any_place.browser("B").get("/chats").text.count("Draft:") == 0
    assert anna.post(path, {"body": "x" * 16_001, "revision": 9}, htmx=True).status_code == 422


# Groups


def test_group_is_created_by_form(any_place):
    anna = any_place.browser("A")
    fields = {"title": " Night  owls ", "members": ["boris", "CLARA"]}
    answer = anna.post("/chats", fields)
    assert (answer.status_code, answer.location) == (303, "/chats/1")
    assert anna.post("/chats", fields, htmx=True).headers["HX-Redirect"] == "/chats/2"
    page = soup(any_place.browser("C").get("/chats/1"))
    assert page.select_one("h1").text == "Night  owls" and page.select_one("[data-system]").text.startswith(
        "Anna created"
    )


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize(
    ("title", "members"),
    [
        ("", ["boris"]),
        (" \u200b ", ["boris"]),
        ("x" * 61, ["boris"]),
        ("a\nb", ["boris"]),
        ("Owls", []),
        ("Owls", ["nobody"]),
        ("Owls", ["boris", "stranger"]),
        ("Owls", ["anna"]),
        ("Owls", [f"p{number}" for number in range(100)]),
    ],
)
def test_refused_groups_keep_what_was_typed(place, htmx, title, members):
    from tests.conftest import make_person

    make_person(place.app, "Stranger", public_id="stranger")
    browser = place.browser("A")
    browser.get("/")
    before = dump(place.app)
    answer = browser.post("/chats", {"title": title, "members": members}, htmx=htmx)
    assert answer.status_code == 422 and dump(place.app) == before
    page = soup(answer)
    assert page.select_one("#title")["value"] == title
    checked = {box["value"] for box in page.select("[name=members][checked]")}
    assert checked == {"boris"} & set(members)


def test_owner_manages_the_group_and_nobody_else(any_place):
    place = any_place
    conversation_id = place.group()
    path = f"/chats/{conversation_id}"
    actions = {
        "title": {"title": "Owls of the night"},
        "members": {"members": ["dmitri"]},
        "members/clara/remove": {},
        "members/boris/owner": {},
    }
    boris, anna = place.browser("B"), place.browser("A")
    for action, fields in actions.items():
        for htmx in (False, True):
            assert boris.post(f"{path}/{action}", fields, htmx=htmx).status_code == 403, action
    assert boris.post(f"{path}/title", {"title": ""}).status_code == 403
    for action, fields in actions.items():
        answer = anna.post(f"{path}/{action}", fields)
        assert (answer.status_code, answer.location) == (303, f"{path}/details"), action
    assert place.texts("D", conversation_id) == ["[added]", "[removed]", "[owner]"]
    assert anna.post(f"{path}/title", {"title": "x"}).status_code == 403
    assert boris.post(f"{path}/title", {"title": "Boris' owls"}, htmx=True).status_code == 200
    assert soup(boris.get(path)).select_one("h1").text == "Boris' owls"
    assert place.browser("C").get(path).status_code == 404
    assert boris.post(f"{path}/members/nobody/remove").status_code == 404
    assert boris.post(f"{path}/members/clara/owner").status_code == 404
    assert boris.post(f"{path}/members/boris/remove").status_code == 409
    assert boris.post(f"{path}/title", {"title": "x" * 61}).status_code == 422
    answer = boris.post(f"{path}/members", {"members": ["dmitri"]})  # no friend of Boris
    assert answer.status_code == 422 and "only add your own friends" in answer.text


def test_new_member_sees_nothing_from_before(any_place):
    place = any_place
    conversation_id = place.group(members="B")
    first = place.send("A", conversation_id, "before")
    place.add(conversation_id, "C")
    clara = place.browser("C")
    place.send("A", conversation_id, "an answer", reply_to=first)
    path = f"/chats/{conversation_id}"
    pages = [
        clara.get(path + query, htmx=True) for query in ("", "?before=99", "?after=0", "?around=1", "/changes?since=0")
    ]
    pages.append(clara.get("/chats"))
    assert all("before" not in "".join(bodies(page)) and "an answer" in page.text for page in pages)
    assert "A message from before you joined" in pages[0].text
    assert clara.post(f"{path}/messages", {"body": "x", "reply_to": first}).status_code == 422
    for htmx in (False, True):
        assert clara.get(f"{path}/messages/{first}", htmx=htmx).status_code == 404
    assert place.unread("C") == {conversation_id: 1}


def test_who_left_comes_back_only_by_joining(any_place):
    place = any_place
    conversation_id = place.group()
    place.send("A", conversation_id, "one")
    path = f"/chats/{conversation_id}"
    clara, anna = place.browser("C"), place.browser("A")
    assert clara.post(f"{path}/join").location == path  # a member already
    assert clara.post(f"{path}/leave").location == "/chats"
    assert clara.get(path).status_code == clara.post(f"{path}/join").status_code == 404
    place.send("A", conversation_id, "two")
    assert anna.post(f"{path}/members", {"members": "clara"}).status_code == 303
    assert clara.get(path).status_code == 404 and place.unread("C") == {}
    offer = soup(clara.get("/chats")).select_one("[data-offer]")
    assert offer.form["action"] == f"{path}/join" and "Owls" in offer.text
    assert clara.post(f"{path}/join", htmx=True).headers["HX-Redirect"] == path
    place.send("A", conversation_id, "three")
    assert place.texts("C", conversation_id) == ["[joined]", "three"]
    # Whoever is removed is added without being asked.
    anna.post(f"{path}/members/clara/remove")
    anna.post(f"{path}/members", {"members": "clara"})
    assert place.texts("C", conversation_id) == ["[added]"]


def test_offer_to_join_can_be_taken_back(place):
    conversation_id = place.group()
    path = f"/chats/{conversation_id}"
    clara, anna = place.browser("C"), place.browser("A")
    clara.post(f"{path}/leave")
    anna.post(f"{path}/members", {"members": "clara"})
    assert "left, invited back" in anna.get(f"{path}/details").text
    assert anna.post(f"{path}/members/clara/remove").status_code == 303
    assert clara.post(f"{path}/join").status_code == 404
    assert not soup(clara.get("/chats")).select("[data-offer]")


def test_owner_who_leaves_hands_over_and_the_last_one_deletes(any_place):
    place = any_place
    conversation_id = place.group(members="CB")
    place.add(conversation_id, "D")
    path = f"/chats/{conversation_id}"
    place.browser("A").post(f"{path}/leave")
    assert place.view("B", conversation_id).is_owner  # the longest-standing, of whom the first account
    place.browser("B").post(f"{path}/leave")
    assert place.view("C", conversation_id).is_owner
    for letter in "CD":
        place.browser(letter).post(f"{path}/leave")
    with place.app.app_context():
        assert [db.session.scalars(select(table)).all() for table in (Conversation, Member, Message)] == [[], [], []]


def test_conversation_of_two_cannot_be_left_or_managed(place):
    conversation_id = place.direct()
    anna = place.browser("A")
    assert anna.post(f"/chats/{conversation_id}/leave").status_code == 409
    assert anna.post(f"/chats/{conversation_id}/title", {"title": "x"}).status_code == 403
    assert anna.post(f"/chats/{conversation_id}/members", {"members": "clara"}).status_code == 403


# Costs


def test_pages_and_posts_of_conversations_execute_few_statements(any_place):
    place = any_place
    group = place.group(members="BCD")
    direct = place.direct()
    own = place.send("A", direct)
    for number in range(60):
        place.send("AB"[number % 2], direct, f"{number}")
        place.send("BCD"[number % 3], group, f"{number}", reply_to=None)
    anna = place.browser("A")
    anna.get("/")
    token = anna.token()
    requests = [
        ("GET", "/chats", {}, 3),
        ("GET", "/chats?q=bo", {}, 2),
        ("GET", f"/chats/{direct}", {}, 5),
        ("GET", f"/chats/{group}", {}, 5),
        ("GET", f"/chats/{group}?before=50", {}, 5),
        ("GET", f"/chats/{group}?around=50", {}, 5),
        ("GET", f"/chats/{group}/changes?since=50", {}, 3),
        ("GET", f"/chats/{group}/details", {}, 4),
        ("GET", "/chats/new", {}, 2),
        ("POST", f"/chats/{direct}/messages", {"body": "x", "client_id": "s"}, 7),
        ("POST", f"/chats/{group}/messages", {"body": "x", "client_id": "s"}, 7),
        ("POST", f"/chats/{direct}/messages/{own}/delete", {}, 6),
        ("POST", f"/chats/{direct}/read", {"message_id": "1"}, 3),
        ("POST", f"/chats/{direct}/draft", {"body": "x", "revision": "99999"}, 2),
        ("POST", f"/chats/{direct}/typing", {}, 3),
        ("POST", f"/chats/{direct}/mute", {}, 2),
        ("POST", "/u/boris/chat", {}, 2),
        ("POST", "/u/dmitri/chat", {}, 7),
    ]
    with recorded(place.app) as (statements, ends):
        for method, path, fields, most in requests:
            statements.clear()
            ends.clear()
            response = anna.post(path, fields, token=token) if method == "POST" else anna.get(path)
            assert response.status_code in {200, 303}, path
            assert len(statements) <= most, (path, len(statements), statements)
            assert set(ends) == {"commit"}, path
            # Only what is to last writes: neither typing nor reading again what was read.
            writes = [statement for statement in statements if statement.startswith(("INSERT", "UPDATE", "DELETE"))]
            assert not writes or not path.endswith(("/typing", "/read")), path
        # The answer to htmx shows what was changed.
        for path, fields, most in (
            (f"/chats/{group}/messages", {"body": "x", "client_id": "t"}, 7),
            (f"/chats/{group}/mute", {}, 6),
        ):
            statements.clear()
            ends.clear()
            assert anna.post(path, fields, token=token, htmx=True).status_code == 200
            assert len(statements) <= most and set(ends) == {"commit"}, (path, len(statements), statements)
