"""What tests with conversations in browsers have in common."""

from noxchat import conversations, messages, relationships
from noxchat.database import begin_write
from noxchat.extensions import db


def open_conversation(site_app, one, other):
    """Return the id of the conversation of two friends."""
    with site_app.test_request_context():
        begin_write(db.session)
        conversation_id = conversations.open_direct(one, other, relationships.FRIENDS)
        db.session.commit()
    return conversation_id


def fill(site_app, author, conversation_id, count, prefix="old"):
    """Have somebody send messages, without the page."""
    with site_app.test_request_context():
        begin_write(db.session)
        for number in range(count):
            messages.send(author, conversation_id, body=f"{prefix} {number}", client_id=f"{prefix}-{number}")
        db.session.commit()


def write(page, text):
    page.fill("#body", text)
    page.press("#body", "Enter")


def send(page, text):
    page.fill("#body", text)
    page.click("#composer button")


def message(page, text):
    return page.locator(".msg", has=page.locator("[data-body]", has_text=text))


def menu(page, text, entry):
    """Open the menu of a message and press an entry."""
    message(page, text).hover()
    message(page, text).locator("[popovertarget]").click()
    message(page, text).locator(".menu").get_by_text(entry).click()


def unread(page):
    return page.locator("#nav-chats [data-counter=unread]")
