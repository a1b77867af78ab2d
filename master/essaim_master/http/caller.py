"""Who sends a request, as far as it was proved."""

from collections.abc import Callable
from typing import Literal

import msgspec
from starlette.requests import HTTPConnection

from essaim_shared.trust_objects import UserRole

CALLER = "essaim.caller"
"""Where a request's `Caller` stands in the ASGI scope."""
STILL_PROVED = "essaim.still_proved"
"""Beside it: tells whether what was shown proves the same `Caller` now."""


class Caller(msgspec.Struct, frozen=True):
    kind: Literal["local", "user", "agent", "master", "nobody"]
    """`local`: by a master's own socket, whose file decides who may; `nobody`: nothing was proved,
    for joining and for clients that have yet to say who they are."""
    name: str = ""
    """Of a user his, of an agent the id of its node, of a master its name, else `uid N`."""
    role: UserRole | None = None
    """What a user may do; `local` counts as admin."""
    stack: str = ""
    """The only stack that a user may see and change; empty: all."""
    address: str = ""
    """`HOST:PORT` that the request came from; empty by the master's own socket."""

    @property
    def who(self) -> str:
        """For people and for the audit log."""
        return self.name if self.kind == "local" else f"{self.kind} {self.name}".rstrip()


NOBODY = Caller("nobody")


def caller_of(connection: HTTPConnection) -> Caller:
    """Whoever was authenticated for this request; NOBODY where that has not been done."""
    found = connection.scope.get(CALLER, NOBODY)
    assert isinstance(found, Caller)
    return found


def still_proved(connection: HTTPConnection) -> Callable[[], bool]:
    """For answers that go on for long: whether the caller still is who he was when he asked."""
    found: Callable[[], bool] = connection.scope.get(STILL_PROVED, _always)
    return found


def _always() -> bool:
    return True
