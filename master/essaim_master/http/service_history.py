"""`/essaim/services/…`: what Docker's API has no word for.

GET  /essaim/services/REF/history                 [{"Revision","CreatedAt","Spec","Current"}],
                                                  oldest first
GET  /essaim/services/REF/runs                    the runs of a job with a schedule, oldest first
POST /essaim/services/REF/rollback?version=V&to=N the spec of revision N at the present scale;
                                                  without `to` the previous spec, as in Swarm
POST /essaim/services/REF/promote?version=V       the update takes its next step

V is the service's Version.Index, as in Docker's own update. Changes answer {"Warnings": null}.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from essaim_master.http.api import Api, json_response, version_of
from essaim_master.http.docker_objects import cron_run_object, service_spec_object
from essaim_master.http.lookup import find_service
from essaim_master.http.service_commits import ServiceCommits
from essaim_master.state.payload_uses import staying_behind
from essaim_master.state.service_changes import (
    history_of,
    promoted_service,
    service_at_revision,
    swap_credentials,
    swapped_service,
)
from essaim_master.state.writes import Writes
from essaim_shared.clock import rfc3339
from essaim_shared.errors import InvalidRequest
from essaim_shared.objects import Service, UpdateStatus

REVISION_DIGITS_MAX = 18
"""Fits 64 bits."""


class ServiceHistoryRoutes:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._commits = ServiceCommits(api)

    def routes(self) -> list[Route]:
        service = "/essaim/services/{reference}"
        return [
            Route(service + "/history", self.history, methods=["GET"]),
            Route(service + "/runs", self.runs, methods=["GET"]),
            Route(service + "/rollback", self.roll_back, methods=["POST"]),
            Route(service + "/promote", self.promote, methods=["POST"]),
        ]

    async def history(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        service = find_service(self._api.seen, request.path_params["reference"])
        history = history_of(service, self._api.state.revisions_of(service.id))
        return json_response(
            [
                {
                    "Revision": revision.number,
                    "CreatedAt": rfc3339(revision.created_ns),
                    "Spec": service_spec_object(revision.spec),
                    "Current": revision.number == service.revision,
                }
                for revision in history.values()
            ]
        )

    async def runs(self, request: Request) -> Response:
        await self._api.read_barrier(request)
        state = self._api.state
        service = find_service(self._api.seen, request.path_params["reference"])
        status = state.cron_status.get(service.id)
        return json_response([cron_run_object(run) for run in (status.runs if status else ())])

    async def roll_back(self, request: Request) -> Response:
        version = version_of(request, "service")
        number = _revision_of(request)
        service = await self._commits.at_version(request.path_params["reference"], version)
        state = self._api.state

        def changed() -> Service:
            now_ns = self._api.clock.wall_ns()
            if number is None:
                return staying_behind(state, swapped_service(service, now_ns))
            revisions = state.revisions_of(service.id)
            return staying_behind(state, service_at_revision(service, revisions, number, now_ns))

        def swap(writes: Writes) -> None:
            if number is None:
                swap_credentials(writes, state.registry_credentials.get(service.id))

        await self._commits.commit(service, version, changed, swap)
        return json_response({"Warnings": None})

    async def promote(self, request: Request) -> Response:
        version = version_of(request, "service")
        service = await self._commits.at_version(request.path_params["reference"], version)
        # The status has another writer and another key, so a master may lag behind it alone.
        if not _is_waiting(service, self._api.state.update_status.get(service.id)):
            await self._api.catch_up()
        _check_waiting(service, self._api.state.update_status.get(service.id))
        now_ns = self._api.clock.wall_ns()
        await self._commits.commit(service, version, lambda: promoted_service(service, now_ns))
        return json_response({"Warnings": None})


def _revision_of(request: Request) -> int | None:
    text = request.query_params.get("to")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= REVISION_DIGITS_MAX):
        raise InvalidRequest(f"invalid revision '{text}': it is a number of the service's history")
    return int(text)


def _is_waiting(service: Service, status: UpdateStatus | None) -> bool:
    """`is_waiting` stays until the updater has seen a promotion; the count already knows it."""
    return (
        status is not None
        and status.generation == service.generation
        and status.is_waiting
        and status.step > service.promotions
    )


def _check_waiting(service: Service, status: UpdateStatus | None) -> None:
    """Raises InvalidRequest with what the update does instead of waiting for its promotion."""
    if _is_waiting(service, status):
        return
    name = service.spec.name
    if status is None or status.generation != service.generation:
        raise InvalidRequest(f"service {name} has no update that waits to be promoted")
    if status.state == "paused":
        raise InvalidRequest(
            f"the update of service {name} was paused by a failure, not by its steps: "
            f"{status.message}; update or roll back the service"
        )
    raise InvalidRequest(
        f"the update of service {name} does not wait to be promoted, it is {status.state}"
    )
