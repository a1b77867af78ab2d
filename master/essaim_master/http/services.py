"""`/services`: create, list, inspect, update, delete."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import (
    Api,
    encoded_response,
    flag_of,
    json_response,
    read_body,
    version_of,
)
from essaim_master.http.docker_objects import service_object
from essaim_master.http.encoded_objects import encode_list, endpoint_of
from essaim_master.http.filters import SERVICE_FILTERS, decode_filters, service_matcher
from essaim_master.http.lookup import find_service
from essaim_master.http.service_commits import ServiceCommits
from essaim_master.http.service_images import ServiceImages, image_request
from essaim_master.http.service_networks import lookup_in
from essaim_master.http.service_payloads import StatePayloads
from essaim_master.http.service_requests import (
    created_service,
    decode_service_spec,
    updated_service,
)
from essaim_master.state.keys import service_key
from essaim_master.state.payload_uses import staying_behind
from essaim_master.state.service_changes import swapped_service
from essaim_master.state.spec_defaults import with_defaults
from essaim_shared.errors import (
    InvalidRequest,
    NotSupported,
)
from essaim_shared.ids import ServiceId, new_id
from essaim_shared.objects import Service
from essaim_shared.random_name import random_name
from essaim_shared.spec import ServiceSpec


class ServiceRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._commits = ServiceCommits(api)
        self._images = ServiceImages(api)

    def routes(self) -> list[Route]:
        return [
            Route("/services", self.list_all, methods=["GET"]),
            Route("/services/create", self.create, methods=["POST"]),
            Route("/services/{reference}", self.inspect, methods=["GET"]),
            Route("/services/{reference}", self.delete, methods=["DELETE"]),
            Route("/services/{reference}/update", self.update, methods=["POST"]),
            Route("/services/{reference}/logs", self.logs, methods=["GET"]),
        ]

    async def list_all(self, request: Request) -> Response:
        matches = service_matcher(
            decode_filters(request.query_params.get("filters", ""), SERVICE_FILTERS)
        )
        await self._api.read_barrier(request)
        encoded = self._api.encoded
        encode = encoded.service_with_status if flag_of(request, "status") else encoded.service
        return encoded_response(
            encode_list(
                [encode(found) for found in self._api.seen.services.values() if matches(found)]
            )
        )

    async def inspect(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        service = find_service(self._api.seen, request.path_params["reference"])
        if not flag_of(request, "insertDefaults"):
            return encoded_response(self._api.encoded.service(service))
        state = self._api.state
        spec = with_defaults(service.spec)
        shown = service_object(
            service,
            state.modified(service_key(service.id)),
            spec,
            state.update_status.get(service.id),
            state.cron_status.get(service.id),
            endpoint_of(state, service, spec),
        )
        return json_response(shown)

    async def create(self, request: Request) -> Response:
        spec = decode_service_spec(await read_body(request))
        asked = image_request(request, is_new=True)
        spec, warnings = await self._images.pinned(asked, spec)
        service = await self._commits.create(
            lambda attempt: self._new_service(spec, attempt),
            bool(spec.name),
            lambda writes, made: self._images.write_credentials(asked, writes, made.id),
        )
        return json_response({"ID": service.id, "Warnings": warnings or None}, 201)

    async def update(self, request: Request) -> Response:
        version = version_of(request, "service")
        body = await read_body(request)
        rollback = request.query_params.get("rollback", "")
        if rollback not in ("", "none", "previous"):
            raise InvalidRequest(f"unrecognized rollback option {rollback}")
        spec = None if rollback == "previous" else decode_service_spec(body)
        service = await self._commits.at_version(request.path_params["reference"], version)
        asked, warnings = image_request(request, is_new=False), list[str]()
        if spec is not None:
            asked = asked.of_change(service.spec, spec)
            spec, warnings = await self._images.pinned(asked, spec, service.spec, service.id)

        def changed() -> Service:
            now_ns = self._api.clock.wall_ns()
            if spec is None:
                return staying_behind(self._api.state, swapped_service(service, now_ns))
            return updated_service(
                service, spec, now_ns, lookup_in(self._api.seen), self._payloads()
            )

        await self._commits.commit(
            service,
            version,
            changed,
            lambda writes: self._images.write_credentials(asked, writes, service.id),
            is_checked=spec is not None,
        )
        return json_response({"Warnings": warnings or None})

    async def delete(self, request: Request) -> Response:
        await self._commits.remove(await self._commits.find(request.path_params["reference"]))
        return Response(status_code=200)

    async def logs(self, request: Request) -> Response:
        raise NotSupported(
            "Essaim does not collect logs of services yet: use `docker logs` on the task's node"
        )

    def _new_service(self, spec: ServiceSpec, attempt: int) -> Service:
        if not spec.name:
            suffix = str(attempt) if attempt else ""
            name = random_name(self._api.rng) + suffix
            spec = msgspec.structs.replace(spec, name=name)
        service_id = ServiceId(new_id(self._api.rng))
        now_ns = self._api.clock.wall_ns()
        find = lookup_in(self._api.seen)
        return created_service(spec, service_id, now_ns, find, self._payloads())

    def _payloads(self) -> StatePayloads:
        return StatePayloads(self._api.state, seen=self._api.seen)
