"""Who may use the bus: what masters ask each other, and the way back for a node that was cut off.

GET /essaim/bus/users?revision=R&timeout=S   200 once the server of the asked one has loaded all
                                             users of that revision of the state; 504 after S
GET /essaim/bus/users/file?loaded=NS         the file of users, for a master that stands by; 204
                                             when its server has loaded this one, 503 by a master
                                             that cannot know what is in force
POST /essaim/bus/floods                      a `Flood`, seen by a master that stands by; 202
POST /essaim/nodes/NODE/readmit              let a node in again that flooded the bus
"""

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.bus_users.everywhere import USERS_TARGET
from essaim_master.bus_users.floods import Flood
from essaim_master.bus_users.follower import FILE_TARGET, FLOODS_TARGET
from essaim_master.bus_users.suspension import suspension_writes
from essaim_master.http.api import GUARDED_ATTEMPTS_MAX, Api, json_response, read_body
from essaim_master.http.lookup import find_node
from essaim_shared.errors import Conflict, InvalidRequest, NotSupported
from essaim_shared.undecodable import UNDECODABLE

WAIT_S_MAX: Final = 10.0
NUMBER_CHARS_MAX: Final = 20


class BusRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        return [
            Route(USERS_TARGET, self.users, methods=["GET"]),
            Route(FILE_TARGET, self.file, methods=["GET"]),
            Route(FLOODS_TARGET, self.floods, methods=["POST"]),
            Route("/essaim/nodes/{reference}/readmit", self.readmit, methods=["POST"]),
        ]

    async def floods(self, request: Request) -> Response:
        bus = self._api.bus_users
        try:
            flood = msgspec.json.decode(await read_body(request), type=Flood)
        except UNDECODABLE as error:
            raise InvalidRequest(f"invalid request body: {error}") from error
        if bus is not None:
            bus.guard.accuse(flood)
        return Response(status_code=202)

    async def readmit(self, request: Request) -> Response:
        """Answered as well when it is in already. Raises Conflict."""
        state = self._api.state
        for _ in range(GUARDED_ATTEMPTS_MAX):
            await self._api.catch_up()
            node = find_node(self._api.seen, request.path_params["reference"])
            writes = suspension_writes(state, node.id, "")
            if not writes or await self._api.commit(writes):
                return json_response({"ID": node.id})
        raise Conflict(f"the identity of node {node.id} is being changed by others: try again")

    async def users(self, request: Request) -> Response:
        bus = self._api.bus_users
        revision = _number(request, "revision")
        timeout_s = min(_number(request, "timeout"), WAIT_S_MAX)
        is_loaded = bus is None or await bus.everywhere.here(int(revision), timeout_s)
        return json_response({"Loaded": is_loaded}, 200 if is_loaded else 504)

    async def file(self, request: Request) -> Response:
        bus = self._api.bus_users
        if bus is None or not bus.keeper.is_founded:
            raise NotSupported("this master knows no users of the bus: it has no identity")
        # Who was removed meanwhile must not be let in again by a master that has just started.
        await self._api.catch_up()
        current = bus.keeper.current()
        if current.write_deadline_ns == _number(request, "loaded"):
            return Response(status_code=204)
        return Response(current.text, media_type="text/plain")


def _number(request: Request, name: str) -> float:
    text = request.query_params.get(name, "0")
    try:
        if len(text) > NUMBER_CHARS_MAX:
            raise ValueError
        found = float(text)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {text[:40]!r} is no number") from error
    if not 0 <= found < float("inf"):
        raise InvalidRequest(f"{name}: {text[:40]!r} is no number that can be")
    return found
