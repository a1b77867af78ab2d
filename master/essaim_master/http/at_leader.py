"""What only the leader may do, asked of any master: it does it, or hands the request on."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from essaim_master.http.api import Api, encoded_response, json_response
from essaim_master.http.peer_requests import FORWARDED_HEADER
from essaim_master.raft.errors import NotLeader
from essaim_shared.errors import NoLeader

FORWARD_TIMEOUT_S = 12.0
"""A change of the members waits for a quorum, and for the leader before it to hand over."""
HOPS_MAX = 2
"""To the leader, and from one that hands over to the next."""
_HOPS = frozenset(str(hops) for hops in range(HOPS_MAX))


async def at_leader(
    api: Api,
    request: Request,
    method: str,
    target: str,
    body: bytes,
    act: Callable[[], Awaitable[Any]],
) -> Response:
    """Act if this master leads; otherwise have the leader answer the same question."""
    try:
        result = await act()
        return json_response({} if result is None else result)
    except NotLeader as error:
        leader = error.leader
    hops = request.headers.get(FORWARDED_HEADER, "0")
    hops_made = int(hops) if hops in _HOPS else HOPS_MAX
    address = next((member.http for member in api.cluster.members if member.id == leader), None)
    if address is None or hops_made >= HOPS_MAX:
        raise NoLeader("the masters have no leader that they agree on: try again")
    answer = await api.ask_master(
        address, method, target, hops=hops_made + 1, timeout_s=FORWARD_TIMEOUT_S, body=body
    )
    return encoded_response(answer.body, answer.status)
