"""Every route, with what must be true of it. The tests that walk this table fail on a route that is not in it."""

from dataclasses import dataclass

# Who looks at Bob, in the tests of who sees whom.
VIEWERS = ("friend", "stranger", "blocked", "blocker", "anonymous")


@dataclass(frozen=True)
class Route:
    """path: one that exists for Alice. page: whether GET shows a page. post: whether it accepts POST.

    status: of the page, for somebody who is logged in. public: whether it can be used without being logged in. machine:
    whether it is not for people. guests_only: whether it redirects people who are logged in.

    Who sees whom; a route with neither shows nobody but the viewer:
    about_bob: the status of the answer to each of VIEWERS, at Bob's path. lists_bob: whether Bob is on the page.
    """

    path: str
    page: bool = True
    post: bool = False
    public: bool = False
    machine: bool = False
    guests_only: bool = False
    status: int = 200
    about_bob: tuple[int, ...] | None = None
    lists_bob: tuple[bool, ...] | None = None


def machine(path: str, **more) -> Route:
    """Return a public route for machines."""
    return Route(path, page=False, public=True, machine=True, **more)


def action(path: str) -> Route:
    """Return an action of the friend button."""
    return Route(path, page=False, post=True, about_bob=(303, 303, 404, 303, 302))


def member_action(path: str) -> Route:
    """Return an action about a member of a group that nobody in these tests is in."""
    return Route(path, page=False, post=True, about_bob=(404, 404, 404, 404, 302))


