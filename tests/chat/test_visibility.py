"""Who sees a conversation, and what of it: every route for everybody who is, was or never was in it."""

import pytest
from bs4 import BeautifulSoup

from noxchat import friendships, groups, messages
from tests.chat.conftest import Place
from tests.conftest import Browser, befriend

# What each route answers to members, others and guests: (status of the page, of the fragment).
READING = {
    "": (200, 200),
    "/details": (200, 200),
    "/changes?since=0": (303, 200),
    "/messages/1": (303, 200),
    "/head": (303, 200),
    "/row": (303, 200),
}
WRITING = {
    "/messages": {"body": "x"},
    "/read": {"message_id": "1"},
    "/draft": {"body": "x", "revision": "1"},
    "/typing": {},
    "/mute": {},
    "/unmute": {},
}
MANAGING = {
    "/title": {"title": "x"},
    "/members": {"members": "dmitri"},
    "/members/boris/remove": {},
    "/members/boris/owner": {},
}
OWN = {"/messages/1/edit": {"body": "x"}, "/messages/1/delete": {}}
GROUP = {"/leave": {}, "/join": {}}

# Who of a direct conversation of Anna and Boris: how it came about, and whether they see it.
DIRECT_ROLES = {
    "friend": (lambda _place: None, "B", True),
    "former friend": (lambda place: place.unfriend("A", "B"), "B", True),
    "blocked": (lambda place: place.block("A", "B"), "B", True),
    "blocker": (lambda place: place.block("B", "A"), "B", True),
    "stranger": (lambda _place: None, "C", False),
    "guest": (lambda _place: None, None, False),
}
# Who of a group of Anna's with Boris and Clara.
GROUP_ROLES = {
    "owner": (lambda _place: None, "A", True),
    "member": (lambda _place: None, "C", True),
    "removed": (lambda place: place.call(groups.remove_member, "A", 1, "clara"), "C", False),
    "left": (lambda place: place.call(groups.leave, "C", 1), "C", False),
    "left and asked to join": (lambda place: (place.call(groups.leave, "C", 1), place.add(1, "C")), "C", False),
    "blocked member": (lambda place: place.block("A", "C"), "C", True),
    "blocking member": (lambda place: place.block("C", "A"), "C", True),
    "stranger": (lambda _place: None, "D", False),
    "guest": (lambda _place: None, None, False),
}


def check(browser, path, expected, fields=None):
    """Assert the statuses of a route, as page and as fragment."""
    for htmx in (False, True):
        answer = browser.get(path, htmx=htmx) if fields is None else browser.post(path, fields, htmx=htmx)
        assert answer.status_code == expected[htmx], (path, htmx, answer.status_code)


def outsiders(role):
    return (302, 401) if role == "guest" else (404, 404)


@pytest.mark.parametrize("role", DIRECT_ROLES)
def test_routes_of_a_direct_conversation(any_place, role):
    arrange, letter, is_member = DIRECT_ROLES[role]
    path = f"/chats/{any_place.direct()}"
    any_place.send("A", 1, "a secret")
    arrange(any_place)
    browser = any_place.browser(letter) if letter else Browser(any_place.app)
    for suffix, statuses in READING.items():
        check(browser, path + suffix, statuses if is_member else outsiders(role))
    for suffix, fields in {**WRITING, **MANAGING, **OWN, **GROUP}.items():
        expected = outsiders(role)
        if is_member and suffix in WRITING:
            expected = (303, 200 if suffix in {"/messages", "/mute", "/unmute"} else 204)
            if suffix == "/messages" and role != "friend":
                expected = (409, 409)
        elif is_member:
            expected = {"/leave": (409, 409), "/join": (303, 200)}.get(suffix, (403, 403))
        check(browser, path + suffix, expected, fields)
    pages = "".join(browser.get(page).text for page in ("/", "/chats", path))
    assert ("a secret" in pages) is is_member


@pytest.mark.parametrize("role", GROUP_ROLES)
def test_routes_of_a_group(any_place, role):
    arrange, letter, is_member = GROUP_ROLES[role]
    path = f"/chats/{any_place.group()}"
    any_place.send("B", 1, "a secret")
    arrange(any_place)
    browser = any_place.browser(letter) if letter else Browser(any_place.app)
    for suffix, statuses in READING.items():
        check(browser, path + suffix, statuses if is_member else outsiders(role))
    for suffix, fields in {**WRITING, **OWN, **MANAGING, **GROUP}.items():
        expected = outsiders(role)
        if is_member and suffix in WRITING:
            expected = (303, 200 if suffix in {"/messages", "/mute", "/unmute"} else 204)
        elif is_member and suffix in OWN:
            expected = (403, 403)  # messages of Boris, or lines
        elif is_member and suffix in MANAGING:
            expected = (403, 403) if role != "owner" else None
        elif suffix == "/join" and role == "left and asked to join":
            expected = (303, 200)
        elif is_member:
            expected = {"/leave": (303, 404), "/join": (404, 404)}[suffix]
        if expected:
            check(browser, path + suffix, expected, fields)
    if role not in {"guest", "left and asked to join"}:
        assert "a secret" not in browser.get(path).text


