"""The gate of the API: who asks, how often, and whether he may, before any handler runs.

The decisions are `authentication`'s, `rates`' and `authorization`'s. Here are the state that they
are made on, the clock, and what is said of those who are turned away: a line in the log, of which
there are few each second, and a metric. Not the state: a flood of them would fill it.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from starlette.types import Scope

from essaim_master.errors import TooManyRequests
from essaim_master.http.acting import Acting
from essaim_master.http.api import Api
from essaim_master.http.authentication import BEHALF_HEADER, Shown, authenticate
from essaim_master.http.authorization import check_allowed, rule_of
from essaim_master.http.caller import CALLER, NOBODY, STILL_PROVED, Caller
from essaim_master.http.errors import NotAllowed, NotAuthenticated
from essaim_master.http.protocol import PEER_EXTENSION, PROVED_EXTENSION, Peer
from essaim_shared.errors import EssaimError
from essaim_shared.log import fields
from essaim_shared.token_buckets import TokenBuckets

REQUESTS_PER_S: Final = 5_000.0
"""Of one user or agent: more than one connection carries."""
NOBODYS_REQUESTS_PER_S: Final = 50.0
"""From one address without a proof of who it is: health checks and joining need little."""
BURST_S: Final = 2.0
REFUSALS_LOGGED_PER_S: Final = 5.0

_UNPROVED: Final = "nobody:"
_BEHALF_NAME: Final = BEHALF_HEADER.lower().encode()

_log = logging.getLogger(__name__)


class Gate:
    """One per master."""

    def __init__(self, api: Api, cluster_id: str | None = None) -> None:
        """`cluster_id`: None for a master without an identity, where everybody is let in."""
        self._api = api
        self._cluster_id = cluster_id
        self._rates = TokenBuckets(REQUESTS_PER_S, REQUESTS_PER_S * BURST_S)
        self._nobodys_rates = TokenBuckets(NOBODYS_REQUESTS_PER_S, NOBODYS_REQUESTS_PER_S * BURST_S)
        self._lines = TokenBuckets(REFUSALS_LOGGED_PER_S, REFUSALS_LOGGED_PER_S * BURST_S)
        self._refused: Counter[str] = Counter(dict.fromkeys(_REASONS.values(), 0))

    @property
    def refused(self) -> Mapping[str, int]:
        """How many requests were turned away, by the reason."""
        return self._refused

    async def admit(self, scope: Scope, path: str) -> Acting:
        """Raises NotAuthenticated, NotAllowed, TooManyRequests, and NoLeader when who is unknown
        here may be known to the others, who cannot be asked."""
        rule = rule_of(scope["method"], path)
        shown = _shown(scope)
        caller = NOBODY
        try:
            caller = await self._authenticated(shown)
            scope[CALLER] = caller
            scope[STILL_PROVED] = partial(self._is_still_proved, shown, caller)
            if caller.kind != "nobody":
                scope.get("extensions", {}).get(PROVED_EXTENSION, _nothing)()
            self._check_rate(caller)
            check_allowed(caller, rule)
        except (NotAuthenticated, NotAllowed, TooManyRequests) as error:
            self._note(error, caller, shown.address, f"{scope['method']} {path}")
            raise
        return Acting(caller, rule.action)

    def note_refusal(self, error: EssaimError, acting: Acting, path: str) -> None:
        """Of what a handler refused: the objects, not the request, were not the caller's."""
        if isinstance(error, NotAllowed):
            self._note(error, acting.caller, acting.caller.address, path)

    async def _authenticated(self, shown: Shown) -> Caller:
        """This master may lag behind the one that made the user, so it catches up before it says
        that somebody is unknown; a guess costs its address a token of those of nobody."""
        api = self._api
        try:
            return authenticate(shown, api.state, self._cluster_id, api.clock.wall_ns())
        except NotAuthenticated:
            self._check_nobodys_rate(shown.address)
            await api.catch_up()
            return authenticate(shown, api.state, self._cluster_id, api.clock.wall_ns())

    def _is_still_proved(self, shown: Shown, caller: Caller) -> bool:
        api = self._api
        try:
            return authenticate(shown, api.state, self._cluster_id, api.clock.wall_ns()) == caller
        except NotAuthenticated:
            return False

    def _check_rate(self, caller: Caller) -> None:
        if caller.kind == "nobody":
            self._check_nobodys_rate(caller.address)
        elif caller.kind in ("user", "agent"):
            wait_s = self._rates.take(caller.who, self._api.clock.monotonic_s())
            if wait_s:
                raise TooManyRequests(
                    f"{caller.who} asks more than {REQUESTS_PER_S:.0f} times a second: "
                    "wait, and ask less often",
                    wait_s,
                )

    def _check_nobodys_rate(self, address: str) -> None:
        host = address.rpartition(":")[0]
        wait_s = self._nobodys_rates.take(host, self._api.clock.monotonic_s())
        if wait_s:
            raise TooManyRequests(
                f"{host} asks more than {NOBODYS_REQUESTS_PER_S:.0f} times a second without "
                "saying who it is: wait, or show a certificate or a token",
                wait_s,
            )

    def _note(self, error: EssaimError, caller: Caller, source: str, request: str) -> None:
        self._refused[_REASONS[type(error)]] += 1
        if not self._lines.take("", self._api.clock.monotonic_s()):
            _log.warning(
                "refused %s",
                fields(who=caller.who, source=source, request=request[:200], why=str(error)),
            )


_REASONS: Final[dict[type[EssaimError], str]] = {
    NotAuthenticated: "unauthenticated",
    NotAllowed: "forbidden",
    TooManyRequests: "rate",
}


def _nothing() -> None:
    """For who comes without a connection: a test."""


def _shown(scope: Scope) -> Shown:
    """Raises NotAuthenticated for a header that is given twice."""
    peer = scope.get("extensions", {}).get(PEER_EXTENSION) or Peer()
    found: dict[bytes, Any] = {}
    for name, value in scope["headers"]:
        if name in (b"authorization", _BEHALF_NAME):
            if name in found:
                raise NotAuthenticated(f"the header {name.decode()} is given twice")
            found[name] = value
    authorization = found.get(b"authorization")
    return Shown(
        uid=peer.uid,
        address=peer.address,
        certificate=peer.certificate,
        authorization=None if authorization is None else authorization.decode("latin-1"),
        behalf=found.get(_BEHALF_NAME),
    )
