"""The API of a master that stands by: it lives, and says who answers.

    GET /_ping             as of a node of Docker's that is no manager
    GET /essaim/standby    {"ID","Members","Said"}

Everything else is refused in Docker's words for such a node. Our own command line then turns to
the masters that the answer names. Where the masters are is told on the host itself, and to whoever
shows a certificate of the cluster; it has no state to know more of anybody.
"""

from collections.abc import Callable

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from essaim_master.http.api import ErrorBody
from essaim_master.http.api_version import API_VERSION, server_version, split_version
from essaim_master.http.protocol import PEER_EXTENSION, Peer
from essaim_master.state.cluster import Member
from essaim_shared.errors import EssaimError
from essaim_shared.ids import MemberId

MASTERS_HEADER = "Essaim-Masters"
"""Where the masters are, `HOST:PORT` with commas between them."""

NOT_A_MANAGER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)
"""Docker's, daemon/cluster/errors.go."""

WHO_ASKS = (
    "this master stands by and knows nobody but by a certificate of its cluster: show one, or ask "
    "a master"
)

_HEADERS = {
    "Api-Version": API_VERSION,
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"Essaim/{server_version()} (linux)",
}
_PING_HEADERS = {
    "Swarm": "active/worker",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
}


class StandbyView(msgspec.Struct, frozen=True, rename="pascal"):
    id: MemberId = msgspec.field(name="ID")
    members: tuple[Member, ...]
    said: str
    """What the masters answered last, when it was not what this one waits for."""


class StandbyApp:
    def __init__(self, view: Callable[[], StandbyView], *, wants_certificates: bool) -> None:
        self._view = view
        self._wants_certificates = wants_certificates

    def close(self) -> None:
        """Nobody waits here."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            path = split_version(scope["path"])
        except EssaimError as error:
            await _refusal(str(error), error.http_status)(scope, receive, send)
            return
        if path != "/_ping" and self._wants_certificates and not _is_known(scope):
            await _refusal(WHO_ASKS, 401)(scope, receive, send)
            return
        await self._answer(scope["method"], path)(scope, receive, send)

    def _answer(self, method: str, path: str) -> Response:
        view = self._view()
        if method in ("GET", "HEAD"):
            if path == "/_ping":
                headers = {**_HEADERS, **_PING_HEADERS}
                return Response(b"OK", media_type="text/plain", headers=headers)
            if path == "/essaim/standby":
                body = msgspec.json.encode(view)
                return Response(body, media_type="application/json", headers=_HEADERS)
        masters = ",".join(member.http for member in view.members)
        refusal = _refusal(f"{NOT_A_MANAGER} Masters: {masters or 'none known'}", 503)
        if masters:
            refusal.headers[MASTERS_HEADER] = masters
        return refusal


def _is_known(scope: Scope) -> bool:
    peer: Peer = scope["extensions"][PEER_EXTENSION]
    return peer.uid is not None or peer.certificate is not None


def _refusal(sentence: str, status: int) -> Response:
    body = msgspec.json.encode(ErrorBody(sentence))
    return Response(body, status, media_type="application/json", headers=_HEADERS)
