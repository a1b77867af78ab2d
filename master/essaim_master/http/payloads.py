"""`/secrets` and `/configs`, Docker's, and what is Essaim's beside them.

POST /essaim/secrets/REF/data   {"Data": base64}: newer data, which services that follow roll to;
                                answers {"ID","DataVersion","Changed","Services"}, the last the
                                names of those that follow. The same data again changes nothing
GET  /essaim/node/secrets/ID/NUMBER   the bytes, for a node that has a task with them; for all
                                others 403, whether it exists or not
(the same of configs)
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, json_response, read_body, version_of
from essaim_master.http.caller import caller_of
from essaim_master.http.errors import NotPermitted
from essaim_master.http.filters import decode_filters
from essaim_master.http.json_edge import decode_object
from essaim_master.http.lookup import find_payload
from essaim_master.http.payload_commits import PayloadCommits
from essaim_master.http.payload_requests import wanted_change, wanted_data, wanted_payload
from essaim_master.http.payload_views import (
    PAYLOAD_FILTERS,
    payload_matcher,
    payload_object,
    with_config_data,
)
from essaim_master.state.keys import payload_key
from essaim_master.state.payload_data import config_data, data_numbers, secret_data
from essaim_master.state.payload_references import references_of, use_of
from essaim_master.state.payload_uses import may_read_payload, services_with
from essaim_shared.ids import NodeId, PayloadId
from essaim_shared.payload_objects import PAYLOAD_KINDS, Config, Payload, PayloadKind

Handler = Callable[[Request], Awaitable[Response]]

NUMBER_DIGITS_MAX = 18
"""Fits 64 bits."""


class PayloadRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._commits = PayloadCommits(api)

    def routes(self) -> list[Route]:
        return [route for kind in PAYLOAD_KINDS for route in self._routes_of(kind)]

    def _routes_of(self, kind: PayloadKind) -> list[Route]:
        def bound(handler: Callable[[PayloadKind, Request], Awaitable[Response]]) -> Handler:
            async def handle(request: Request) -> Response:
                return await handler(kind, request)

            return handle

        one = f"/{kind}s/{{reference}}"
        return [
            Route(f"/{kind}s", bound(self.list_all), methods=["GET"]),
            Route(f"/{kind}s/create", bound(self.create), methods=["POST"]),
            Route(one, bound(self.inspect), methods=["GET"]),
            Route(one, bound(self.delete), methods=["DELETE"]),
            Route(f"{one}/update", bound(self.update), methods=["POST"]),
            Route(f"/essaim{one}/data", bound(self.put_data), methods=["POST"]),
        ]

    async def list_all(self, kind: PayloadKind, request: Request) -> Response:
        matches = payload_matcher(
            decode_filters(request.query_params.get("filters", ""), PAYLOAD_FILTERS)
        )
        await self._api.read_barrier(request)
        state = self._api.state
        return json_response(
            [
                payload_object(payload, state.modified(payload_key(kind, payload.id)))
                for payload in self._api.seen.payloads(kind).values()
                if matches(payload)
            ]
        )

    async def inspect(self, kind: PayloadKind, request: Request) -> Response:
        await self._api.read_barrier(request)
        state = self._api.state
        payload = find_payload(self._api.seen, kind, request.path_params["reference"])
        version = state.modified(payload_key(kind, payload.id))
        shown = payload_object(payload, version, data_numbers(state, kind, payload.id))
        if isinstance(payload, Config):
            data = config_data(state, payload.id, payload.latest)
            if data is not None:
                shown = with_config_data(shown, data)
        return json_response(shown)

    async def create(self, kind: PayloadKind, request: Request) -> Response:
        fields = decode_object(await read_body(request), f"{kind} spec")
        wanted = wanted_payload(fields, kind)
        payload = await self._commits.create(wanted, self._commits.new_id())
        return json_response({"ID": payload.id}, 201)

    async def update(self, kind: PayloadKind, request: Request) -> Response:
        version = version_of(request, kind)
        wanted = wanted_change(decode_object(await read_body(request), f"{kind} spec"), kind)
        payload = await self._commits.find(kind, request.path_params["reference"])
        await self._commits.relabel(payload, wanted, version)
        return Response(status_code=200)

    async def put_data(self, kind: PayloadKind, request: Request) -> Response:
        data = wanted_data(decode_object(await read_body(request), f"{kind} data"), kind)
        payload = await self._commits.find(kind, request.path_params["reference"])
        await self._api.catch_up()
        before = find_payload(self._api.state, kind, payload.id)
        after = await self._commits.put_data(before, data)
        return json_response(
            {
                "ID": after.id,
                "DataVersion": after.latest,
                "Changed": after.latest != before.latest,
                "Services": self._followers(after),
            }
        )

    async def delete(self, kind: PayloadKind, request: Request) -> Response:
        await self._commits.remove(await self._commits.find(kind, request.path_params["reference"]))
        return Response(status_code=204)

    def _followers(self, payload: Payload) -> list[str]:
        seen = self._api.seen.services
        return sorted(
            service.spec.name
            for service in services_with(self._api.state, payload)
            if service.id in seen
            and any(
                use_of(reference)[:2] == (payload.kind, payload.id)
                and reference.is_pinned is not True
                for reference in references_of(service.spec.task.container)
            )
        )


class NodePayloadRoutes:
    """What agents fetch for their tasks."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> list[Route]:
        node = "/essaim/node"
        return [
            Route(f"{node}/secrets/{{id}}/{{number}}", self.secret, methods=["GET"]),
            Route(f"{node}/configs/{{id}}/{{number}}", self.config, methods=["GET"]),
        ]

    async def secret(self, request: Request) -> Response:
        payload_id, number = await self._permitted("secret", request)
        found = secret_data(self._api.state, payload_id, number)
        if found is None:
            raise _refused("secret")
        return _bytes_response(self._api.vault.open_secret(found))

    async def config(self, request: Request) -> Response:
        payload_id, number = await self._permitted("config", request)
        found = config_data(self._api.state, payload_id, number)
        if found is None:
            raise _refused("config")
        return _bytes_response(found.data)

    async def _permitted(self, kind: PayloadKind, request: Request) -> tuple[PayloadId, int]:
        """What the calling node asks for, if it may have it. Raises NotPermitted."""
        caller = caller_of(request)
        text = request.path_params["number"]
        is_number = text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX
        if caller.kind != "agent" or not is_number:
            raise _refused(kind)
        payload_id, number = PayloadId(request.path_params["id"]), int(text)
        await self._api.catch_up()
        if not may_read_payload(self._api.state, NodeId(caller.name), kind, payload_id, number):
            raise _refused(kind)
        return payload_id, number


def _refused(kind: PayloadKind) -> NotPermitted:
    """The same whatever the reason: a node does not learn what there is."""
    return NotPermitted(f"this {kind} is only for nodes that have a task with it")


def _bytes_response(data: bytes) -> Response:
    return Response(
        data, media_type="application/octet-stream", headers={"Cache-Control": "no-store"}
    )
