"""Every route there is, with an address to try it at. The tests that walk them fail on one that is not here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """path: one that exists for Alice. public: whether strangers see it. machine: whether no person reads it."""

    path: str
    public: bool = False
    machine: bool = False
    gate: bool = False  # a page before the door: it sends whoever is signed in away
    page: bool = True  # whether GET shows a page


ROUTES = {
    "static": Route("/static/css/base.css", public=True, machine=True, page=False),
    "main.healthz": Route("/healthz", public=True, machine=True, page=False),
    "main.readyz": Route("/readyz", public=True, machine=True, page=False),
    "main.moment_js": Route("/moment.js", public=True, machine=True, page=False),
    "main.avatar": Route("/avatars/alice/" + "0" * 32 + ".webp", public=True, machine=True, page=False),
    "main.home": Route("/", public=True),
    "main.profile": Route("/u/alice"),
    "main.friends": Route("/friends"),
    "main.incoming": Route("/friends/incoming"),
    "main.outgoing": Route("/friends/outgoing"),
    "main.search": Route("/search"),
    "main.blocked": Route("/settings/blocked"),
    "main.send_request": Route("/u/bobby/request", page=False),
    "main.accept_request": Route("/u/bobby/request/accept", page=False),
    "main.decline_request": Route("/u/bobby/request/decline", page=False),
    "main.cancel_request": Route("/u/bobby/request/cancel", page=False),
    "main.unfriend": Route("/u/bobby/unfriend", page=False),
    "main.block": Route("/u/bobby/block", page=False),
    "main.unblock": Route("/u/bobby/unblock", page=False),
    "main.button": Route("/u/bobby/button", page=False),
    "main.row": Route("/u/bobby/row", page=False),
    "main.counters": Route("/counters", page=False),
    "main.events": Route("/events", page=False),
    "main.settings": Route("/settings"),
    "main.edit_profile": Route("/settings/profile"),
    "main.remove_avatar": Route("/settings/avatar/remove", page=False),
    "main.change_look": Route("/settings/look", public=True),
    "main.delete_account": Route("/settings/delete"),
    "auth.register": Route("/auth/register", public=True, gate=True),
    "auth.login": Route("/auth/login", public=True, gate=True),
    "auth.logout": Route("/auth/logout", page=False),
    "auth.reset": Route("/auth/reset", public=True),
    "auth.reset_sent": Route("/auth/reset/sent", public=True),
    "auth.reset_password": Route("/auth/reset/not-a-token", public=True),
    "auth.change_password": Route("/settings/password"),
    "auth.list_sessions": Route("/settings/sessions"),
    "auth.revoke_session": Route("/settings/sessions/1/revoke", page=False),
    "auth.revoke_other_sessions": Route("/settings/sessions/revoke-others", page=False),
}