ROUTES = {
    "static": machine("/static/css/base.css"),
    "main.healthz": machine("/healthz"),
    "main.readyz": machine("/readyz"),
    "main.show_metrics": machine("/metrics"),
    "main.doctor": machine("/doctor/unsigned"),
    "main.doctor_stream": machine("/doctor/unsigned/stream"),
    "main.moment_js": machine("/moment.js"),
    "main.favicon": machine("/favicon.ico"),
    "main.counting_favicon": machine("/favicon/3.svg"),
    # An avatar's name cannot be guessed: whoever was shown it may load it.
    "main.avatar": machine("/avatars/alice/" + "0" * 32 + ".webp", about_bob=(404, 404, 404, 404, 404)),
    "main.home": Route("/", public=True, lists_bob=(True, False, False, False, False)),
    "main.profile": Route("/u/alice", about_bob=(200, 200, 404, 200, 302)),
    "main.edit_profile": Route("/settings/profile", post=True),
    "main.remove_avatar": Route("/settings/avatar/remove", page=False, post=True),
    "main.search": Route("/search", lists_bob=(True, True, False, False, False)),
    "main.events": Route("/events", page=False),
    "friends.friends": Route("/friends", lists_bob=(True, False, False, False, False)),
    "friends.incoming": Route("/friends/incoming", lists_bob=(False, False, False, False, False)),
    "friends.outgoing": Route("/friends/outgoing", lists_bob=(False, False, False, False, False)),
    "friends.send_request": action("/u/bobby/request"),
    "friends.accept_request": action("/u/bobby/request/accept"),
    "friends.decline_request": action("/u/bobby/request/decline"),
    "friends.cancel_request": action("/u/bobby/request/cancel"),
    "friends.unfriend": action("/u/bobby/unfriend"),
    "friends.block": action("/u/bobby/block"),
    "friends.unblock": action("/u/bobby/unblock"),
    "friends.undo": action("/u/bobby/undo"),
    "friends.button": Route("/u/bobby/button", page=False, about_bob=(302, 302, 404, 302, 302)),
    "friends.row": Route("/u/bobby/row", page=False, about_bob=(302, 302, 302, 302, 302)),
    "friends.counters": Route("/counters", page=False),
    "friends.online": Route("/friends/online", page=False),
    # Invitations have tests of their own: tests/test_invitations.py.
    "friends.invitation": Route("/i/not-a-token", post=True, public=True, status=404),
    "chat.conversation_list": Route("/chats", lists_bob=(False, False, False, False, False)),
    "chat.newest": Route("/chats/newest", page=False),
    "chat.create_group": Route("/chats", page=False, post=True),
    "chat.new_group": Route("/chats/new", lists_bob=(True, False, False, False, False)),
    # What members see and do is tested in tests/chat: Alice has no conversation here, and nobody else's exists for her.
    "chat.conversation": Route("/chats/1", status=404),
    "chat.details": Route("/chats/1/details", status=404),
    "chat.changes": Route("/chats/1/changes", page=False),
    "chat.row": Route("/chats/1/row", page=False),
    "chat.head": Route("/chats/1/head", page=False),
    "chat.message": Route("/chats/1/messages/1", page=False),
    "chat.edit": Route("/chats/1/messages/1/edit", post=True, status=404),
    **{
        f"chat.{endpoint}": Route(f"/chats/1/{path}", page=False, post=True)
        for endpoint, path in {
            "send": "messages",
            "delete": "messages/1/delete",
            "read": "read",
            "save_draft": "draft",
            "typing": "typing",
            "rename": "title",
            "add_members": "members",
            "leave": "leave",
            "join": "join",
            "mute": "mute",
            "unmute": "unmute",
        }.items()
    },
    "chat.remove_member": member_action("/chats/1/members/bobby/remove"),
    "chat.make_owner": member_action("/chats/1/members/bobby/owner"),
    "chat.open_direct": Route("/u/bobby/chat", page=False, post=True, about_bob=(303, 409, 404, 409, 302)),
    "settings.index": Route("/settings"),
    "settings.edit_preferences": Route("/settings/look", post=True, public=True),
    "settings.edit_privacy": Route("/settings/privacy", post=True),
    "settings.change_password": Route("/settings/password", post=True),
    "settings.edit_email": Route("/settings/email", post=True),
    "settings.resend_confirmation": Route("/settings/email/resend", page=False, post=True),
    "settings.list_invitations": Route("/settings/invitations", post=True),
    "settings.revoke_invitation": Route("/settings/invitations/1/revoke", page=False, post=True),
    "settings.invitation_code": Route("/settings/invitations/1/code.svg", page=False),
    "settings.list_sessions": Route("/settings/sessions"),
    "settings.revoke_session": Route("/settings/sessions/1/revoke", page=False, post=True),
    "settings.revoke_other_sessions": Route("/settings/sessions/revoke-others", page=False, post=True),
    "settings.blocked": Route("/settings/blocked", lists_bob=(False, False, False, True, False)),
    "settings.delete_account": Route("/settings/delete", post=True),
    "auth.register": Route("/auth/register", post=True, public=True, guests_only=True),
    "auth.login": Route("/auth/login", post=True, public=True, guests_only=True),
    "auth.check_strength": Route("/auth/strength", page=False, post=True, public=True),
    "auth.logout": Route("/auth/logout", page=False, post=True),
    "auth.request_reset": Route("/auth/reset", post=True, public=True),
    "auth.reset_sent": Route("/auth/reset/sent", public=True),
    "auth.reset_password": Route("/auth/reset/not-a-token", post=True, public=True, status=400),
    "auth.confirm_email": Route("/auth/confirm/not-a-token", post=True, public=True, status=400),
    "auth.undo_email_change": Route("/auth/email-undo/not-a-token", post=True, public=True, status=400),
}

PAGES = [endpoint for endpoint, route in ROUTES.items() if route.page]
POSTS = [endpoint for endpoint, route in ROUTES.items() if route.post]
PRIVATE = [endpoint for endpoint, route in ROUTES.items() if not route.public]
ABOUT_BOB = [endpoint for endpoint, route in ROUTES.items() if route.about_bob]
LISTS = [endpoint for endpoint, route in ROUTES.items() if route.lists_bob]
