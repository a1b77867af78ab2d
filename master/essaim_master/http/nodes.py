"""`/nodes`: list, inspect, update (labels, availability, role), delete."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.authority.revocation import shut_out
from essaim_master.http.api import (
    GUARDED_ATTEMPTS_MAX,
    Api,
    encoded_response,
    flag_of,
    read_body,
    version_of,
)
from essaim_master.http.docker_objects import node_role
from essaim_master.http.encoded_objects import encode_list
from essaim_master.http.filters import NODE_FILTERS, decode_filters, node_matcher
from essaim_master.http.json_edge import decode_object, decode_spec, field_of
from essaim_master.http.lookup import find_node
from essaim_master.http.role_routes import change_role
from essaim_master.state.keys import node_key, node_status_key
from essaim_master.state.writes import Writes
from essaim_shared.errors import Conflict, InvalidRequest, VersionConflict
from essaim_shared.ids import NodeId
from essaim_shared.objects import NodeObject
from essaim_shared.spec import NodeSpec
from essaim_shared.trust.roles import Role


class NodeRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        return [
            Route("/nodes", self.list_all, methods=["GET"]),
            Route("/nodes/{reference}", self.inspect, methods=["GET"]),
            Route("/nodes/{reference}", self.delete, methods=["DELETE"]),
            Route("/nodes/{reference}/update", self.update, methods=["POST"]),
        ]

    async def list_all(self, request: Request) -> Response:
        matches = node_matcher(
            decode_filters(request.query_params.get("filters", ""), NODE_FILTERS)
        )
        await self._api.read_barrier(request)
        state = self._api.state
        managers = self._api.manager_statuses()
        encoded = []
        for node in state.nodes.values():
            status = state.node_status.get(node.id)
            manager = managers.get(node.id)
            description = None if status is None else status.description
            if matches(node, description, node_role(manager)):
                encoded.append(self._api.encoded.node(node, manager))
        return encoded_response(encode_list(encoded))

    async def inspect(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        node = find_node(self._api.state, request.path_params["reference"])
        manager = self._api.manager_statuses().get(node.id)
        return encoded_response(self._api.encoded.node(node, manager))

    async def update(self, request: Request) -> Response:
        version = version_of(request, "node")
        fields = decode_object(await read_body(request), "node spec")
        spec = decode_spec(fields, NodeSpec, "node spec")
        await self._api.catch_up()
        node = find_node(self._api.state, request.path_params["reference"])
        if self._api.state.modified(node_key(node.id)) != version:
            raise VersionConflict
        if "" in spec.labels:
            raise InvalidRequest("the name of a node's label cannot be empty")
        shown = node_role(self._api.manager_statuses().get(node.id))
        role = spec.role if field_of(fields, "Role") else shown
        rest = msgspec.structs.replace(spec, role=node.spec.role)
        # A promotion that is refused has changed nothing; and the master of a demoted node may
        # be this very one, which writes nothing any more afterwards.
        if role == "manager" != shown:
            await change_role(self._api, request, node.id, role)
        if rest != node.spec or role == shown:
            await self._write_spec(node, rest, version)
        if role == "worker" != shown:
            await change_role(self._api, request, node.id, role)
        return Response(status_code=200)

    async def _write_spec(self, node: NodeObject, spec: NodeSpec, version: int) -> None:
        """Raises VersionConflict when the node is no longer at that version."""
        writes = Writes()
        writes.expect(node_key(node.id), version)
        writes.put(
            msgspec.structs.replace(
                node, spec=spec, updated_ns=max(self._api.clock.wall_ns(), node.created_ns)
            )
        )
        if not await self._api.commit(writes):
            raise VersionConflict

    async def delete(self, request: Request) -> Response:
        reference = request.path_params["reference"]
        state = self._api.state
        for _ in range(GUARDED_ATTEMPTS_MAX):
            await self._api.catch_up()
            if await self._delete_unused_identity(NodeId(reference)):
                return Response(status_code=200)
            node = find_node(state, reference)
            if node.id in self._api.manager_statuses():
                raise InvalidRequest(
                    "rpc error: code = FailedPrecondition desc = "
                    f"node {node.id} is a cluster manager and is a member of the raft cluster. "
                    "It must be demoted to worker before removal"
                )
            status = state.node_status.get(node.id)
            if status is not None and status.state != "down" and not flag_of(request, "force"):
                raise InvalidRequest(
                    "rpc error: code = FailedPrecondition desc = "
                    f"node {node.id} is not down and can't be removed"
                )
            writes = Writes()
            for key in (node_key(node.id), node_status_key(node.id)):
                writes.expect(key, state.modified(key))
            writes.delete_node(node.id)
            shut_out(state, node.id, writes)
            if await self._api.commit(writes):
                return Response(status_code=200)
        raise Conflict(f"node {reference} is being changed by others: try again")

    async def _delete_unused_identity(self, node_id: NodeId) -> bool:
        """Of a machine that joined and never came as a node; False where there is none."""
        state = self._api.state
        if node_id in state.nodes or state.identity(Role.AGENT, node_id) is None:
            return False
        writes = Writes()
        writes.expect(node_key(node_id), 0)
        shut_out(state, node_id, writes)
        return await self._api.commit(writes)
