"""`/essaim/cluster/…`: masters that stand by, and the roles of nodes. The leader carries out.

POST   /essaim/cluster/standbys              an `Announcement`; what it is told (`Told`)
GET    /essaim/cluster/standbys              who stands by now, as announced
POST   /essaim/cluster/nodes/ID/role         {"Role": "manager" or "worker"}
"""

from http import HTTPStatus
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, ErrorBody, read_body
from essaim_master.http.at_leader import at_leader
from essaim_master.http.errors import LeaderRefused
from essaim_master.node_roles import NodeRoles
from essaim_master.standby.announcements import Announcement, Told
from essaim_master.state.manager_nodes import NodeRole
from essaim_shared.errors import InvalidRequest, NotSupported
from essaim_shared.ids import NodeId
from essaim_shared.undecodable import UNDECODABLE


class _Role(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["worker", "manager"] = msgspec.field(name="Role")


class RoleRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        return [
            Route("/essaim/cluster/standbys", self.hear, methods=["POST"]),
            Route("/essaim/cluster/standbys", self.list_standbys, methods=["GET"]),
            Route("/essaim/cluster/nodes/{node_id}/role", self.change, methods=["POST"]),
        ]

    async def hear(self, request: Request) -> Response:
        body = await read_body(request)
        try:
            announcement = msgspec.json.decode(body, type=Announcement)
        except UNDECODABLE as error:
            raise InvalidRequest(f"invalid request body: {error}") from error

        async def answer() -> Told:
            told = _roles(self._api).hear(announcement)
            await _roles(self._api).admit_expected(announcement)
            return told

        return await at_leader(self._api, request, "POST", request.scope["path"], body, answer)

    async def list_standbys(self, request: Request) -> Response:
        async def answer() -> tuple[Announcement, ...]:
            return _roles(self._api).standbys()

        return await at_leader(self._api, request, "GET", request.scope["path"], b"", answer)

    async def change(self, request: Request) -> Response:
        try:
            wanted = msgspec.json.decode(await read_body(request), type=_Role)
        except UNDECODABLE as error:
            raise InvalidRequest(f"invalid request body: {error}") from error
        node_id = NodeId(request.path_params["node_id"])
        return await _change(self._api, request, node_id, wanted.role)


async def change_role(api: Api, request: Request, node_id: NodeId, role: NodeRole) -> None:
    """Promote or demote a node, by whichever master leads. Raises what the leader answered."""
    answer = await _change(api, request, node_id, role)
    if answer.status_code >= HTTPStatus.BAD_REQUEST:
        raise LeaderRefused(_message(bytes(answer.body)), answer.status_code)


async def _change(api: Api, request: Request, node_id: NodeId, role: NodeRole) -> Response:
    async def act() -> None:
        if role == "manager":
            await _roles(api).promote(node_id)
        else:
            await _roles(api).demote(node_id)

    target = f"/essaim/cluster/nodes/{node_id}/role"
    return await at_leader(api, request, "POST", target, msgspec.json.encode(_Role(role)), act)


def _roles(api: Api) -> NodeRoles:
    if api.inside is None:
        raise NotSupported("this master runs alone in memory: it has no Raft log")
    return api.inside.roles


def _message(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=ErrorBody).message
    except UNDECODABLE:
        return "the leader refused it and did not say why: see its log"