def test_blocked_people_in_groups(any_place):
    """The blocker sees that there is a message and nothing of it; the blocked person notices nothing."""
    place = any_place
    conversation_id = place.group(members="BCD")
    blocked_message = place.send("B", conversation_id, "from Boris")
    place.send("C", conversation_id, "an answer", reply_to=blocked_message)
    before = place.browser("B").get(f"/chats/{conversation_id}", htmx=True).text
    place.block("C", "B")
    path = f"/chats/{conversation_id}"
    clara, boris, dmitri = (place.browser(letter) for letter in "CBD")
    place.send("B", conversation_id, "more from Boris")
    for page in (path, f"{path}/changes?since=0", "/chats", "/", f"{path}/messages/{blocked_message}"):
        assert "from Boris" not in clara.get(page, htmx=True).text, page
    shown = BeautifulSoup(clara.get(path).text, "html.parser")
    assert shown.select_one(f"[data-quote='{blocked_message}']").text.strip() == "Message from someone you blocked"
    assert "Someone you blocked is in this group" in shown.text
    assert place.unread("C") == {conversation_id: 0} and place.unread("D") == {conversation_id: 3}
    assert "more from Boris" in dmitri.get(path).text
    # Boris sees everything of Clara as before, but no profile.
    place.send("C", conversation_id, "from Clara")
    after = boris.get(path, htmx=True).text
    assert "from Clara" in after and "an answer" in after and "an answer" in before
    details = BeautifulSoup(boris.get(f"{path}/details").text, "html.parser")
    assert details.select_one("[data-user=clara]") and not details.select_one("a[href='/u/clara']")
    assert details.select_one("a[href='/u/dmitri']")
    # Clara is added to another group with Boris, and is told.
    other = place.group(members="BC")
    assert "Someone you blocked is in this group" in clara.get(f"/chats/{other}").text
    assert "Someone you blocked" not in boris.get(f"/chats/{other}").text


def test_direct_conversation_looks_the_same_to_a_blocked_as_to_a_former_friend(make_app):
    pages = []
    for end in ("unfriend", "block"):
        place = Place(make_app())
        path = f"/chats/{place.direct()}"
        place.send("A", 1, "hello")
        getattr(place, end)("A", "B")
        boris = place.browser("B")
        page = BeautifulSoup(boris.get(path).text, "html.parser").select_one("#thread")
        for changing in page.select("[name=csrf_token], #client_id, time, [data-time]"):
            changing.decompose() if changing.name != "li" else changing.attrs.pop("data-time")
        pages.append((str(page), boris.get("/chats", htmx=True).text))
        assert not page.select("a[href='/u/anna']")
    assert pages[0][0] == pages[1][0]


@pytest.mark.parametrize("deletes", [False, True])
def test_deleted_account_leaves_its_messages_without_its_name(any_place, deletes):
    place = any_place
    direct, group = place.direct("A", "B"), place.group(owner="B", members="A", title="Owls")
    place.add(group, "A", owner="B")
    for conversation_id in (direct, group):
        place.send("B", conversation_id, "from Boris")
        place.send("A", conversation_id, "an answer", reply_to=messages_of(place, conversation_id)[-1])
    from tests.conftest import PASSWORD

    fields = {"password": PASSWORD, **({"delete_messages": "1"} if deletes else {})}
    assert place.browser("B").post("/settings/delete", fields).status_code == 303
    anna = place.browser("A")
    for conversation_id in (direct, group):
        page = BeautifulSoup(anna.get(f"/chats/{conversation_id}").text, "html.parser")
        assert "Boris" not in page.text.replace("from Boris", "")
        assert ("from Boris" in page.text) is not deletes
        assert "Deleted account" in page.text
        theirs = page.select("li.msg:not([data-own])")[0]
        assert "data-author" not in theirs.attrs and theirs.has_attr("data-deleted") is deletes
        assert anna.post(f"/chats/{conversation_id}/read", {"message_id": 10**9}).status_code == 303
    assert place.view("A", group).is_owner
    assert 'data-counter="unread">0<' in anna.get("/chats").text
    assert anna.post(f"/chats/{direct}/messages", {"body": "x"}).status_code == 409
    # The last account gone takes the conversation with it.
    anna.post("/settings/delete", {"password": PASSWORD})
    with place.app.app_context():
        from sqlalchemy import select

        from noxchat.extensions import db
        from noxchat.models import Conversation, Message

        assert db.session.scalars(select(Conversation)).all() == db.session.scalars(select(Message)).all() == []


def messages_of(place, conversation_id):
    """Return the ids of the texts of a conversation, as Anna sees them."""

    def load(viewer):
        from noxchat import conversations

        rows = messages.list_newest(conversations.find(viewer, conversation_id)).rows
        return [row.id for row in rows if not row.is_system]

    return place.read(load, "A")


def test_unfriending_and_blocking_do_not_touch_groups(place):
    befriend(place.app, place.people["B"], place.people["C"])
    conversation_id = place.group()
    place.friendship(friendships.block, "B", "C")
    for letter in "BC":
        path = f"/chats/{conversation_id}/messages"
        assert place.browser(letter).post(path, {"body": "x"}).status_code == 303
